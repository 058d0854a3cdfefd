"""The parts that a search needs and a law does not care about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torchmetrics import MeanSquaredError, MetricCollection

from nasframe import (
    ABSTAIN,
    Architect,
    Bilevel,
    Data,
    Decision,
    GrowthCriterion,
    Named,
    Optimiser,
    Proposal,
    Pruner,
    Seed,
    Split,
    Structure,
    Task,
)

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Noise(Task):
    """Inputs and targets that have nothing to do with each other: normal numbers, by which no gradient is zero.

    Args:
        sizes: what the backbone must know.
        inputs, outputs: the shapes of what the network takes and gives, with -1 on the axis of the examples.
        examples: in each split.
    """

    name: ClassVar[str] = "noise"
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
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
            loss=lambda outputs, targets: mse_loss(self.predict(outputs), targets),
            predict=self.predict,
            metrics=lambda: MetricCollection({"mse": MeanSquaredError()}),
            score="mse",
            references=lambda parameters: {},
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The outputs with the examples first, as targets have them."""
        return outputs.movedim(self.outputs.index(-1), 0)

    def _split(self, name: str, device: torch.device, dtype: torch.dtype) -> Split:
        generator, axis = Seed((self.seed, name)).generator(), self.inputs.index(-1)
        shapes = [[self.examples if n < 0 else n for n in shape] for shape in (self.inputs, self.outputs)]
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
        inputs, targets = drawn[0], self.predict(drawn[1])
        return Split(self.examples, lambda index: (inputs.index_select(axis, index), targets[index]))


@attrs.frozen
class Descent(Architect):
    """Logits whose softmax is the weights, down the gradient of the validation loss."""

    name: ClassVar[str] = "descent"

    def weights(self, logits: Tensors) -> Tensors:
        """The softmax at each site."""
        return {address: alpha.softmax(0) for address, alpha in logits.items()}

    def logits(self, weights: Tensors) -> Tensors:
        """The logarithms of the weights."""
        return {address: w.log() for address, w in weights.items()}

    def gradient(self, problem: Bilevel) -> Tensors:
        """The slope of the validation loss at the present weights."""
        loss = problem.valid(problem.weights, problem.logits)
        if not loss.requires_grad:  # where all that is undecided stands behind edges that were pruned to nothing
            return {name: torch.zeros_like(alpha) for name, alpha in problem.logits.items()}
        found = torch.autograd.grad(loss, [*problem.logits.values()], materialize_grads=True)
        return dict(zip(problem.logits, found, strict=True))

    def build_optimiser(self, logits: Named, stage: int) -> Optimizer:
        """Adam."""
        return Optimiser(learning_rate=0.01).build(logits)


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
