"""DARTS to first order: the logits descend the validation loss at the present weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Named, Optimiser, nested, number


@attrs.frozen
class FirstOrder(Architect):
    """The gradient of L_val(w, alpha) with respect to alpha: Algorithm 1, line 3 with xi = 0 (Jie & Gao 2021).

    Args:
        optimiser: of the logits.
        after_growth: what its learning rate is multiplied by once the network has grown. A node is born with nearly all
            weight on the identity; at the paper's rate (a factor of 1) it can hardly leave it in the paper's budget. The
            default was measured: docs/measurements/growth_noise.md.
    """

    name: ClassVar[str] = "first_order"
    optimiser: Optimiser = nested(Optimiser, default=Optimiser(learning_rate=3e-4))
    after_growth: float = number(100.0, low=0.0)

    def weights(self, logits: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The softmax at each site (Eq. 2)."""
        return {address: alpha.softmax(0) for address, alpha in logits.items()}

    def logits(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The logarithms of the weights (Eq. 16), centred: the softmax leaves their mean free."""
        return {address: w.log() - w.log().mean() for address, w in weights.items()}

    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        """The gradient of the validation loss at the present weights."""
        names, logits = zip(*problem.logits.items(), strict=True)
        loss = problem.valid(problem.weights, problem.logits)
        # what stands behind an edge that was pruned to nothing is in no graph
        gradients = torch.autograd.grad(loss, logits, materialize_grads=True)
        return dict(zip(names, gradients, strict=True))

    def build_optimiser(self, logits: Named, stage: int) -> Optimizer:
        """The optimiser, with the learning rate of that stage."""
        factor = self.after_growth if stage else 1.0
        return attrs.evolve(self.optimiser, learning_rate=self.optimiser.learning_rate * factor).build(logits)
