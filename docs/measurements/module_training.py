"""Grow models in the middle of their training with Adam, on real data, and compare what becomes of the optimiser.

    NASFRAME_DATA=... python docs/measurements/module_training.py --results module_training.jsonl --pictures docs/pictures

Three models in plain PyTorch are trained, grown and trained for as many updates again: a CNN and an MLP on 10,000 images of
Fashion-MNIST (fashion_mnist_12k.npz), and a GPT on the characters of tiny Shakespeare (tinyshakespeare.txt.gz). All arms of a seed go on
from the same trained model, with the same batches. The result of each arm is added to the file, and an arm that is in it already is not
repeated, so that an interrupted measurement goes on. The script prints tables in markdown; module_training.md explains them. GroMo is
measured next to the MLP if it is installed (pip install gromo==0.1.0).
"""

from __future__ import annotations

import argparse
import copy
import functools
import gzip
import importlib.util
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import Adam, Optimizer

import nasframe
from nasframe import Seed
from nasframe.change.map import Take
from nasframe.modules.change import ModuleChange
from nasframe.modules.coupling import couple
from nasframe.modules.example import Example
from nasframe.modules.verify import distances
from nasframe.pictures.style import INK, blank, save, style

Batch = tuple[Tensor, Tensor]

#: the updates after the growth before which the training loss is listed
SHOWN = (0, 1, 2, 5, 10, 20, 50, 100)
CONTEXT = 64
#: the updates over which the learning rate rises linearly, in the arms with a warm-up
WARM_UP = 50


