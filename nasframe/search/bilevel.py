"""A supernet as the bilevel problem that an architect sees, and the two updates of its every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from nasframe.interfaces.architect import Architect, Bilevel, Loss, Tensors
from nasframe.network.network import Network
from nasframe.network.outputs import Outputs
from nasframe.search.optimiser import rate_of
from nasframe.search.state import State, weights_of
from nasframe.search.strategy import Strategy

Batch = tuple[Tensor, Tensor]
Parameters = Mapping[str, nn.Parameter]
#: a network, at some values of its tensors: from inputs and the weights of its mixtures to outputs
Forward = Callable[[Tensor, Tensors], Outputs]
#: the loss on some batch
Objective = Callable[[Forward, Tensors], Tensor]


def problem(state: State, strategy: Strategy, train: Objective, valid: Objective) -> Bilevel:
    """The problem at the present weights and alphas, which are the network's own tensors."""
    network = state.network

    def of(objective: Objective) -> Loss:
        def value(w: Tensors, alphas: Tensors) -> Tensor:
            tensors = {**w, **_buffers(network)}
            return objective(lambda *given: functional_call(network, tensors, given), strategy.architect.mixing(alphas))

        return value

    weights = weights_of(network)
    unroll = partial(strategy.optimiser.unroll, state.optimisers["weights"], weights)
    xi = rate_of(state.optimisers["weights"])
    return Bilevel(dict(weights), dict(network.alphas), of(train), of(valid), xi, unroll)


def _buffers(network: Network) -> dict[str, Tensor]:
    # copies: running statistics are those of the steps taken, not of those that were only looked at
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def alternating_step(
    problem: Bilevel, architect: Architect, optimisers: Mapping[str, Optimizer], loss: Callable[[], Tensor]
) -> Tensor:
    """Lines 3 and 4 of Algorithm 1 (Jie & Gao 2021): the alphas move first, and the weights against the new ones.

    Args:
        optimisers: of the "alphas" and of the "weights".
        loss: the training loss at the present weights and alphas, with all that a step of training does beside.

    Returns:
        That loss, from which the weights moved.
    """
    if problem.alphas:
        _move(problem.alphas, architect.gradient(problem), optimisers["alphas"])
    return weights_step(problem.weights, optimisers["weights"], loss)


def weights_step(weights: Parameters, optimiser: Optimizer, loss: Callable[[], Tensor]) -> Tensor:
    """One step of the weights down their loss; the loss before."""
    value = loss()
    # a weight that nothing uses has the gradient zero, as behind a weight of zero: it does not stop dead
    gradients = torch.autograd.grad(value, [*weights.values()], materialize_grads=True)
    _move(weights, dict(zip(weights, gradients, strict=True)), optimiser)
    return value.detach()


def _move(parameters: Parameters, gradients: Tensors, optimiser: Optimizer) -> None:
    for name, parameter in parameters.items():
        parameter.grad = gradients.get(name)
    optimiser.step()
    optimiser.zero_grad()
