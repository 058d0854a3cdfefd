"""The toy bilevel problem of Liu et al. 2019 (Figure 2), as "Differentiable Architecture Search" (4.1) descends it."""

from __future__ import annotations

import time
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from nasframe import Architect, Bilevel, Optimiser
from nasframe.search.bilevel import alternating_step
from nasframe_bilevel.softmax import Tensors

#: what descends the weights, and the alphas if the architect is made with it
PLAIN = Optimiser("sgd", learning_rate=1e-2)


def toy(xi: float) -> Bilevel:
    """L_train = w^2 - 2 alpha w + alpha^2 and L_val = alpha w - 2 alpha + 1, from (alpha, w) = (2, -2) (Eqs. 1 and 2).

    L_train is least where w = alpha, and there L_val where both are 1.
    """
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
    """Where (alpha, w) was, the start first, and how many seconds an iteration took."""

    path: tuple[tuple[float, float], ...]
    seconds: float

    @property
    def iterations(self) -> int:
        """How many steps there were."""
        return len(self.path) - 1


def descend(architect: Architect, xi: float, threshold: float = 1e-4, most: int = 10_000) -> Descent:
    """Alternate as a search does, until an iteration moves both alpha and w by less than the threshold."""
    problem = toy(xi)
    weights, alphas = problem.weights, problem.alphas
    optimisers = {"weights": PLAIN.build(weights.items()), "alphas": architect.build_optimiser(alphas.items(), 0)}
    path = [_point(problem)]
    started = time.perf_counter()
    while len(path) <= most:
        alternating_step(problem, architect, optimisers, lambda: problem.train(weights, alphas))
        path.append(_point(problem))
        if all(abs(new - old) < threshold for new, old in zip(*path[-2:], strict=True)):
            break
    return Descent(tuple(path), (time.perf_counter() - started) / (len(path) - 1))


def _point(problem: Bilevel) -> tuple[float, float]:
    return float(problem.alphas["alpha"].detach()), float(problem.weights["w"].detach())