class CNN(nn.Module):
    """Two convolutions with BatchNorm and a linear layer."""

    def __init__(self, first: int = 8, second: int = 16) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, first, 3, padding=1), nn.BatchNorm2d(first)
        self.conv2, self.norm2 = nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second)
        self.head = nn.Linear(9 * second, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of images."""
        h = F.max_pool2d(self.norm1(self.conv1(x)).relu(), 2)
        h = F.max_pool2d(self.norm2(self.conv2(h)).relu(), 2)
        return self.head(h.flatten(1))


class MLP(nn.Module):
    """Two hidden layers."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(196, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of images."""
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


class Attention(nn.Module):
    """Self-attention in which each position reads itself and the positions before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.n_head = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new states of shape (batch, time, width)."""
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new states of shape (batch, time, width)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class GPT(nn.Module):
    """A small GPT with tied weights, after nanoGPT."""

    def __init__(self, vocabulary: int, width: int = 48, heads: int = 4, layers: int = 2, hidden: int = 96) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight
        self.apply(normal)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the scores of the next characters."""
        x = self.wte(characters) + self.wpe(torch.arange(characters.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def normal(module: nn.Module) -> None:
    """Initialise a module as nanoGPT does: normal weights with the standard deviation 0.02, and zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def default(module: nn.Module) -> None:
    """Initialise a module as PyTorch does."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
        module.reset_parameters()


@attrs.frozen(eq=False)
class Data:
    """The examples of a task.

    Attributes:
        batch: returns a training batch, drawn from a seed.
        validation: the examples of the validation split.
        test: the examples of the test split, on which nothing is decided.
        classes: the number of classes, or of different characters.
    """

    batch: Callable[[Seed], Batch]
    validation: Batch
    test: Batch
    classes: int


def images(folder: str, size: int) -> Data:
    """Return the images of Fashion-MNIST: 9,000 for training, 1,000 for validation and 2,000 for the test.

    They are averaged to 14 x 14 pixels, so that an update takes a few milliseconds.

    Args:
        folder: the folder of the file; if empty, 200 random images are returned, and 50 for each other split.
        size: the number of examples of a batch.
    """
    if folder:
        with np.load(Path(folder) / "fashion_mnist_12k.npz") as arrays:
            given, held = (
                (
                    F.avg_pool2d(torch.from_numpy(arrays[f"x_{s}"])[:, None] / 255.0, 2),
                    torch.from_numpy(arrays[f"y_{s}"]).long(),
                )
                for s in ("train", "test")
            )
    else:
        generator = Seed(("images",)).generator()
        given, held = (
            (torch.rand(n, 1, 14, 14, generator=generator), torch.randint(10, (n,), generator=generator)) for n in (250, 50)
        )
    order, valid = torch.randperm(len(given[1]), generator=Seed(("split",)).generator()), 1000 if folder else 50
    train, validation = order[valid:], order[:valid]

    def batch(seed: Seed) -> Batch:
        chosen = train[torch.randint(len(train), (size,), generator=seed.generator())]
        return given[0][chosen], given[1][chosen]

    return Data(batch, (given[0][validation], given[1][validation]), held, 10)


def text(folder: str, size: int) -> Data:
    """Return tiny Shakespeare by characters: 80 % for training, and 10 % each for validation and test.

    The loss on the last two is computed on 300 pieces of 64 characters, evenly distributed.

    Args:
        folder: the folder of the file; if empty, 4,000 random characters are returned.
        size: the number of pieces of a batch.
    """
    if folder:
        with gzip.open(Path(folder) / "tinyshakespeare.txt.gz") as file:
            _, read = np.unique(np.frombuffer(file.read(), dtype=np.uint8), return_inverse=True)
        characters = torch.from_numpy(read).long()
    else:
        characters = torch.randint(20, (4000,), generator=Seed(("text",)).generator())
    ends = [0, int(0.8 * len(characters)), int(0.9 * len(characters)), len(characters)]
    train, *rest = (characters[a:b].unfold(0, CONTEXT + 1, 1) for a, b in itertools.pairwise(ends))

    def batch(seed: Seed) -> Batch:
        pieces = train[torch.randint(len(train), (size,), generator=seed.generator())]
        return pieces[:, :-1], pieces[:, 1:]

    validation, test = ((p[:, :-1], p[:, 1:]) for p in (r[:: math.ceil(len(r) / 300)] for r in rest))
    return Data(batch, validation, test, int(characters.max()) + 1)


@attrs.frozen
class Arm:
    """How training goes on after a growth.

    Attributes:
        moments: what becomes of the optimiser: a policy of `ModuleChange.follow`, or "rebuilt".
        warm_up: the number of updates over which the learning rate rises linearly.
        factor: the factor of the learning rate.
        outgoing: the factor of the learning rate of the outgoing weights of what was copied.
        noise: the standard deviation of normal noise that is added to each weight, as a share of that of its tensor.
    """

    moments: Any
    warm_up: int = 0
    factor: float = 1.0
    outgoing: float = 1.0
    noise: float = 0.0

    def rate(self, update: int) -> float:
        """Return the factor of the learning rate at an update, counted from 0."""
        return self.factor * min(1.0, (update + 1) / self.warm_up if self.warm_up else 1.0)

    def __str__(self) -> str:
        parts = {
            "warm-up": self.warm_up > 0,
            "half the rate": self.factor == 0.5,
            "half the rate for outgoing weights": self.outgoing == 0.5,
            f"noise {self.noise}": self.noise > 0,
        }
        return ", ".join([self.moments, *(part for part, holds in parts.items() if holds)])


#: a rebuilt optimiser is a reset one, bit for bit; this number of updates shows it
CHECKED = 20
CARRIED, ZEROED, RESET, REBUILT = map(Arm, ("carried", "zeroed", "reset", "rebuilt"))
CARRIED_WARM, RESET_WARM = Arm("carried", warm_up=WARM_UP), Arm("reset", warm_up=WARM_UP)
HALF, OUTGOING, NOISE = Arm("carried", factor=0.5), Arm("carried", outgoing=0.5), Arm("carried", noise=0.05)
ALL = (CARRIED, ZEROED, RESET, REBUILT, CARRIED_WARM, RESET_WARM, HALF)
#: the arms of the model that does not grow
NONE = (CARRIED, REBUILT, HALF)

Step = Callable[[nn.Module, Tensor], ModuleChange]


@attrs.frozen(eq=False)
class Growth:
    """A growth and what is compared after it.

    Attributes:
        steps: the changes of which it consists, each as a function of the model and an example.
        arms: the arms.
        scratch: whether a model of the grown shapes is trained from scratch; other growths may lead to the same shapes.
    """

    steps: Sequence[Step]
    arms: Sequence[Arm]
    scratch: bool = False


@attrs.frozen(eq=False)
class Task:
    """A model, its data and the changes by which it grows.

    Attributes:
        name: the name of the task.
        make: returns the small model for a number of classes.
        initialise: initialises a module anew, in place.
        load: returns the data in a folder, with batches of a size.
        size: the number of examples of a batch.
        rate: the learning rate.
        growths: the growths by name.
    """

    name: str
    make: Callable[[int], nn.Module]
    initialise: Callable[[nn.Module], None]
    load: Callable[[str, int], Data]
    size: int
    rate: float
    growths: Mapping[str, Growth]


def wider(sizes: Mapping[str, int], **options: Any) -> list[Step]:
    """Return the changes that widen layers to these sizes."""
    return [
        functools.partial(lambda model, x, at, to: nasframe.widen(model, at, to=to, example=x, **options), at=at, to=to)
        for at, to in sizes.items()
    ]


def deeper(at: str) -> list[Step]:
    """Return the change that adds a layer or a block after this one."""
    return [lambda model, x: nasframe.deepen(model, at, example=x)]


CHANNELS, HIDDEN, UNITS = {"conv1": 16, "conv2": 32}, {"blocks.0.up": 192, "blocks.1.up": 192}, {"first": 64, "second": 64}
TASKS = (
    Task(
        "CNN",
        lambda classes: CNN(),
        default,
        images,
        size=32,
        rate=3e-3,
        growths={
            "channels, skew 0.2": Growth(wider(CHANNELS, skew=0.2), (*ALL, OUTGOING), scratch=True),
            "channels, zero": Growth(wider(CHANNELS, form="zero"), ALL),
            "channels, equal shares": Growth(wider(CHANNELS), (CARRIED, OUTGOING)),
            "a convolution deeper": Growth(deeper("norm2"), ALL, scratch=True),
        },
    ),
    Task(
        "GPT",
        GPT,
        normal,
        text,
        size=8,
        rate=3e-3,
        growths={
            "MLPs, skew 0.2": Growth(
                wider(HIDDEN, skew=0.2), (CARRIED, ZEROED, RESET, REBUILT, RESET_WARM, HALF, OUTGOING), scratch=True
            ),
            "MLPs, zero": Growth(wider(HIDDEN, form="zero"), (CARRIED, RESET)),
            "model width": Growth(wider({"wte": 96}), (CARRIED, ZEROED, RESET, OUTGOING, NOISE), scratch=True),
            "a block deeper": Growth(deeper("blocks.1"), (CARRIED, ZEROED, RESET, CARRIED_WARM, HALF), scratch=True),
        },
    ),
    Task(
        "MLP",
        lambda classes: MLP(),
        default,
        images,
        size=32,
        rate=3e-3,
        growths={
            "units, skew 0.2": Growth(
                wider(UNITS, skew=0.2), (CARRIED, ZEROED, RESET, REBUILT, RESET_WARM, HALF, OUTGOING), scratch=True
            ),
            "units, zero": Growth(wider(UNITS, form="zero"), (CARRIED, RESET)),
        },
    ),
)


def numbers(values: Iterable[float]) -> tuple[float, ...]:
    """Return the values as a tuple: in JSON they are a list."""
    return tuple(values)


@attrs.frozen
class Result:
    """What was measured of an arm.

    Attributes:
        task: the name of the task.
        seed: the seed.
        growth: the name of the growth; "none" without.
        arm: the name of the arm.
        updates: the number of updates from the start.
        parameters: the number of parameters at the end.
        losses: the training loss at each update after the growth, before it is made.
        validation: loss and accuracy on the validation split at the end.
        test: loss and accuracy on the test split at the end.
        apart: how far copies are from their originals at the end, as root mean squares relative to that of the weights. None if nothing
            was copied.
    """

    task: str
    seed: int
    growth: str
    arm: str
    updates: int
    parameters: int
    losses: tuple[float, ...] = attrs.field(converter=numbers)
    validation: tuple[float, ...] = attrs.field(converter=numbers)
    test: tuple[float, ...] = attrs.field(converter=numbers)
    apart: float | None = None


@attrs.frozen
class Times:
    """The CPU time of a growth and of the updates before and after it, in seconds.

    Attributes:
        task: the name of the task.
        growth: the name of the growth.
        before: the median time of an update of the small model.
        after: the median time of an update of the grown model.
        change: the time of the whole growth.
        trace: the part of it in which the code of the model is traced.
        verify: the part of it in which the outputs are compared on the example.
    """

    task: str
    growth: str
    before: float
    after: float
    change: float
    trace: float
    verify: float


@attrs.frozen(eq=False)
class Records:
    """Results and times in a file of JSON lines, which is read again by the next run."""

    path: Path
    results: dict[tuple[str, int, str, str], Result] = attrs.field(factory=dict)
    times: dict[tuple[str, str], Times] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Records:
        """Return the records of a file, or none if there is no such file."""
        records = cls(path)
        for line in path.read_text().splitlines() if path.exists() else ():
            values = json.loads(line)
            records._note(Times(**values) if "trace" in values else Result(**values))
        return records

    def add(self, record: Result | Times) -> None:
        """Add a record to the file."""
        with self.path.open("a") as file:
            file.write(json.dumps(attrs.asdict(record), allow_nan=False) + "\n")
        self._note(record)

    def _note(self, record: Result | Times) -> None:
        if isinstance(record, Times):
            self.times[record.task, record.growth] = record
        else:
            self.results[record.task, record.seed, record.growth, record.arm] = record


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy of a batch."""
    return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def train(model: nn.Module, optimiser: Optimizer, task: Task, batches: Iterable[Batch], arm: Arm) -> list[float]:
    """Train a model and return the loss at each update."""
    losses = []
    model.train()
    for update, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = task.rate * arm.rate(update) * group.get("factor", 1.0)
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def score(model: nn.Module, examples: Batch) -> tuple[float, float]:
    """Return the mean loss and the accuracy in evaluation mode."""
    model.eval()
    scores = torch.cat([model(x) for x in examples[0].split(250)]).flatten(0, -2)
    targets = examples[1].flatten()
    return float(F.cross_entropy(scores, targets)), float((scores.argmax(1) == targets).double().mean())


def apart(changes: Sequence[ModuleChange], model: nn.Module) -> float | None:
    """Return how far copies of units are from their originals, relative to the weights; None if there are no copies."""
    difference, total = 0.0, 0.0
    tensors = dict(model.named_parameters())
    for name, entry in ((n, e) for change in changes for n, e in change.map.items() if n in tensors):
        # where copies have different factors they differ from the start
        if not isinstance(entry, Take) or isinstance(entry.value, Tensor):
            continue
        for axis, index in enumerate(entry.index):
            if index is None or len(index) == len(index.unique()) or bool((index < 0).any()):
                continue
            weight = tensors[name].detach().double()
            first = torch.tensor([index.tolist().index(unit) for unit in index.tolist()])
            difference += float((weight - weight.index_select(axis, first)).square().sum())
            total += float(weight.square().sum())
    return math.sqrt(difference / total) if total else None


def outgoing(changes: Sequence[ModuleChange]) -> list[nn.Parameter]:
    """Return the parameters of the grown model that are divided among copies: their entries of a map have another factor than 1."""
    divided = {
        name
        for change in changes
        for name, entry in change.map.items()
        if isinstance(entry, Take) and (isinstance(entry.value, Tensor) or entry.value != 1)
    }
    return [p for name, p in changes[-1].model.named_parameters() if name in divided]


def slow_down(optimiser: Optimizer, parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Move parameters from the only group of an optimiser to a new one, whose learning rate `train` multiplies by a factor."""
    (group,) = optimiser.param_groups
    group["params"] = [p for p in group["params"] if not any(p is q for q in parameters)]
    optimiser.add_param_group({"params": parameters, "factor": factor})


def arms_of(task: Task, growth: str) -> list[str]:
    """Return the names of the arms of a growth."""
    if growth == "none":
        return [*map(str, NONE)]
    if growth == "GroMo":
        return [*GROMO] if task.name == "MLP" else []
    scratch = [f"from scratch{by}" for by in BUDGETS if task.growths[growth].scratch]
    return [*map(str, task.growths[growth].arms), *scratch]


@attrs.frozen(eq=False)
class Runner:
    """The arms of a task and a seed.

    Attributes:
        task: the task.
        data: its data.
        seed: the seed.
        steps: the number of updates before and after the growth.
        records: where results are written.
    """

    task: Task
    data: Data
    seed: int
    steps: int
    records: Records

    def batches(self, start: int, end: int) -> Iterator[Batch]:
        """Yield the batches of these updates, which are the same in all arms."""
        return (self.data.batch(Seed((self.seed, "batch", update))) for update in range(start, end))

    def run(self) -> None:
        """Train the small model, and measure all arms that are not in the file."""
        if not any(self._missing(growth) for growth in ("none", *self.task.growths, "GroMo")):
            return
        with Seed((self.seed, "model")).as_global():
            small = self.task.make(self.data.classes)
        trained, optimiser = small, Adam(small.parameters(), lr=self.task.rate)
        train(trained, optimiser, self.task, self.batches(0, self.steps), CARRIED)
        for arm in (arm for arm in NONE if str(arm) in self._missing("none")):
            model, its = copy.deepcopy((trained, optimiser))
            its = Adam(model.parameters(), lr=self.task.rate) if arm.moments == "rebuilt" else its
            self._go_on(model, its, "none", arm)
        for name, growth in self.task.growths.items():
            if not self._missing(name):
                continue
            changes = self._grown(trained, growth.steps, name)
            for arm in growth.arms:
                if str(arm) in self._missing(name):
                    self._arm(changes, optimiser, name, arm)
            if growth.scratch:
                self._from_scratch(changes[-1].model, name)
        for name in self._missing("GroMo"):
            start = time.process_time()
            model = gromo_grown(trained, self.data, self.seed, name)
            change = time.process_time() - start
            if (self.task.name, f"GroMo, {name}") not in self.records.times:
                before, after = map(self._update_time, (trained, model))
                self.records.add(Times(self.task.name, f"GroMo, {name}", before, after, change, 0.0, 0.0))
            self._go_on(model, Adam(model.parameters(), lr=self.task.rate), "GroMo", REBUILT, name)

    def _missing(self, growth: str) -> list[str]:
        """Return the names of the arms of a growth whose results are not in the file."""
        names = arms_of(self.task, growth) if growth != "GroMo" or importlib.util.find_spec("gromo") else []
        return [name for name in names if (self.task.name, self.seed, growth, name) not in self.records.results]

    def _grown(self, model: nn.Module, steps: Sequence[Step], growth: str) -> list[ModuleChange]:
        """Return the changes of a growth, and write down how long they took."""
        x = self.data.batch(Seed((self.seed, "example")))[0][:8]
        changes: list[ModuleChange] = []
        timed = (self.task.name, growth) not in self.records.times
        if timed:
            couple(model, x)  # the first time in a process takes longer, because of imports
        change, trace, verify = 0.0, 0.0, 0.0
        for step in steps:
            start, parent = time.process_time(), model
            changes.append(step(parent, x))
            change += time.process_time() - start
            model = changes[-1].model
            if timed:
                start = time.process_time()
                couple(parent, x)
                middle = time.process_time()
                distances(parent, model, Example.of(x), changes[-1].claim)
                trace, verify = trace + middle - start, verify + time.process_time() - middle
        if timed:
            before, after = (self._update_time(m) for m in (changes[0].parent, model))
            self.records.add(Times(self.task.name, growth, before, after, change, trace, verify))
        return changes

    def _update_time(self, model: nn.Module) -> float:
        model = copy.deepcopy(model)
        optimiser, times = Adam(model.parameters(), lr=1e-5), []
        for batch in self.batches(0, min(30, self.steps)):
            start = time.process_time()
            train(model, optimiser, self.task, [batch], CARRIED)
            times.append(time.process_time() - start)
        return statistics.median(times)

    def _arm(self, changes: list[ModuleChange], optimiser: Optimizer, growth: str, arm: Arm) -> None:
        # together, so that the copy of the optimiser refers to the parameters of the copied parent
        changes, optimiser = copy.deepcopy((changes, optimiser))
        model = changes[-1].model
        if arm.moments == "rebuilt":
            optimiser = Adam(model.parameters(), lr=self.task.rate)
        else:
            for change in changes:
                change.follow(optimiser, arm.moments)
        if arm.outgoing != 1:
            slow_down(optimiser, outgoing(changes), arm.outgoing)
        generator = Seed((self.seed, "noise")).generator()
        with torch.no_grad():
            for p in (p for p in model.parameters() if arm.noise and p.dim() > 1):
                p.add_(arm.noise * p.std() * torch.randn(p.shape, generator=generator))
        self._go_on(model, optimiser, growth, arm, changes=changes)

    def _go_on(
        self,
        model: nn.Module,
        optimiser: Optimizer,
        growth: str,
        arm: Arm,
        name: str = "",
        changes: Sequence[ModuleChange] = (),
    ) -> None:
        """Train for the second half, and write down the result."""
        brief = arm.moments == "rebuilt" and changes
        end = self.steps + (min(CHECKED, self.steps) if brief else self.steps)
        losses = train(model, optimiser, self.task, self.batches(self.steps, end), arm)
        self._record(model, growth, name or str(arm), end, losses, apart(changes, model))

    def _from_scratch(self, grown: nn.Module, growth: str) -> None:
        """Train a model of the grown shapes from a new initialisation, and write down the results at each budget."""
        with Seed((self.seed, "scratch")).as_global():
            model = copy.deepcopy(grown).apply(self.task.initialise)
        optimiser, done = Adam(model.parameters(), lr=self.task.rate), 0
        ends = {by: budget(self.records.times[self.task.name, growth], self.steps) for by, budget in BUDGETS.items()}
        for by, end in sorted(ends.items(), key=lambda item: item[1]):
            train(model, optimiser, self.task, self.batches(done, end), CARRIED)
            done = end
            if f"from scratch{by}" in self._missing(growth):
                self._record(model, growth, f"from scratch{by}", end, (), None)

    def _record(
        self, model: nn.Module, growth: str, arm: str, updates: int, losses: Sequence[float], apart: float | None
    ) -> None:
        validation, test = score(model, self.data.validation), score(model, self.data.test)
        parameters = sum(p.numel() for p in model.parameters())
        self.records.add(Result(self.task.name, self.seed, growth, arm, updates, parameters, losses, validation, test, apart))


#: the number of updates that a model from scratch gets, by what is equal: n updates of the small model, the growth, and n updates of the
#: grown one take as long as n + (n before + change) / after updates of the grown one
BUDGETS: Mapping[str, Callable[[Times, int], int]] = {
    ", equal updates": lambda times, n: 2 * n,
    ", equal time of updates": lambda times, n: n + round(n * times.before / times.after),
    ", equal time with the growth": lambda times, n: n + round((n * times.before + times.change) / times.after),
}

GROMO: Mapping[str, Mapping[str, Any]] = {
    "optimal updates, line search": {},
    "the same, new neurons only": {"compute_delta": False},
    "drawn extension": {},
    "drawn in pairs, noise_ratio=0": {"neuron_pairing": "vv_z_negz", "noise_ratio": 0.0},
}


def gromo_grown(trained: nn.Module, data: Data, seed: int, name: str) -> nn.Module:
    """Return a model of GroMo's layers with the weights of a trained MLP, grown to 64 units in both hidden layers."""
    from gromo.containers.growing_mlp import GrowingMLP
    from gromo.utils.training_utils import compute_statistics, evaluate_model

    model = GrowingMLP(196, 10, 32, 2, activation=nn.ReLU(), device=torch.device("cpu"))
    for parameter, given in zip(model.parameters(), trained.parameters(), strict=True):
        parameter.data.copy_(given)
    batches = [data.batch(Seed((seed, "statistics", i))) for i in range(32)]
    for index in range(2):
        with Seed((seed, name, index)).as_global():
            if "drawn" in name:
                layer = model.layers[index + 1]
                layer.create_layer_extensions(32, **GROMO[name])
                layer.apply_change(scaling_factor=1.0, extension_size=32)
                layer.delete_update()
                continue
            model.set_growing_layers(index=index)
            compute_statistics(model, batches, loss_function=nn.CrossEntropyLoss(reduction="sum"))
            model.compute_optimal_updates(maximum_added_neurons=32, **GROMO[name])
            model.reset_computation()
            model.dummy_select_update()
            losses = {}
            for factor in (0.0, 0.1, 0.5, 1.0):
                model.set_scaling_factor(factor)
                losses[factor], _ = evaluate_model(model, batches, nn.CrossEntropyLoss(), use_extended_model=True)
            model.set_scaling_factor(min(losses, key=losses.__getitem__))
            model.apply_change()
    return model


def mean_and_error(values: Sequence[float], form: str) -> str:
    """Return the mean and its standard error as text."""
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):{form.lstrip('+')}}"


