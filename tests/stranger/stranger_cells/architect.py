"""What moves the alphas, and what weights they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Optimiser, number
from nasframe.change.optimisers import NamedParameters

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Sparse(Architect):
    """Logits whose sparsemax is the weights (Martins & Astudillo 2016), down the slope of L_val at the present weights.

    A candidate that falls far enough behind weighs exactly nothing, and stays there unless the others fall back.

    Args:
        learning_rate: Adam's; a alpha moves a weight by as much as itself, where a softmax would scale it down.
    """

    name: ClassVar[str] = "sparse"
    learning_rate: float = number(1e-3, low=0.0)

    def mixing(self, alphas: Tensors) -> Tensors:
        """At each site the point of the simplex that is nearest to the alphas."""
        return {address: sparsemax(z) for address, z in alphas.items()}

    def invert(self, mixing: Tensors) -> Tensors:
        """The weights themselves: of a point of the simplex, it is the nearest."""
        return dict(mixing)

    def gradient(self, problem: Bilevel) -> Tensors:
        """The slope of L_val(w, z) along z."""
        loss = problem.valid(problem.weights, problem.alphas)
        if not loss.requires_grad:  # all that is undecided may stand behind edges that were pruned to nothing
            return {address: torch.zeros_like(z) for address, z in problem.alphas.items()}
        slopes = torch.autograd.grad(loss, [*problem.alphas.values()], materialize_grads=True)
        return dict(zip(problem.alphas, slopes, strict=True))

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Adam, the same at every stage."""
        return Optimiser(learning_rate=self.learning_rate).build(alphas)


def sparsemax(z: Tensor) -> Tensor:
    """max(z - t, 0), with the t at which the entries sum to one."""
    falling = z.sort(descending=True).values
    count = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device)
    thresholds = (falling.cumsum(0) - 1) / count
    return (z - thresholds[falling > thresholds][-1]).clamp(min=0)
