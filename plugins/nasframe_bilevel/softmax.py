"""What the architects of this plugin share: the softmax rule, the alphas' optimiser, and how a gradient is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import Architect, Optimiser, nested, number
from nasframe.change.optimisers import NamedParameters

Tensors = Mapping[str, Tensor]


def _constant(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, Optimiser) and value.epochs:
        raise ValueError(
            f"{attribute.name} has epochs = {value.epochs}; the learning rate of alphas is constant: leave them out"
        )


@attrs.frozen
class Softmax(Architect):
    """Logits whose softmax is the weights (Liu et al. 2019, Eq. 2).

    Args:
        optimiser: of the alphas.
        after_growth: what its learning rate is multiplied by once the network has grown. A node is born with nearly all
            weight on the identity; at the paper's rate (a factor of 1) it can hardly leave it in the paper's budget. The
            default was measured: docs/measurements/growth_noise.md.
    """

    optimiser: Optimiser = nested(Optimiser, default=Optimiser(learning_rate=3e-4), validator=_constant)
    after_growth: float = number(100.0, low=0.0)

    def mixing(self, alphas: Tensors) -> Tensors:
        """The softmax at each site (Eq. 2)."""
        return {address: alpha.softmax(0) for address, alpha in alphas.items()}

    def invert(self, mixing: Tensors) -> Tensors:
        """The logarithms of the weights (Eq. 16), centred: the softmax leaves their mean free."""
        return {address: w.log() - w.log().mean() for address, w in mixing.items()}

    def build_optimiser(self, alphas: NamedParameters, stage: int) -> Optimizer:
        """The optimiser, with the learning rate of that stage."""
        factor = self.after_growth if stage else 1.0
        return attrs.evolve(self.optimiser, learning_rate=self.optimiser.learning_rate * factor).build(alphas)


def slopes(loss: Tensor, *groups: Tensors, create_graph: bool = False) -> list[dict[str, Tensor]]:
    """The gradients of a loss with respect to groups of tensors, by name; zero for a tensor that it does not depend on."""
    if not loss.requires_grad:  # as where all that is undecided stands behind edges that were pruned to nothing
        return [{name: torch.zeros_like(tensor) for name, tensor in group.items()} for group in groups]
    tensors = [tensor for group in groups for tensor in group.values()]
    found = iter(torch.autograd.grad(loss, tensors, create_graph=create_graph, materialize_grads=True))
    return [dict(zip(group, found, strict=False)) for group in groups]
