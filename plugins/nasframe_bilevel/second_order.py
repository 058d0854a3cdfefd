"""Architects that look one step of the weights ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Bilevel, flag, number
from nasframe_bilevel.softmax import Softmax, Tensors, slopes


@attrs.frozen
class Unrolled(Softmax):
    """The gradient of L_val(w', alpha) with respect to alpha, where w' is the weights after a step down L_train.

    Args:
        follow: w' is what the weights' own optimiser would make of them, with its moments and its weight decay, and not
            w - xi grad_w L_train(w, alpha).
    """

    follow: bool = flag(False)

    def ahead(self, problem: Bilevel) -> Callable[[Tensors], Tensors]:
        """How w' follows from grad_w L_train(w, alpha)."""
        if self.follow:
            return problem.unroll
        return lambda g: {name: w.detach() - problem.xi * g[name] for name, w in problem.weights.items()}


@attrs.frozen
class SecondOrder(Unrolled):
    """grad_alpha L_val(w', alpha) + [grad_alpha L_train(w+, alpha) - grad_alpha L_train(w-, alpha)] / (2 eps): Eqs. 4 to 6.

    w+ and w- are w +- eps u, where u = (dw'/dg)^T v, g = grad_w L_train(w, alpha), v = grad_w' L_val(w', alpha). For the
    plain step u = -xi v, and as eps = step / |u| these are the two points of Eq. 6, which has u = v and -xi before it.

    Args:
        step: |w+ - w|, over all weights together (Liu et al. 2019: 0.01).
    """

    name: ClassVar[str] = "second_order"
    step: float = number(0.01, low=1e-6)

    def gradient(self, problem: Bilevel) -> Tensors:
        """The gradient through the unrolled step, its second derivatives by a central difference."""
        w, alpha = problem.weights, problem.alphas
        (g,) = map(_leaves, slopes(problem.train(w, _fixed(alpha)), w))
        ahead = self.ahead(problem)(g)
        reached = _leaves(ahead)
        v, direct = slopes(problem.valid(reached, alpha), reached, alpha)
        u = torch.autograd.grad([*ahead.values()], [*g.values()], [v[name] for name in ahead], materialize_grads=True)
        norm = torch.linalg.vector_norm(torch.cat([part.flatten() for part in u]))
        if norm == 0:
            return direct
        eps = self.step / norm

        def at(shift: Tensor) -> Tensors:
            moved = {name: w[name].detach() + shift * part for name, part in zip(g, u, strict=True)}
            (found,) = slopes(problem.train(moved, alpha), alpha)
            return found

        plus, minus = at(eps), at(-eps)
        return {name: direct[name] + (plus[name] - minus[name]) / (2 * eps) for name in alpha}


@attrs.frozen
class ExactSecondOrder(Unrolled):
    """The gradient that `second_order` approximates (Eqs. 4 and 5), with exact second derivatives."""

    name: ClassVar[str] = "exact_second_order"

    def gradient(self, problem: Bilevel) -> Tensors:
        """The gradient through the unrolled step, by double backward."""
        w, alpha = problem.weights, problem.alphas
        (g,) = slopes(problem.train(w, alpha), w, create_graph=True)
        (found,) = slopes(problem.valid(self.ahead(problem)(g), alpha), alpha)
        return found


def _fixed(tensors: Tensors) -> Tensors:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _leaves(tensors: Tensors) -> Tensors:
    return {name: tensor.requires_grad_() for name, tensor in _fixed(tensors).items()}
