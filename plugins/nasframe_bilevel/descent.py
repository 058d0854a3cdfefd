"""What the architects share: the optimiser of the alphas, and gradients by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import AlphaLoss, Architect, Optimiser, Relaxation
from nasframe.change.optimisers import NamedParameters
from nasframe.options import nested, number
from nasframe_bilevel.relaxations import Softmax

Tensors = Mapping[str, Tensor]


def _constant(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, Optimiser) and value.epochs:
        raise ValueError(
            f"{attribute.name} has epochs = {value.epochs}, but the learning rate of the alphas is constant: leave epochs out"
        )


def _losses(instance: Any, attribute: Any, value: Any) -> None:
    for part in value:
        if not isinstance(part, AlphaLoss):
            raise ValueError(f"{attribute.name} has the element {part!r}; each must be an AlphaLoss")


@attrs.frozen
class Descent(Architect):
    """Architects that descend a gradient of the alphas by an optimiser of torch.

    Args:
        optimiser: the optimiser of the alphas.
        after_growth: the factor by which the learning rate of the alphas is multiplied once the network has grown. A new
            node starts with nearly all of its mixing weight on the identity, and at the paper's learning rate (a factor
            of 1) it can hardly leave it within the paper's number of updates. The default was measured, see
            docs/measurements/growth_noise.md.
        relaxation: turns alphas into mixing weights.
        terms: losses of the alphas that are added to the loss that they descend.
    """

    optimiser: Optimiser = nested(Optimiser, default=Optimiser(learning_rate=3e-4), validator=_constant)
    after_growth: float = number(100.0, low=0.0)
    relaxation: Relaxation = nested("relaxation", default=Softmax())
    terms: tuple[AlphaLoss, ...] = nested("alpha_loss", default=(), validator=_losses)

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return the optimiser of the alphas."""
        return self.optimiser.build(alphas)

    def configure(self, optimiser: Optimizer, stage: int) -> None:
        """Set the learning rate, which is larger after a growth."""
        # computed from the stage at each step, and not stored, so that a resumed search has the same rate
        rate = self.optimiser.learning_rate * (self.after_growth if stage else 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate


def gradients(loss: Tensor, *groups: Tensors, create_graph: bool = False) -> list[dict[str, Tensor]]:
    """Return the gradients of a loss with respect to groups of tensors, by name.

    The gradient of a tensor on which the loss does not depend is zero.
    """
    # a loss depends on no parameter at all if every undecided site is behind edges whose candidates are all pruned
    if not loss.requires_grad:
        return [{name: torch.zeros_like(tensor) for name, tensor in group.items()} for group in groups]
    # one backward pass for all groups
    tensors = [tensor for group in groups for tensor in group.values()]
    found = iter(torch.autograd.grad(loss, tensors, create_graph=create_graph, materialize_grads=True))
    return [dict(zip(group, found, strict=False)) for group in groups]