def groups_of(records: Records, task: Task) -> Iterator[tuple[str, str, list[Result]]]:
    """Yield for each growth and arm of a task the results of all seeds."""
    for growth in ("none", *task.growths, "GroMo"):
        for arm in arms_of(task, growth):
            found = [r for r in records.results.values() if (r.task, r.growth, r.arm) == (task.name, growth, arm)]
            if found:
                yield growth, arm, sorted(found, key=lambda r: r.seed)


def differences(records: Records, results: Sequence[Result]) -> list[list[float]]:
    """Return for each seed the training loss at each update minus that of the model that did not grow, on the same batches."""
    kept = (records.results[r.task, r.seed, "none", "carried"].losses for r in results)
    return [[a - b for a, b in zip(r.losses, losses, strict=False)] for r, losses in zip(results, kept, strict=True)]


def report(records: Records, task: Task) -> Iterator[str]:
    """Yield the lines of the tables of a task."""
    some = next(iter(r for r in records.results.values() if r.task == task.name and r.losses))
    shown = [step for step in SHOWN if step < len(some.losses)]
    spans = [(1, 20), (21, 100), (101, 299)]
    yield f"\n### {task.name}: training loss after the growth, minus that without growth\n"
    yield "| growth | optimiser | " + " | ".join([*map(str, shown), *(f"mean {a} to {b}" for a, b in spans)]) + " |"
    yield "| --- | --- |" + " --- |" * (len(shown) + len(spans))
    for growth, arm, results in groups_of(records, task):
        if not results[0].losses or (growth, arm) == ("none", "carried"):
            continue
        found = differences(records, results)
        cells = [mean_and_error([d[k] for d in found], "+.3f") if k < len(found[0]) else "" for k in shown]
        cells += [
            mean_and_error([statistics.mean(d[a : b + 1]) for d in found], "+.3f") if b < len(found[0]) else ""
            for a, b in spans
        ]
        yield f"| {growth} | {arm} | " + " | ".join(cells) + " |"
    yield f"\n### {task.name}: at the end\n"
    yield "| growth | optimiser | updates | parameters | validation loss | minus no growth | test loss | test accuracy | copies apart |"
    yield "| --- |" + " --- |" * 8
    for growth, arm, results in groups_of(records, task):
        if arm == "rebuilt" and growth != "none":
            continue
        kept = [records.results[task.name, r.seed, "none", "carried"].validation[0] for r in results]
        parted = [r.apart for r in results if r.apart is not None]
        cells = [
            f"{results[0].updates}",
            f"{results[0].parameters:,}",
            mean_and_error([r.validation[0] for r in results], ".4f"),
            mean_and_error([r.validation[0] - k for r, k in zip(results, kept, strict=True)], "+.4f"),
            mean_and_error([r.test[0] for r in results], ".4f"),
            mean_and_error([100 * r.test[1] for r in results], ".2f"),
            f"{statistics.mean(parted):.1e}" if parted else "",
        ]
        yield f"| {growth} | {arm} | " + " | ".join(cells) + " |"
    yield f"\n### {task.name}: CPU time\n"
    heads = ["growth", "update before, ms", "update after, ms", "growth, s", "tracing, s", "verifying, s", "growth in updates"]
    yield f"| {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * 6
    for t in (t for t in records.times.values() if t.task == task.name):
        cells = [f"{1000 * t.before:.1f}", f"{1000 * t.after:.1f}", *(f"{s:.2f}" for s in (t.change, t.trace, t.verify))]
        yield f"| {t.growth} | " + " | ".join([*cells, f"{t.change / t.after:.0f}"]) + " |"
    resets = [
        records.results[r.task, r.seed, r.growth, "reset"].losses[: len(r.losses)] == r.losses
        for r in records.results.values()
        if r.task == task.name and r.arm == "rebuilt" and r.growth != "none"
    ]
    yield f"\nA reset optimiser and a rebuilt one had the same losses, bit for bit, in {sum(resets)} of {len(resets)} runs."


