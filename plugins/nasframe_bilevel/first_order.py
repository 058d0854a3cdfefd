"""Architects that take the weights as they are."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import Bilevel
from nasframe_bilevel.softmax import Softmax, Tensors, slopes


@attrs.frozen
class SingleLevel(Softmax):
    """The gradient of L_train(w, alpha) with respect to alpha: alphas and weights descend the one loss."""

    name: ClassVar[str] = "single_level"

    def gradient(self, problem: Bilevel) -> Tensors:
        """The gradient of the training loss at the present weights."""
        (found,) = slopes(problem.train(problem.weights, problem.alphas), problem.alphas)
        return found


@attrs.frozen
class FirstOrder(Softmax):
    """The gradient of L_val(w, alpha) with respect to alpha: Algorithm 1, line 3 with xi = 0 (Jie & Gao 2021)."""

    name: ClassVar[str] = "first_order"

    def gradient(self, problem: Bilevel) -> Tensors:
        """The gradient of the validation loss at the present weights."""
        (found,) = slopes(problem.valid(problem.weights, problem.alphas), problem.alphas)
        return found
