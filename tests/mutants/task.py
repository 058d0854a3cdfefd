"""Tasks with one fault each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from mutants.system import mutant, overriding
from nasframe import Data, Split
from nasframe.network.model import Scale
from nasframe.testing.subject import Subject

FORECASTING = ("task", "forecasting")
IMAGES = ("task", "images")
Batch = tuple[Tensor, Tensor]


def loading(of: Subject, change: Callable[[Data], dict[str, Any]]) -> Subject:
    """Return the task whose data differ in some attributes."""

    def load(self: Any, device: torch.device, dtype: torch.dtype) -> Data:
        data: Data = of.cls.load(self, device, dtype)  # type: ignore[attr-defined]
        return attrs.evolve(data, **change(data))

    return overriding(of, load=load)


def batching(of: Subject, change: Callable[[Split, Tensor], Batch], *parts: str) -> Subject:
    """Return the task whose splits, or the named ones, return `change(split, positions)`."""

    def spoilt(split: Split) -> Split:
        return Split(split.size, functools.partial(change, split))

    return loading(of, lambda data: {part: spoilt(getattr(data, part)) for part in parts or ("train", "validation", "test")})


def drawing(of: Subject, part: str, generator: Callable[[], torch.Generator | None]) -> Subject:
    """Return the task whose noise is drawn from the generators that `generator` returns."""

    def spoilt(split: Split) -> Split:
        def draw(positions: Tensor) -> Batch:
            inputs, targets = split.batch(positions)
            return inputs + torch.randn(inputs.shape, generator=generator(), dtype=inputs.dtype), targets

        return attrs.evolve(split, draw=draw)

    return loading(of, lambda data: {part: spoilt(getattr(data, part))})


@mutant("task.sizes", *FORECASTING)
def tensors(of: Subject) -> Subject:
    """Its sizes are tensors and not whole numbers."""
    return loading(of, lambda data: {"sizes": {name: torch.tensor(size) for name, size in data.sizes.items()}})


@mutant("task.shape", *IMAGES)
def enlarged(of: Subject) -> Subject:
    """The images to test on are not resized as the others are."""

    def change(split: Split, positions: Tensor) -> Batch:
        inputs, targets = split.batch(positions)
        return inputs.repeat_interleave(2, -1), targets

    return batching(of, change, "test")


@mutant("task.dtype", *FORECASTING)
def untouched(of: Subject) -> Subject:
    """Its targets are in float64, whatever dtype was requested."""

    def change(split: Split, positions: Tensor) -> Batch:
        inputs, targets = split.batch(positions)
        return inputs, targets.double()

    return batching(of, change)


@mutant("task.load", *FORECASTING)
def shuffled(of: Subject) -> Subject:
    """It shuffles the training part by the global generator, which it gives back."""

    def change(data: Data) -> dict[str, Any]:
        with torch.random.fork_rng():
            order = torch.randperm(data.train.size)
        return {"train": Split(data.train.size, lambda positions: data.train.batch(order[positions]))}

    return loading(of, change)


@mutant("task.positions", *FORECASTING)
def ascending(of: Subject) -> Subject:
    """It gives the examples in the order of their positions."""
    return batching(of, lambda split, positions: split.batch(positions.sort()[0]))


@mutant("task.range", *FORECASTING)
def around(of: Subject) -> Subject:
    """Behind the last example it starts again at the first."""
    return batching(of, lambda split, positions: split.batch(positions % split.size))


@mutant("task.draw", *FORECASTING)
def blurred(of: Subject) -> Subject:
    """It draws the examples of the test split with augmentation, too."""
    return drawing(of, "test", lambda: None)


@mutant("task.draw", *IMAGES)
def frozen(of: Subject) -> Subject:
    """It augments with a generator that starts again at each batch."""
    return drawing(of, "train", lambda: torch.Generator().manual_seed(0))


@mutant("task.draw", *IMAGES)
def independent(of: Subject) -> Subject:
    """It augments with another generator, which continues from batch to batch."""
    return overriding(of, load=lambda self, *how: _independent(of.cls.load(self, *how)))  # type: ignore[attr-defined]


def _independent(data: Data) -> Data:
    generator = torch.Generator().manual_seed(0)

    def draw(positions: Tensor) -> Batch:
        inputs, targets = data.train.batch(positions)
        return inputs + torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype), targets

    return attrs.evolve(data, train=attrs.evolve(data.train, draw=draw))


@mutant("task.loss", *FORECASTING)
def summed(of: Subject) -> Subject:
    """Its loss is a sum over the batch."""
    return loading(of, lambda data: {"loss": lambda outputs, targets: data.loss(outputs, targets) * len(targets)})


@mutant("task.loss", *IMAGES)
def detached(of: Subject) -> Subject:
    """Its loss is detached from the outputs, so that it has no gradient."""
    return loading(of, lambda data: {"loss": lambda outputs, targets: data.loss(outputs.detach(), targets)})


@mutant("task.losses", *FORECASTING)
def totals(of: Subject) -> Subject:
    """Its losses are sums over the columns."""
    return loading(of, lambda data: {"losses": lambda outputs, targets: data.losses(outputs, targets) * targets.shape[-1]})


@mutant("task.losses", *IMAGES)
def equal_shares(of: Subject) -> Subject:
    """Each example has the mean of the batch as its loss."""
    return loading(of, lambda data: {"losses": lambda outputs, targets: data.loss(outputs, targets).expand(len(targets))})


@mutant("task.metrics", *FORECASTING)
def accumulating(of: Subject) -> Subject:
    """It returns the same metrics each time, with their counts."""
    return loading(of, lambda data: {"metrics": functools.cache(data.metrics)})


@mutant("task.metrics", *IMAGES)
def misnamed(of: Subject) -> Subject:
    """Its score is not the name of a metric."""
    return loading(of, lambda data: {"score": "the best"})


@mutant("task.leaks", *FORECASTING)
def peeping(of: Subject) -> Subject:
    """Its first training example is one of the validation split."""

    def change(data: Data) -> dict[str, Any]:
        def batch(positions: Tensor) -> Batch:
            found = [(data.validation if p == 0 else data.train).batch(p.view(1)) for p in positions]
            return torch.cat([x for x, _ in found], 1), torch.cat([y for _, y in found])

        return {"train": Split(data.train.size, batch)}

    return loading(of, change)


@mutant("task.test", *FORECASTING)
def foreseeing(of: Subject) -> Subject:
    """It measures mean and standard deviation on the test split, too."""

    def change(data: Data) -> dict[str, Any]:
        rows = torch.cat([split.batch(torch.arange(split.size))[0].flatten(0, 1) for split in (data.train, data.test)])
        return {"inputs": Scale(rows.mean(0), rows.std(0))}

    return loading(of, change)


@mutant("task.pinned", *FORECASTING)
def relative(of: Subject) -> Subject:
    """It is pinned to a path that holds in one working directory."""
    return overriding(of, pinned=lambda self: attrs.evolve(of.cls.pinned(self), csv=self.csv))  # type: ignore[attr-defined]


@mutant("task.pinned", *FORECASTING)
def undigested(of: Subject) -> Subject:
    """It is pinned without a digest."""
    return overriding(of, pinned=lambda self: attrs.evolve(of.cls.pinned(self), digest=None))  # type: ignore[attr-defined]


@mutant("task.pinned", *FORECASTING)
def default(of: Subject) -> Subject:
    """It is pinned with the default of an option."""
    return overriding(of, pinned=lambda self: attrs.evolve(of.cls.pinned(self), window=10))  # type: ignore[attr-defined]


@mutant("task.scales", *FORECASTING)
def dividing_by_zero(of: Subject) -> Subject:
    """Its scale has a standard deviation of 0."""
    return loading(of, lambda data: {"inputs": data.inputs and Scale(data.inputs.mean, 0 * data.inputs.std)})


@mutant("task.references", *FORECASTING)
def unplaced(of: Subject) -> Subject:
    """One of its references stays in float32, whatever the dtype of the data is."""

    def change(data: Data) -> dict[str, Any]:
        def references(parameters: int) -> dict[str, Any]:
            found = dict(data.references(parameters))
            return found | {"GRU": lambda: found["GRU"]().float()}

        return {"references": references}

    return loading(of, change)
