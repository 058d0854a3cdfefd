"""Grow a network that is too small, and compare splitting of its units with other growth, with more training, and with a large network.

    NASFRAME_DATA=... python docs/measurements/escape.py --results escape.jsonl --picture docs/pictures/escape.png

An MLP with 2 tanh units is trained on 9,000 images of Fashion-MNIST (fashion_mnist_12k.npz) until its loss hardly falls any more. Then its
units are doubled twice. All arms of a seed go on from the same network and optimiser, with the same batches, and all that grow have the
same sizes. The result of each arm is added to the file, and an arm that is in it already is not repeated, so that an interrupted
measurement goes on. The script prints a table in markdown; escape.md explains it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nasframe_splitting
import torch
from module_training import Data, images, score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import SGD, Adam, Optimizer

import nasframe
from nasframe import Seed
from nasframe.modules.change import ModuleChange
from nasframe.pictures.style import INK, blank, save, style

#: the updates before the first growth and between two of them, how often the validation loss is computed, and the size of a batch
START, STAGE, EVERY, BATCH = 4000, 1000, 25, 128
#: the number of hidden units at first and after each growth
WIDTHS = (2, 4, 8)
#: the number of training images on which units are measured
MEASURED = 2000
OPTIMISERS: Mapping[str, Callable[[nn.Module], Optimizer]] = {
    "Adam": lambda model: Adam(model.parameters(), lr=0.003),
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
}


class MLP(nn.Module):
    """A hidden layer of tanh units."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(196, units), nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of images, from whose pixels about their mean is subtracted."""
        return self.head(torch.tanh(self.hidden(x.flatten(1) - 0.3)))


def splitting(model: nn.Module, x: Tensor, y: Tensor, to: int, seed: int) -> ModuleChange:
    """Split all units in the direction of steepest descent."""
    assert isinstance(model, MLP)
    more = to - model.hidden.out_features
    return nasframe_splitting.split(model, x, lambda scores: cross_entropy(scores, y), units=more, seed=seed)


def random_directions(model: nn.Module, x: Tensor, y: Tensor, to: int, seed: int) -> ModuleChange:
    """Split the same units by the same step, in random directions."""
    return nasframe.grow(model, splitting(model, x, y, to, seed).morphism, "hidden", x, seed=seed)


def copies(model: nn.Module, x: Tensor, y: Tensor, to: int, seed: int) -> ModuleChange:
    """Copy units, which share their outgoing weights unevenly."""
    return nasframe.widen(model, "hidden", to=to, example=x, skew=0.2, seed=seed)


def random_units(model: nn.Module, x: Tensor, y: Tensor, to: int, seed: int) -> ModuleChange:
    """Add units with random incoming weights and outgoing weights of zero."""
    return nasframe.widen(model, "hidden", to=to, example=x, form="zero", seed=seed)


GROWTHS: Mapping[str, Callable[..., ModuleChange]] = {
    "splitting": splitting,
    "splitting, random directions": random_directions,
    "copies, skew 0.2": copies,
    "random units": random_units,
}
SCRATCH = {f"{units} units from scratch": units for units in WIDTHS[1:]}
ARMS = ("no growth", *GROWTHS, *SCRATCH)
COLOURS = dict(zip(ARMS, (INK, "#b4540a", "#e0a458", "#2f6fb0", "#3a8f5c", "#b8c0cc", "#8893a2"), strict=True))


@attrs.frozen
class Result:
    """What was measured of an arm.

    Attributes:
        optimiser: the name of the optimiser.
        seed: the seed.
        arm: the name of the arm.
        curve: the validation loss at every `EVERY` updates; from the first growth on, unless the arm is trained from scratch.
        alike: at the same updates, for the units of the later half the largest |cosine| of their incoming weights with those of another
            unit, in the mean.
        ends: after each stage the loss on 2,000 training images, the loss and the accuracy of the validation, and those of the test.
        parameters: the number of parameters at the end.
        splits: the step of each split, the predicted and the measured decrease of the loss.
    """

    optimiser: str
    seed: int
    arm: str
    curve: Sequence[float]
    alike: Sequence[float]
    ends: Sequence[Sequence[float]]
    parameters: int
    splits: Sequence[Sequence[float]] = ()


