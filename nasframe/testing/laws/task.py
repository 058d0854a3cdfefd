"""The laws of tasks: tried on the data that they load, and on sources of which the test part is another."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Data, NasframeError, Scale, Seed, Split, Task
from nasframe.change.claim import tolerance
from nasframe.interfaces.part import to_plain
from nasframe.network.network import tensors
from nasframe.testing.assertions import demand, hold
from nasframe.testing.case import Case as AnyCase, same
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.subject import Subject

CPU = torch.device("cpu")
PARTS = ("train", "validation", "test")


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """A task, and the dtype in which its data are asked for."""

    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{super().__str__()} in {self.dtype}"

    @property
    def loaded(self) -> Data:
        """Its data."""
        return _loaded(self.part, self.dtype)

    def positions(self, split: Split) -> Tensor:
        """Of some examples, in any order, and one twice perhaps."""
        return torch.tensor(self.data.draw(st.lists(st.integers(0, split.size - 1), min_size=1, max_size=6)))

    def seed(self) -> Seed:
        """For what is drawn."""
        return Seed((self.data.draw(st.integers(0, 999)), "task"))


@functools.lru_cache(maxsize=16)
def _loaded(task: Task, dtype: torch.dtype) -> Data:
    return task.load(CPU, dtype)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The task in both dtypes."""
    assert subject.parts is not None
    dtypes = st.sampled_from([torch.float64, torch.float32])
    return st.builds(Case, subject=st.just(subject), part=subject.parts, data=st.data(), dtype=dtypes)


def splits(data: Data) -> dict[str, Split]:
    """The parts of the data that have examples."""
    return {name: getattr(data, name) for name in PARTS if getattr(data, name).size}


def whole(split: Split) -> tuple[Tensor, Tensor]:
    """All examples."""
    return split.batch(torch.arange(split.size))


def held(data: Data, *parts: str) -> dict[str, Any]:
    """All that the data hold of these parts, and what was measured on them."""
    examples = {f"the examples to {name}": whole(split) for name, split in splits(data).items() if name in parts}
    scales = {f"the scale of the {name}": tensors(scale) for name, scale in _scales(data).items()}
    return {"the sizes": dict(data.sizes), **examples, **scales}


def _scales(data: Data) -> dict[str, Scale]:
    return {name: scale for name in ("inputs", "outputs") if (scale := getattr(data, name)) is not None}


def references(data: Data, parameters: int, seed: Seed) -> dict[str, Any]:
    """The references of about that many parameters, built."""
    found = {}
    for name, make in data.references(parameters).items():
        with seed.as_global():
            found[name] = make()
    return found


def exercise(case: Case) -> dict[str, Any]:
    """All that is loaded, what is drawn from it, and what it is compared with."""
    data, seed = case.part.load(CPU, case.dtype), Seed(("exercise",))
    drawn = {}
    for name, split in splits(data).items():
        with seed.as_global():
            drawn[f"what is drawn to {name}"] = split.draw(torch.arange(min(split.size, 8)))
    built = {f"the reference {name}": dict(tensors(m)) for name, m in references(data, 30, seed).items()}
    return held(data, *PARTS) | drawn | built | {"what it is pinned to": to_plain(case.part.pinned())}


def outputs(case: Case, inputs: Tensor) -> Tensor:
    """Numbers that a network could make of the inputs: a reference's, moved a little."""
    made = next(iter(case.loaded.references(30).values()), None)
    if made is None:
        raise Inapplicable("it gives no references, by which one could tell what a network puts out")
    with torch.no_grad(), Seed(("outputs",)).as_global():
        found = made()(inputs)
        return found + 0.1 * torch.randn_like(found)


def example_axis(two: torch.Size, three: torch.Size) -> int:
    """On which axis of two shapes two examples and three are."""
    axes = [n for n, sides in enumerate(zip(two, three, strict=False)) if sides[0] != sides[1]]
    grown = [(two[n], three[n]) for n in axes] == [(2, 3)] and len(two) == len(three)
    demand("shape", grown, f"of two examples it makes {tuple(two)}, of three {tuple(three)}")
    return axes[0]


def axis(split: Split) -> int:
    """On which axis of the inputs the examples are."""
    two, three = (split.batch(torch.zeros(n, dtype=torch.long))[0].shape for n in (2, 3))
    return example_axis(two, three)


