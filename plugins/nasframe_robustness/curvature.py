"""The early stopping of Robust DARTS, by the curvature of the validation loss (Zela et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch

from nasframe import Context, Decision, GrowthCriterion, Proposal
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.options import number
from nasframe.records import EpochEnded


def largest_eigenvalue(context: Context, steps: int = 50) -> float:
    """Return the eigenvalue of largest magnitude of the Hessian of L_valid by the alphas, by power iteration."""
    problem = context.problem()
    alphas = [*problem.alphas.values()]
    gradients = torch.autograd.grad(problem.valid(problem.weights, problem.alphas), alphas, create_graph=True)
    gradient = torch.cat(gradients)
    if not gradient.requires_grad:
        return 0.0  # the loss is linear in the alphas
    generator = context.seed("start").generator()
    vector, value = torch.randn(len(gradient), generator=generator, dtype=torch.float64).to(gradient), gradient.new_zeros(())
    for _ in range(steps):
        vector = vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
        product = torch.cat(torch.autograd.grad(gradient @ vector, alphas, retain_graph=True, materialize_grads=True))
        value, vector = vector @ product, product
    return float(value)


@attrs.frozen
class Curvature(GrowthCriterion):
    """End the phase "search" when the largest eigenvalue of the alphas' Hessian rises quickly (Zela et al. 2020, section 4.3).

    By the largest eigenvalue we mean that of largest absolute value. With the mean e(i) of the absolute values of `window` epochs up
    to epoch i, the phase ends if e(i - window) / e(i) < `ratio`.

    Args:
        window: k, the number of epochs.
        ratio: the smallest ratio at which the search goes on.
    """

    name: ClassVar[str] = "curvature"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    window: int = number(5, low=1, whole=True)
    ratio: float = number(0.75, low=0.0, high=1.0)

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the eigenvalue on a batch of the validation split; 0 if there are no alphas."""
        return {"curvature": context.remember("curvature", lambda: largest_eigenvalue(context)) if context.mixing else 0.0}

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "end" after an epoch, or abstain."""
        now = history[-1]
        if not isinstance(now, EpochEnded) or now.phase != "search":
            return state, ABSTAIN
        phase = [r for r in history if isinstance(r, EpochEnded) and (r.stage, r.phase) == (now.stage, now.phase)]
        values = [math.inf if r.readings["curvature"] is None else abs(r.readings["curvature"]) for r in phase]
        before, after = (sum(part) / self.window for part in (values[-2 * self.window : -self.window], values[-self.window :]))
        if len(values) < 2 * self.window or not before < self.ratio * after:
            return state, ABSTAIN
        return state, Decision(
            "end", reason=f"the absolute curvature of the validation loss rose from {before:.3g} to {after:.3g}"
        )