def rates(task: Task, data: Data, updates: int) -> Iterator[str]:
    """Yield the validation loss of the small model and of the first grown shape from scratch, at three learning rates."""
    seed = Seed(("rates",))
    with seed.as_global():
        small = task.make(data.classes)
        grown = small
        for step in next(iter(task.growths.values())).steps:
            grown = step(grown, data.batch(seed)[0][:8]).model
        grown = copy.deepcopy(grown).apply(task.initialise)
    for rate in (1e-3, 3e-3, 1e-2):
        losses = []
        for model in copy.deepcopy((small, grown)):
            batches = (data.batch(seed("batch", update)) for update in range(updates))
            train(model, Adam(model.parameters()), attrs.evolve(task, rate=rate), batches, CARRIED)
            losses.append(f"{score(model, data.validation)[0]:.4f}")
        yield f"| {task.name} | {rate} | {' | '.join(losses)} |"


#: the arms in the pictures, with their colours
DRAWN = {
    "carried": "#143d6b",
    "zeroed": "#2a7f3f",
    "reset": "#b4540a",
    "carried, warm-up": "#86a5c6",
    "carried, half the rate": "#8f5fa8",
    "carried, half the rate for outgoing weights": "#c2528b",
}


def draw(records: Records, task: Task, path: Path) -> None:
    """Draw the difference of the training loss to the model that did not grow, averaged over seeds and five updates."""
    growths = [*task.growths]
    with style():
        figure = blank(2.0 * len(growths) + 0.4, 2.6, layout="constrained")
        panels = figure.subplots(1, len(growths), sharey=True, squeeze=False)[0]
        for axes, growth in zip(panels, growths, strict=True):
            for name, found, results in groups_of(records, task):
                if name != growth or found not in DRAWN:
                    continue
                rows = np.array(differences(records, results))[:, :101]
                width = min(5, rows.shape[1])
                rows = np.stack([np.convolve(row, np.ones(width) / width, mode="valid") for row in rows])
                mean, x = rows.mean(0), np.arange(rows.shape[1]) + (width - 1) / 2
                axes.plot(x, mean, color=DRAWN[found], linewidth=1.1, label=found)
                if len(rows) > 1:
                    error = rows.std(0, ddof=1) / math.sqrt(len(rows))
                    axes.fill_between(x, mean - error, mean + error, color=DRAWN[found], alpha=0.15, linewidth=0)
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(growth, fontsize=8)
            axes.set_xlabel("updates after the growth")
        panels[0].set_ylabel("training loss minus no growth")
        lines = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        legend = [(lines[name], name) for name in DRAWN if name in lines]
        figure.legend(*zip(*legend, strict=True), loc="outside lower center", ncols=3, columnspacing=1.4, handlelength=1.6)
        save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing in the file, print the tables and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, which is created if there is none")
    parser.add_argument("--pictures", type=Path, help="the folder of the pictures")
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="six updates on random data, to try the script")
    parser.add_argument("--rates", action="store_true", help="compare learning rates, by the validation loss, and nothing else")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    records = Records.read(options.results)
    tasks = [task for task in TASKS if task.name in options.tasks]
    folder, updates = ("", 6) if options.quick else (os.environ["NASFRAME_DATA"], 300)
    if options.rates:
        for task in tasks:
            for row in rates(task, task.load(folder, task.size), 2 * updates):
                print(row, flush=True)
        return
    for seed in range(1 if options.quick else options.seeds):
        for task in tasks:
            start = time.process_time()
            Runner(task, task.load(folder, task.size), seed, updates, records).run()
            print(f"{task.name}, seed {seed}: {time.process_time() - start:.0f} s", file=sys.stderr, flush=True)
    for task in tasks:
        print("\n".join(report(records, task)))
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            draw(records, task, options.pictures / f"growth-in-training-{task.name}.png")


if __name__ == "__main__":
    main()