@law("task.sizes", "a size is a tensor or a float, or a part is left without examples")
def sizes(case: Case) -> None:
    """What a backbone must know are whole numbers of at least one; there is an example at least to train and to test on."""
    data = case.loaded
    for name, size in data.sizes.items():
        demand("sizes", type(size) is int and size >= 1, f"the size {name!r} is {size!r}")
    for name, least in zip(PARTS, (1, 0, 1), strict=True):
        size = getattr(data, name).size
        demand("sizes", type(size) is int and size >= least, f"the part {name!r} has {size!r} examples")


@law("task.shape", "the last batch is padded, an axis of length one is dropped, or a part is made by other code")
def shape(case: Case) -> None:
    """A batch has as many examples as positions, on the first axis of the targets and on one axis of the inputs; an example has
    the same shape in all parts.
    """
    found = {}
    for name, split in splits(case.loaded).items():
        at = axis(split)
        for count in (1, 2, 3):
            inputs, targets = split.batch(torch.zeros(count, dtype=torch.long))
            counts = inputs.shape[at : at + 1] + targets.shape[:1]
            demand("shape", counts == (count, count), f"{count} positions of {name} give {[*counts]} inputs and targets")
            found[name, count] = [*inputs.shape], [*targets.shape]
            demand("shape", found[name, count] == found["train", count], f"an example of {name} is not shaped as one of train")


@law("task.dtype", "what is not standardised, as the targets, keeps the dtype in which it was read")
def dtype(case: Case) -> None:
    """All numbers that are no whole numbers come in the dtype that is asked for, on the device that is asked for."""
    for name, split in splits(case.loaded).items():
        for what, tensor in zip(("inputs", "targets"), split.batch(case.positions(split)), strict=True):
            right = tensor.dtype == case.dtype or (what == "targets" and not tensor.dtype.is_floating_point)
            demand("dtype", right, f"the {what} of {name} are in {tensor.dtype}, not in {case.dtype}")
            demand("dtype", tensor.device == CPU, f"the {what} of {name} are on {tensor.device}, not on {CPU}")


@law("task.load", "examples are shuffled or split by a global generator, or listed as the file system does")
def load(case: Case) -> None:
    """A task loads the same to the bit each time, whatever was drawn before."""
    found = []
    for number in range(2):
        with Seed((number, "before")).as_global():
            found.append(held(case.part.load(CPU, case.dtype), *PARTS))
    different = [name for name in found[0] if not same(found[0][name], found[1][name])]
    demand("load", not different, f"after other numbers had been drawn, {', '.join(different)} came out differently")


@law("task.positions", "the examples are sorted, or counted from where the last batch ended")
def positions(case: Case) -> None:
    """An example is told by its position: it is the same to the bit alone and in any batch, in any order, and repeated."""
    for name, split in splits(case.loaded).items():
        chosen = case.positions(split)
        together, at = split.batch(chosen), axis(split)
        alone = [split.batch(position) for position in chosen.split(1)]
        inputs, targets = torch.cat([x for x, _ in alone], at), torch.cat([y for _, y in alone])
        told = f"of the examples {chosen.tolist()} of {name}"
        demand("positions", same((inputs, targets), tuple(together)), f"{told} some are others alone than in a batch")


@law("task.range", "positions are taken modulo the size, or clamped")
def range_(case: Case) -> None:
    """A position at which there is no example is an error, and never another example."""
    for name, split in splits(case.loaded).items():
        for position in (split.size, -split.size - 1):
            try:
                split.batch(torch.tensor([position]))
            except Exception:  # noqa: S112 - which one is the data's affair
                continue
            demand("range", False, f"{name} has {split.size} examples, and gives one at position {position}")


@law("task.draw", "an augmentation has a generator of its own, or that of the training part stands before the test part, too")
def draw(case: Case) -> None:
    """What is drawn has the shape and the dtype of a batch; torch's global generator, and nothing else, decides on it: the same
    seed draws the same, and others draw others, unless what is drawn is the batch itself. Of the test part it always is.
    """
    seed = case.seed()
    for name, split in splits(case.loaded).items():
        chosen = case.positions(split)
        plain, first, again, *others = split.batch(chosen), *(_drawn(split, chosen, seed(n)) for n in (0, 0, *range(1, 12)))
        for one, other in zip(first, plain, strict=True):
            demand("draw", (one.shape, one.dtype) == (other.shape, other.dtype), f"{name} draws {one.shape} for {other.shape}")
        demand("draw", same(first, again), f"{name} draws other examples under the same seed")
        changed = [d for d in (first, *others) if not same(d, tuple(plain))]
        demand("draw", name != "test" or not changed, "what is drawn of the test part is not what is there")
        demand("draw", not changed or any(not same(first, d) for d in others), f"{name} draws the same under every seed")


