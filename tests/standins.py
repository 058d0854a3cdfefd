"""Parts that need no shipped plugin: a tiny task, a still architect, a plain pruner, and the kit's scripted criterion."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
import torch
import torchmetrics
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Data, Optimiser, Pruner, Relaxation, Seed, Split, Structure, Task
from nasframe.change.optimisers import NamedParameters
from nasframe.options import nested, number
from nasframe.testing.fakes import Scripted, Shares

#: copied, which is faster than to construct them
METRICS = torchmetrics.MetricCollection({"mse": torchmetrics.MeanSquaredError()})


@attrs.frozen
class ToySeries(Task):
    """A noisy linear system of a few columns, in windows of four steps."""

    name: ClassVar[str] = "toy_series"
    columns: int = number(2, low=1, whole=True)
    windows: int = number(25, low=1, whole=True)

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        windows = (
            _rows(3 * self.windows + 4, self.columns).to(device, dtype).unfold(0, 5, 1).permute(2, 0, 1)[:, : 3 * self.windows]
        )
        train, validation, test = (_split(part) for part in windows.split(self.windows, dim=1))
        return Data(
            sizes={"inputs": self.columns, "outputs": self.columns},
            train=train,
            validation=validation,
            test=test,
            loss=lambda outputs, targets: nn.functional.mse_loss(outputs[-1], targets),
            losses=lambda outputs, targets: (outputs[-1] - targets).square().mean(1),
            predict=lambda outputs: outputs[-1],
            metrics=lambda: copy.deepcopy(METRICS),
            score="mse",
            references=lambda parameters: {"last value": nn.Identity},
        )


@functools.cache
def _rows(length: int, columns: int) -> Tensor:
    rows = torch.randn(length, columns, generator=Seed((0, "toy")).generator(), dtype=torch.float64)
    for t in range(1, length):
        rows[t] = 0.8 * rows[t - 1].flip(0) + 0.3 * rows[t]
    return rows


def _split(windows: torch.Tensor) -> Split:
    return Split(windows.shape[1], lambda index: (windows[:-1, index], windows[-1, index]))


@attrs.frozen
class Still(Architect):
    """Softmax weights that never move."""

    name: ClassVar[str] = "still"

    relaxation: Relaxation = nested("relaxation", default=Shares())

    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        return {address: torch.zeros_like(alpha) for address, alpha in problem.alphas.items()}

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        return Optimiser("sgd").build(alphas)


@attrs.frozen
class First(Pruner):
    """Keeps the first candidate of each site."""

    name: ClassVar[str] = "first"

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        return {a: {c.id for c in s.candidates[1:]} for a, s in structure.sites() if not s.decided}


STANDINS = (ToySeries, Scripted, Still, Shares, First)
