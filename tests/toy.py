"""A tiny task and a scripted criterion: whole searches in a fraction of a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import torch
import torchmetrics
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne
from torch import nn

from nasframe import ABSTAIN, Data, Decision, GrowthCriterion, Proposal, Seed, Split, Strategy, Task, number


@attrs.frozen
class ToySeries(Task):
    """A noisy linear system of a few columns, in windows of four steps."""

    name: ClassVar[str] = "toy_series"
    columns: int = number(2, low=1, whole=True)
    windows: int = number(25, low=1, whole=True)

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        rows = torch.randn(3 * self.windows + 4, self.columns, generator=Seed((0, "toy")).generator(), dtype=torch.float64)
        for t in range(1, len(rows)):
            rows[t] = 0.8 * rows[t - 1].flip(0) + 0.3 * rows[t]
        windows = rows.to(device, dtype).unfold(0, 5, 1).permute(2, 0, 1)[:, : 3 * self.windows]
        train, validation, test = (_split(part) for part in windows.split(self.windows, dim=1))
        return Data(
            sizes={"inputs": self.columns, "outputs": self.columns},
            train=train,
            validation=validation,
            test=test,
            loss=lambda outputs, targets: nn.functional.mse_loss(outputs[-1], targets),
            predict=lambda outputs: outputs[-1],
            metrics=lambda: torchmetrics.MetricCollection({"mse": torchmetrics.MeanSquaredError()}),
            references=lambda parameters: {"last value": nn.Identity},
        )


def _split(windows: torch.Tensor) -> Split:
    return Split(windows.shape[1], lambda index: (windows[:-1, index], windows[-1, index]))


@attrs.frozen
class Scripted(GrowthCriterion):
    """Each phase takes so many epochs, and the search so many growths."""

    name: ClassVar[str] = "scripted"
    epochs: int = number(1, low=1, whole=True)
    growths: int = number(2, low=0, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        last, calls = history[-1], (state or 0) + 1
        if last["kind"] == "epoch":
            return calls, Decision("grow", "scripted") if last["epoch"] + 1 >= self.epochs else ABSTAIN
        return calls, Decision("grow" if last["stage"] < self.growths else "stop", "scripted")


def toy_strategy(**changes: Any) -> Strategy:
    """A search with two growths, pruning and dropout."""
    parts: dict[str, Any] = {
        "task": ToySeries(),
        "backbone": TwoToOne(hidden=3, dropout=0.2),
        "architect": FirstOrder(),
        "criterion": Scripted(),
        "pruner": Strongest(),
        "growth": (NodeGrowth(delta=0.05),),
        "batch": 10,
        "dtype": "float64",
    }
    return Strategy(**(parts | changes))
