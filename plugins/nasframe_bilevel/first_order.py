"""Architects whose gradient is taken at the current weights."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import Bilevel
from nasframe_bilevel.descent import Descent, Tensors, gradients


@attrs.frozen
class SingleLevel(Descent):
    """Alphas follow the gradient of the training loss at the current weights: one loss for both."""

    name: ClassVar[str] = "single_level"

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return grad_alpha L_train(w, alpha)."""
        (alpha,) = gradients(problem.train(problem.weights, problem.alphas), problem.alphas)
        return alpha


@attrs.frozen
class FirstOrder(Descent):
    """Alphas follow the gradient of the validation loss at the current weights.

    This is Algorithm 1, line 3, of Jie & Gao (2021) with xi = 0, the first-order approximation of Liu et al. (2019).
    """

    name: ClassVar[str] = "first_order"

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return grad_alpha L_val(w, alpha)."""
        (alpha,) = gradients(problem.valid(problem.weights, problem.alphas), problem.alphas)
        return alpha
