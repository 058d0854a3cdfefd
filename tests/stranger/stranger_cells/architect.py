"""A relaxation, and an architect that descends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Draw, Mixing, Optimiser, Relaxation
from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.relaxation import Sites
from nasframe.options import nested, number

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Sparsemax(Relaxation):
    """The sparsemax of each site's alphas (Martins & Astudillo 2016).

    The mixing weight of a candidate whose alpha is far below the others is exactly 0, and stays 0 until the others fall.
    """

    name: ClassVar[str] = "sparsemax"

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return, for each site, the point of the simplex that is nearest to the alphas."""
        return Mixing({address: sparsemax(alphas[address]) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the mixing weights: a point of the simplex is the nearest one to itself."""
        return dict(wanted)


@attrs.frozen
class Sparse(Architect):
    """Alphas follow the gradient of the validation loss.

    Args:
        learning_rate: the learning rate of Adam. A change of an alpha changes mixing weights by as much; a softmax would
            scale it down.
        relaxation: turns alphas into mixing weights.
    """

    name: ClassVar[str] = "sparse"
    learning_rate: float = number(1e-3, low=0.0)

    relaxation: Relaxation = nested("relaxation", default=Sparsemax())

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return the gradient of L_val(w, z) with respect to the alphas z."""
        loss = problem.valid(problem.weights, problem.alphas)
        if not loss.requires_grad:  # no undecided site may have an effect on the outputs any more
            return {address: torch.zeros_like(z) for address, z in problem.alphas.items()}
        slopes = torch.autograd.grad(loss, [*problem.alphas.values()], materialize_grads=True)
        return dict(zip(problem.alphas, slopes, strict=True))

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return an Adam optimiser."""
        return Optimiser(learning_rate=self.learning_rate).build(alphas)


def sparsemax(z: Tensor) -> Tensor:
    """Return max(z - t, 0), with the number t for which the sum of the entries is 1."""
    falling = z.sort(descending=True).values
    count = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device)
    thresholds = (falling.cumsum(0) - 1) / count
    return (z - thresholds[falling > thresholds][-1]).clamp(min=0)