def _drawn(split: Split, positions: Tensor, seed: Seed) -> tuple[Tensor, ...]:
    with seed.as_global():
        return tuple(split.draw(positions))


@law("task.loss", "the loss is a sum, or the mean of something else than examples")
def loss(case: Case) -> None:
    """The loss is the mean over the examples: of a batch it is the mean of its parts', each by its size; and it has a gradient."""
    data = case.loaded
    for split in splits(data).values():
        inputs, targets = split.batch(case.positions(split))
        found = outputs(case, inputs).requires_grad_()
        at = _output_axis(case)
        total = data.loss(found, targets)
        demand("loss", total.shape == () and bool(total.isfinite()), f"it is {total}; it must be one finite number")
        parts = [data.loss(o, t) for o, t in zip(found.split(1, at), targets.split(1), strict=True)]
        mean = torch.stack(parts).mean()
        hold(
            "loss", "the distance from the mean of the examples' losses", float((total - mean).detach().abs()), tolerance(mean)
        )
        (slope,) = torch.autograd.grad(total, [found]) if total.requires_grad else (torch.zeros(1),)
        demand("loss", bool(slope.isfinite().all()) and bool((slope != 0).any()), "it has no finite gradient in the outputs")


def _output_axis(case: Case) -> int:
    """On which axis of a network's outputs the examples are."""
    two, three = (outputs(case, case.loaded.train.batch(torch.zeros(n, dtype=torch.long))[0]).shape for n in (2, 3))
    return example_axis(two, three)


@law("task.metrics", "`metrics` gives the same object twice, `score` is none of its names, or means of batches are averaged")
def metrics(case: Case) -> None:
    """Metrics are new each time; they are finite numbers, `score` is one of them, and they are the same in one batch as in several."""
    data = case.loaded
    inputs, targets = data.test.batch(case.positions(data.test))
    found, at = outputs(case, inputs), _output_axis(case)

    def measured(found: Tensor, size: int) -> dict[str, Tensor]:
        new = data.metrics()
        for o, t in zip(found.split(size, at), targets.split(size), strict=True):
            new.update(data.predict(o).contiguous(), t.contiguous())
        return dict(new.compute())

    first = measured(found, len(targets))
    measured(-found, len(targets))
    demand("metrics", data.score in first, f"`score` is {data.score!r}; there are {', '.join(first)}")
    for name, value in first.items():
        demand("metrics", value.numel() == 1 and bool(value.isfinite()), f"{name} is {value}; it must be one finite number")
    for size in (len(targets), 1, 2):
        for name, value in measured(found, size).items():
            apart = float((value - first[name]).abs())
            hold("metrics", f"the distance of {name}, asked anew in batches of {size}", apart, tolerance(first[name]))


@law("task.leaks", "windows overlap in their targets, or the parts are drawn independently of each other")
def leaks(case: Case) -> None:
    """No example of one part is in another. Where examples repeat themselves within the training part, one may be found elsewhere
    by chance, four times as often at most.
    """
    found = {name: Counter(_bytes(split)) for name, split in splits(case.loaded).items()}
    train = found["train"]
    repeated = sum(n for n in train.values() if n > 1) / train.total()
    for one, other in itertools.combinations(found, 2):
        share = sum(n for example, n in found[other].items() if example in found[one]) / found[other].total()
        hold("leaks", f"the share of the examples to {other} that are among those to {one}", share, 4 * repeated)


def _bytes(split: Split) -> Iterator[bytes]:
    at = axis(split)
    for inputs, targets in split.batches():
        for x, y in zip(inputs.movedim(at, 0), targets, strict=True):
            yield x.contiguous().numpy().tobytes() + y.contiguous().numpy().tobytes()


@law("task.test", "mean and deviation, the classes or the names are taken of all there is, before it is split")
def test(case: Case) -> None:
    """The test part has no part in anything else: with another one in the source, what trains and validates is the same to the bit,
    and so are sizes, scales and references.
    """
    with _sourced(case) as pair:
        one, other = (task.load(CPU, case.dtype) for task in pair)
    again, seed = held(other, "train", "validation"), Seed(("references",))
    demand("test", not same(whole(one.test), whole(other.test)), "its `sources` have the same test part, which shows nothing")
    different = [name for name, value in held(one, "train", "validation").items() if not same(value, again[name])]
    known, new = (references(data, 30, seed) for data in (one, other))
    different += [f"the reference {name}" for name in known if not same(dict(tensors(known[name])), dict(tensors(new[name])))]
    demand("test", not different, f"with another test part {', '.join(different)} came out differently")


