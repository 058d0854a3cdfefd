"""The parts that a search needs and a law does not care about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torchmetrics import MeanSquaredError, MetricCollection

from nasframe import ABSTAIN, Data, Decision, GrowthCriterion, Proposal, Pruner, Seed, Split, Structure, Task


@attrs.frozen
class Noise(Task):
    """Inputs and targets that have nothing to do with each other: normal numbers, no gradient of which is zero.

    Args:
        sizes: what the backbone must know.
        inputs, targets: their shapes, with -1 on the axis of the examples.
        examples: in each split.
    """

    name: ClassVar[str] = "noise"
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    examples: int = 8
    seed: int = 0

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Numbers that depend on the seed and the split alone."""
        train, validation, test = (self._split(name, device, dtype) for name in ("train", "validation", "test"))
        return Data(
            sizes=dict(self.sizes),
            train=train,
            validation=validation,
            test=test,
            loss=mse_loss,
            predict=lambda outputs: outputs,
            metrics=lambda: MetricCollection({"mse": MeanSquaredError()}),
            references=lambda parameters: {},
        )

    def _split(self, name: str, device: torch.device, dtype: torch.dtype) -> Split:
        generator = Seed((self.seed, name)).generator()
        shapes = [[self.examples if n < 0 else n for n in shape] for shape in (self.inputs, self.targets)]
        x, y = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes)
        a, b = self.inputs.index(-1), self.targets.index(-1)
        return Split(self.examples, lambda index: (x.index_select(a, index), y.index_select(b, index)))


@attrs.frozen
class Endless(GrowthCriterion):
    """Nothing ever grows or stops."""

    name: ClassVar[str] = "endless"

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """No opinion."""
        return state, ABSTAIN


@attrs.frozen
class Keep(Pruner):
    """Nothing goes."""

    name: ClassVar[str] = "keep"

    def remove(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """No candidate."""
        return {}
