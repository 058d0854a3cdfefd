"""Architects whose gradient is taken at the weights after one more training step (Liu et al. 2019, 2.3).

Equation numbers are those of Jie & Gao (2021), 2.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Bilevel
from nasframe.options import flag, number
from nasframe_bilevel.descent import Descent, Tensors, gradients


@attrs.frozen
class Unrolled(Descent):
    """Alphas follow the gradient of L_val(w', alpha), where w' are the weights after one training step (Eq. 4).

    Args:
        follow: take w' from the weights' optimiser, with its moments and its weight decay. By default w' is the plain
            step w - xi grad_w L_train(w, alpha), as in the paper.
    """

    follow: bool = flag(False)

    def unroll(self, problem: Bilevel) -> Callable[[Tensors], Tensors]:
        """Return the function from g = grad_w L_train(w, alpha) to w'."""
        if self.follow:
            return problem.unroll
        return lambda g: {name: w.detach() - problem.xi * g[name] for name, w in problem.weights.items()}


@attrs.frozen
class SecondOrder(Unrolled):
    """Alphas follow the gradient of the validation loss after one training step, by a finite difference (Eqs. 4 to 6).

    The gradient is grad_alpha L_val(w', alpha) + [grad_alpha L_train(w+, alpha) - grad_alpha L_train(w-, alpha)] / (2 eps)
    with w+ = w + eps u and w- = w - eps u. Here u = (dw'/dg)^T v, g = grad_w L_train(w, alpha), v = grad_w' L_val(w', alpha)
    and eps = step / |u|.

    For the plain step u = -xi v. As eps is divided by |u|, w+ and w- are then the two points of Eq. 6, which has u = v and
    the factor -xi in front.

    Args:
        step: the distance |w+ - w| over all weights together; Liu et al. (2019) have 0.01.
    """

    name: ClassVar[str] = "second_order"
    step: float = number(0.01, low=1e-6)

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return the gradient of Eq. 5, with the matrix-vector product of Eq. 6."""
        w, alpha = problem.weights, problem.alphas

        # Eq. 4: w' as a function of g alone, so that (dw'/dg)^T v needs no second derivative of the training loss
        (g,) = map(_leaves, gradients(problem.train(w, _detached(alpha)), w))
        unrolled = self.unroll(problem)(g)

        # the first term of Eq. 5, and v
        w_unrolled = _leaves(unrolled)
        v, direct = gradients(problem.valid(w_unrolled, alpha), w_unrolled, alpha)
        outputs, vectors = [*unrolled.values()], [v[name] for name in unrolled]
        u = torch.autograd.grad(outputs, [*g.values()], vectors, materialize_grads=True)

        # Eq. 6
        norm = torch.linalg.vector_norm(torch.cat([part.flatten() for part in u]))
        # with u = 0 the second term of Eq. 5 vanishes, and eps would be infinite
        if norm == 0:
            return direct
        # w+ and w- have this distance from w, however large the gradient is (Liu et al. 2019, 2.3)
        eps = self.step / norm

        def at(shift: Tensor) -> Tensors:
            shifted = {name: w[name].detach() + shift * part for name, part in zip(g, u, strict=True)}
            (found,) = gradients(problem.train(shifted, alpha), alpha)
            return found

        # a central difference: its error is of the order of eps^2
        plus, minus = at(eps), at(-eps)
        return {name: direct[name] + (plus[name] - minus[name]) / (2 * eps) for name in alpha}


@attrs.frozen
class ExactSecondOrder(Unrolled):
    """Alphas follow the gradient of the validation loss after one training step, with exact second derivatives (Eqs. 4, 5).

    The finite difference of `second_order` approximates this gradient.
    """

    name: ClassVar[str] = "exact_second_order"

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return grad_alpha L_val(w'(alpha), alpha) by double backward."""
        w, alpha = problem.weights, problem.alphas
        # the graph of g is kept, because w' depends on alpha through g alone
        (g,) = gradients(problem.train(w, alpha), w, create_graph=True)
        (found,) = gradients(problem.valid(self.unroll(problem)(g), alpha), alpha)
        return found


def _detached(tensors: Tensors) -> Tensors:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _leaves(tensors: Tensors) -> Tensors:
    return {name: tensor.requires_grad_() for name, tensor in _detached(tensors).items()}