@attrs.frozen(eq=False)
class Curves:
    """What is measured while a model trains, see `Result`."""

    loss: list[float] = attrs.field(factory=list)
    alike: list[float] = attrs.field(factory=list)

    @torch.no_grad()
    def add(self, model: nn.Module, data: Data) -> None:
        """Measure the model as it is now."""
        self.loss.append(score(model, data.validation)[0])
        weight = normalize(model.get_parameter("hidden.weight"))
        cosines = (weight @ weight.mT).abs().fill_diagonal_(0)
        self.alike.append(float(cosines[len(weight) // 2 :].amax(1).mean()))


def train(model: nn.Module, optimiser: Optimizer, data: Data, seed: int, updates: Iterable[int], curves: Curves) -> None:
    """Train a model for the updates with these numbers."""
    for update in updates:
        if update % EVERY == 0:
            curves.add(model, data)
        x, y = data.batch(Seed((seed, "batch", update)))
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()


def measure(name: str, seed: int, missing: Sequence[str], data: Data, examples: tuple[Tensor, Tensor]) -> Iterable[Result]:
    """Yield the results of the arms of an optimiser and a seed."""

    def scores(model: nn.Module) -> list[float]:
        return [score(model, examples)[0], *score(model, data.validation), *score(model, data.test)]

    def built(units: int) -> tuple[nn.Module, Optimizer]:
        with Seed((seed, "model", units)).as_global():
            model = MLP(units)
        return model, OPTIMISERS[name](model)

    for arm, units in SCRATCH.items():
        if arm in missing:
            (model, optimiser), curves = built(units), Curves()
            train(model, optimiser, data, seed, range(START + STAGE * WIDTHS.index(units)), curves)
            yield Result(name, seed, arm, curves.loss, curves.alike, [scores(model)], parameters(model))
    if not {"no growth", *GROWTHS} & {*missing}:
        return
    small = built(WIDTHS[0])
    train(*small, data, seed, range(START), Curves())
    for arm in (arm for arm in ("no growth", *GROWTHS) if arm in missing):
        model, optimiser = copy.deepcopy(small)
        curves, ends, splits = Curves(), [scores(model)], []
        for stage, to in enumerate(WIDTHS[1:]):
            if arm in GROWTHS:
                change = GROWTHS[arm](model, *examples, to, seed)
                change.follow(optimiser)
                model = change.model
                if isinstance(change, nasframe_splitting.UnitSplit):
                    assert isinstance(change.morphism, nasframe_splitting.SplitUnits)
                    splits.append([change.morphism.eps, change.predicted, change.measured])
            start = START + stage * STAGE
            train(model, optimiser, data, seed, range(start, start + STAGE), curves)
            ends.append(scores(model))
        yield Result(name, seed, arm, curves.loss, curves.alike, ends, parameters(model), splits)


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean and its standard error."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values) / math.sqrt(len(values)):.{digits}f}"


def table(results: Sequence[Result]) -> str:
    """Return the table of an optimiser."""
    head = ["arm", "100 updates", "4 units", "8 units", "training loss", "test loss", "test accuracy, %", "parameters"]
    rows = [head, ["---"] * len(head)]
    for arm in ARMS:
        found = [r for r in results if r.arm == arm]
        if not found:
            continue
        last = [[r.ends[-1][i] for r in found] for i in range(5)]
        if arm in SCRATCH:
            column = WIDTHS[1:].index(SCRATCH[arm])
            validation = ["", *(spread(last[1]) if i == column else "" for i in range(2))]
        else:
            validation = [
                spread([r.curve[100 // EVERY] for r in found]),
                *(spread([r.ends[i][1] for r in found]) for i in (1, 2)),
            ]
        accuracy = spread([100 * a for a in last[4]], 1)
        rows.append([arm, *validation, spread(last[0]), spread(last[3]), accuracy, str(found[0].parameters)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def differences(results: Sequence[Result]) -> str:
    """Return the table of the validation losses of splitting minus those of the other growths, seed by seed."""
    rows = [["splitting minus", "100 updates", "4 units", "8 units"], ["---"] * 4]
    ours = {r.seed: r for r in results if r.arm == "splitting"}
    for arm in [*GROWTHS][1:]:
        pairs = [(ours[r.seed], r) for r in results if r.arm == arm and r.seed in ours]
        if pairs:
            after = [spread([a.curve[100 // EVERY] - b.curve[100 // EVERY] for a, b in pairs])]
            rows.append([arm, *after, *(spread([a.ends[i][1] - b.ends[i][1] for a, b in pairs]) for i in (1, 2))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escapes(results: Sequence[Result]) -> str:
    """Return after how many updates each arm is 0.05 below the validation loss before the first growth."""
    shown = []
    for arm in GROWTHS:
        counts = []
        for r in (r for r in results if r.arm == arm):
            below = (i for i, value in enumerate(r.curve) if value < r.ends[0][1] - 0.05)
            counts.append(EVERY * next(below, len(r.curve)))
        if counts:
            shown.append(f"{arm} {spread(counts, 0)}")
    return "; ".join(shown)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the mean validation loss of each arm."""
    with style():
        figure = blank(6.6, 3.0, layout="constrained")
        panels = figure.subplots(1, len(OPTIMISERS), sharey=True)
        for axes, name in zip(panels, OPTIMISERS, strict=True):
            for arm in ARMS:
                curves = [r.curve for r in results if (r.optimiser, r.arm) == (name, arm)]
                if curves:
                    start = 0 if arm in SCRATCH else START
                    mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
                    x = [start + EVERY * i for i in range(len(mean))]
                    shown = [(u, v) for u, v in zip(x, mean, strict=True) if u >= START - 500]
                    axes.plot(*zip(*shown, strict=True), color=COLOURS[arm], linewidth=1.1, label=arm)
            axes.set_title(name, fontsize=8)
            axes.set_xlabel("updates")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("validation loss")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1.4, handlelength=1.6)
        save(figure, path)


def main() -> None:
    """Measure what is missing in the file, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, which is created if there is none")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = images(os.environ["NASFRAME_DATA"], BATCH)
    parts = [data.batch(Seed(("examples", i))) for i in range(-(-MEASURED // BATCH))]
    x, y = (torch.cat(tensors)[:MEASURED] for tensors in zip(*parts, strict=True))
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    for name in OPTIMISERS:
        for seed in range(options.seeds):
            done = {r.arm for r in results if (r.optimiser, r.seed) == (name, seed)}
            for result in measure(name, seed, [arm for arm in ARMS if arm not in done], data, (x, y)):
                results.append(result)
                with options.results.open("a") as file:
                    file.write(json.dumps(attrs.asdict(result), allow_nan=False) + "\n")
    for name in OPTIMISERS:
        of: list[Any] = [r for r in results if r.optimiser == name]
        print(f"## {name}\n\n{table(of)}\n\n{differences(of)}\n\nUpdates until the loss is 0.05 lower: {escapes(of)}\n")
        for arm in GROWTHS:
            rows = [r.alike for r in of if r.arm == arm]
            shown = (f"{n} {spread([row[n // EVERY] for row in rows], 2)}" for n in (0, 100, 500, STAGE - EVERY) if rows)
            print(f"{arm}: largest cosine after updates {', '.join(shown)}")
        for r in of:
            if r.arm == "splitting":
                shown = (f"eps {eps:.3g} predicted {p:.2e} measured {m:.2e}" for eps, p, m in r.splits)
                print(f"seed {r.seed}: {'; '.join(shown)}")
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
