"""The toy bilevel problem of Liu et al. (2019, Figure 2), with the protocol of "Differentiable Architecture Search", 4.1.

"Differentiable Architecture Search" is a study of DARTS by anonymous authors, under the title of the paper that it studies.
"""

from __future__ import annotations

import time
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from nasframe import Architect, Bilevel, Optimiser
from nasframe.search.bilevel import alternating_step
from nasframe_bilevel.descent import Tensors

#: the optimiser of w, and of alpha where an architect is built with it
PLAIN = Optimiser("sgd", learning_rate=1e-2)


def toy(xi: float) -> Bilevel:
    """Return the toy problem at its start, (alpha, w) = (2, -2).

    L_train(w, alpha) = w^2 - 2 alpha w + alpha^2 (Eq. 1) is least where w = alpha, and L_val(w, alpha) = alpha w - 2 alpha + 1
    (Eq. 2) is least on that line at (1, 1).

    Args:
        xi: the learning rate of the unrolled step; the study varies it and keeps that of w.
    """
    # float64, so that the number of iterations does not depend on rounding.
    weights, alphas = {"w": _scalar(-2.0)}, {"alpha": _scalar(2.0)}
    unroll = partial(PLAIN.unroll, PLAIN.build(weights.items()), weights.items())
    return Bilevel(weights, alphas, _train, _valid, xi, unroll)


def _scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


def _train(weights: Tensors, alphas: Tensors) -> Tensor:
    w, alpha = weights["w"], alphas["alpha"]
    return w**2 - 2 * alpha * w + alpha**2


def _valid(weights: Tensors, alphas: Tensors) -> Tensor:
    w, alpha = weights["w"], alphas["alpha"]
    return alpha * w - 2 * alpha + 1


@attrs.frozen
class Descent:
    """A descent of the toy problem.

    Attributes:
        path: the values of (alpha, w), from the start to the end.
        seconds: the time of an iteration.
    """

    path: tuple[tuple[float, float], ...]
    seconds: float

    @property
    def iterations(self) -> int:
        """Return the number of iterations."""
        return len(self.path) - 1


def descend(architect: Architect, xi: float, threshold: float = 1e-4, most: int = 10_000) -> Descent:
    """Alternate between alpha and w as a search does, alpha first.

    Args:
        architect: the architect, which gives the gradient of alpha and its optimiser.
        xi: the learning rate of the unrolled step.
        threshold: the descent ends with the first iteration that moves both alpha and w by less.
        most: the largest number of iterations.
    """
    problem = toy(xi)
    weights, alphas = problem.weights, problem.alphas
    optimisers = {"weights": PLAIN.build(weights.items()), "alphas": architect.build_optimiser(alphas.items())}
    path = [_point(problem)]
    started = time.perf_counter()
    while len(path) <= most:
        # the step of every search, so that the toy problem tests what searches run
        alternating_step(problem, architect, optimisers, lambda: problem.train(weights, alphas))
        path.append(_point(problem))
        if all(abs(new - old) < threshold for new, old in zip(*path[-2:], strict=True)):
            break
    return Descent(tuple(path), (time.perf_counter() - started) / (len(path) - 1))


def _point(problem: Bilevel) -> tuple[float, float]:
    return float(problem.alphas["alpha"].detach()), float(problem.weights["w"].detach())