@contextlib.contextmanager
def _sourced(case: Case) -> Iterator[tuple[Task, Task]]:
    """The tasks of the two sources, in a working directory that holds these alone."""
    if case.subject.sources is None:
        raise Inapplicable("nobody says how a source of it is written: see Examples.sources")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        one, other = (_of_class(case.subject.cls, task) for task in case.subject.sources(Path()))
        yield one, other


def _of_class(cls: Any, task: Task) -> Any:
    return cls(**{f.name: getattr(task, f.name) for f in attrs.fields(type(task))})  # type: ignore[arg-type]


@law("task.pinned", "an option, the absolute path or the digest is left out")
def pinned(case: Case) -> None:
    """A task that is pinned loads the same in any working directory, and is made again of its description; once its source has
    changed it is refused with a NasframeError.
    """
    fixed = case.part.pinned()
    description = json.loads(json.dumps(to_plain(fixed), allow_nan=False))
    known = fixed.name in case.subject.plugins.names(fixed.kind)
    demand("pinned", not known or case.subject.plugins.make("task", description) == fixed, f"{description} makes another task")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _loads("pinned", fixed.load(CPU, case.dtype), case.loaded)
    if case.subject.sources is None:
        return
    with _sourced(case) as (task, _):
        fixed, first = task.pinned(), task.load(CPU, case.dtype)
        with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
            _loads("pinned", fixed.load(CPU, case.dtype), first)
        _exchange(Path())
        try:
            fixed.load(CPU, case.dtype)
        except NasframeError:
            return
    demand("pinned", False, "once its source had changed, it was not refused")


def _loads(law: str, data: Data, first: Data) -> None:
    found, wanted = held(data, *PARTS), held(first, *PARTS)
    demand(law, same(found, wanted), "in another working directory it loads something else than the task that was pinned")


def _exchange(folder: Path) -> None:
    """Give every file the content of the next."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


@law("task.scales", "a scale divides by zero, or lacks an axis of length one")
def scales(case: Case) -> None:
    """Scaling raw inputs gives inputs of the network in the same shape, and `back` gives the raw inputs again. Raw outputs have the
    shape of the outputs; different outputs stay different.
    """
    data = case.loaded
    found = _scales(data)
    if not found:
        raise Inapplicable("it scales nothing")
    inputs, _ = data.train.batch(case.positions(data.train))
    raw = inputs.double()
    if data.inputs is not None:
        raw = raw * data.inputs.std + data.inputs.mean
        again = data.inputs(raw)
        demand("scales", again.shape == raw.shape == inputs.shape, f"inputs {tuple(inputs.shape)} become {tuple(raw.shape)}")
        allowed = tolerance(inputs) + tolerance(raw) / float(data.inputs.std.abs().min())
        hold("scales", "the distance of raw inputs, scaled, from the inputs", float((again - inputs).abs().max()), allowed)
        back = float((data.inputs.back(again, raw) - raw).abs().max())
        hold("scales", "the distance of inputs, scaled back, from the raw inputs", back, tolerance(raw))
    if data.outputs is not None:
        value = outputs(case, inputs)
        low, high = data.outputs.back(value, raw), data.outputs.back(value + 1, raw)
        demand("scales", low.shape == value.shape, f"outputs {tuple(value.shape)} become {tuple(low.shape)}")
        demand("scales", bool((low < high).all()), "outputs that differ by 1 do not differ once they are scaled back")


@law("task.references", "a reference is left in torch's default dtype, or its outputs are of another shape")
def references_(case: Case) -> None:
    """A reference can be built with any number of parameters, and used as the network is: of a batch's inputs it makes outputs in
    their dtype, of which the loss is a finite number, with a gradient if it is to be trained.
    """
    data = case.loaded
    inputs, targets = data.train.batch(case.positions(data.train))
    found = references(data, case.data.draw(st.sampled_from([30, 1, 300])), case.seed())
    if not found:
        raise Inapplicable("it gives no references")
    for name, module in found.items():
        made = module(inputs)
        demand("references", made.dtype == inputs.dtype, f"{name} puts out {made.dtype}, given {inputs.dtype}")
        value = data.loss(made, targets)
        demand("references", bool(value.isfinite()), f"the loss of {name} is {float(value.detach())}")
        trained = [p for p in module.parameters() if p.requires_grad]
        demand("references", not trained or value.requires_grad, f"{name} has parameters to train, and its loss no gradient")
