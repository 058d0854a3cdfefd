"""A supernet as the bilevel problem that an architect sees, and the two updates of a step: alphas, then weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from nasframe.interfaces.alpha_loss import AlphaLoss
from nasframe.interfaces.architect import Architect, Bilevel, Loss, Tensors
from nasframe.interfaces.relaxation import Draw
from nasframe.network.network import Network
from nasframe.network.outputs import Outputs
from nasframe.search.optimiser import Optimiser, rate_of

Batch = tuple[Tensor, Tensor]
Parameters = Mapping[str, nn.Parameter]
#: a network, at some values of its tensors: from inputs and the weights of its mixtures to outputs
Forward = Callable[[Tensor, Tensors], Outputs]
#: the loss on some batch
Objective = Callable[[Forward, Tensors], Tensor]


def problem(
    network: Network,
    optimiser: Optimiser,
    descent: Optimizer,
    train: Objective,
    valid: Objective,
    draws: tuple[Draw | None, Draw | None] = (None, None),
) -> Bilevel:
    """Return the bilevel problem at the present weights and alphas, which are the network's tensors.

    Args:
        network: the supernet.
        optimiser: the description of the weights' optimiser, for an unrolled step.
        descent: that optimiser with its moments and its present learning rate.
        train: the loss on a training batch.
        valid: the loss on a validation batch.
        draws: how the relaxation samples in the two losses; None for what validation computes.
    """

    def of(objective: Objective, draw: Draw | None) -> Loss:
        def value(w: Tensors, alphas: Tensors) -> Tensor:
            # `functional_call` computes with these tensors in the place of the network's, so that a loss at other weights
            # needs no second network and changes nothing.
            tensors = {**w, **_buffers(network)}
            # from the alphas that are given, and not those of the network, so that the loss is differentiable by them
            mixing = network.mixing(draw, alphas)
            return objective(lambda *given: functional_call(network, tensors, given), mixing)

        return value

    # Including parameters that are not trained, because the loss is a function of all of them.
    weights = [(n, p) for n, p in network.named_parameters() if not n.startswith("alphas.")]

    def unroll(gradients: Tensors) -> dict[str, Tensor]:
        # What the optimiser would skip in its step does not move in the unrolled one.
        idle = idle_weights(network, optimiser, partial(network.mixing, draws[0]))
        moved = optimiser.unroll(descent, [(n, p) for n, p in weights if n not in idle], gradients)
        return {n: moved.get(n, p.detach()) for n, p in weights}

    xi = rate_of(descent)
    # xi, the learning rate of the unrolled step, is the present one of the weights' optimiser (Liu et al. 2019, 2.3)
    return Bilevel(dict(weights), dict(network.alphas), of(train, draws[0]), of(valid, draws[1]), xi, unroll)


def loss_by_mixing(network: nn.Module, objective: Objective) -> Callable[[Tensors], Tensor]:
    """Return a loss as a function of the mixing weights, at the present weights. Calling it changes nothing."""
    return lambda mixing: objective(lambda *given: functional_call(network, _buffers(network), given), mixing)


def added_loss(network: Network, terms: Sequence[AlphaLoss], progress: float | None) -> Callable[[Tensors], Tensor] | None:
    """Return the sum of losses of the alphas as a function of these; None if there are no losses.

    Args:
        network: the supernet.
        terms: the losses.
        progress: the completed fraction of the phase; None in a phase without a length.
    """
    if not terms:
        return None

    def value(alphas: Tensors) -> Tensor:
        # In the form of validation, without a sample: a term judges the alphas themselves and not one draw.
        mixing = network.mixing(None, alphas)
        return torch.stack([term.loss(network.sites, alphas, mixing, progress) for term in terms]).sum()

    return value


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    # copies: running statistics are those of the steps taken, not of those that were only looked at
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def alternating_step(
    problem: Bilevel,
    architect: Architect,
    optimisers: Mapping[str, Optimizer],
    loss: Callable[[], Tensor],
    *,
    added: Callable[[Tensors], Tensor] | None = None,
    idle: Callable[[], Collection[str]] = tuple,
) -> Tensor:
    """Move the alphas, and then the weights for the new alphas (Jie & Gao 2021, Algorithm 1, lines 3 and 4).

    Args:
        problem: the bilevel problem.
        architect: gives the gradient of the alphas.
        optimisers: of the "alphas" and of the "weights".
        loss: the training loss at the present weights and alphas, with the side effects of a training step (running statistics).
        added: a loss of the alphas that is added to the one that the architect descends (`added_loss`).
        idle: returns the names of the weights that the optimiser skips, for the alphas after their move (`idle_weights`).

    Returns:
        The training loss before the weights moved.
    """
    # alphas first (Algorithm 1, line 3): the weights then move against the mixing weights that the next step has
    if problem.alphas:
        gradient = architect.gradient(problem)
        if added is not None:
            # here for all architects: a loss that does not depend on the weights has the same gradient at w and at w'
            found = torch.autograd.grad(added(problem.alphas), [*problem.alphas.values()], materialize_grads=True)
            gradient = {name: gradient.get(name, 0) + slope for name, slope in zip(problem.alphas, found, strict=True)}
        # One step of the alphas for each step of the weights, as in DARTS.
        _move(problem.alphas, gradient, optimisers["alphas"])
    return weights_step(problem.weights, optimisers["weights"], loss, idle)


def weights_step(
    weights: Parameters, optimiser: Optimizer, loss: Callable[[], Tensor], idle: Callable[[], Collection[str]] = tuple
) -> Tensor:
    """Take one step of the weights and return the loss before it."""
    value = loss()
    # a weight that the loss does not depend on gets the gradient zero, as one behind a mixing weight of zero does, so
    # that weight decay and moments act on both alike. Which ones a graph lacks differs between the forms of a network; which
    # candidates a relaxation leaves out does not, so that it alone says what is skipped
    gradients = torch.autograd.grad(value, [*weights.values()], materialize_grads=True)
    found, skipped = zip(weights, gradients, strict=True), idle()
    _move(weights, {name: gradient for name, gradient in found if name not in skipped}, optimiser)
    return value.detach()


def idle_weights(network: Network, optimiser: Optimiser, mixing: Callable[[], Tensors]) -> Collection[str]:
    """Return the names of the weights that an optimiser skips in a step with the mixing weights that a function returns."""
    return network.idle(mixing()) if optimiser.idle == "skip" else ()


def _move(parameters: Parameters, gradients: Tensors, optimiser: Optimizer) -> None:
    # gradients are assigned and not accumulated: an architect may have called backward() on the way
    for name, parameter in parameters.items():
        # torch's optimisers skip a parameter whose gradient is None: neither moments nor weight decay move it.
        parameter.grad = gradients.get(name)
    optimiser.step()
    optimiser.zero_grad()
