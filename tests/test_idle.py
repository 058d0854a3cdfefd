"""Weights of candidates that a relaxation leaves out are skipped by the optimiser, or get the gradient zero."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch
from nasframe_bilevel import FirstOrder, SecondOrder
from nasframe_recurrent import Darts, TwoToOne
from nasframe_relaxations import HardGumbel
from test_relaxations import strategy
from toy import toy_strategy

from nasframe import Mixing, Network, Optimiser, Search
from nasframe.search.trainer import weights_of
from nasframe.testing.compare import differences
from nasframe.testing.saved import saved
from nasframe.testing.trained import TrainedNetwork

METHODS = {"sgd": Optimiser("sgd", momentum=0.9), "adam": Optimiser("adam"), "adamw": Optimiser("adamw")}


def trained(method: str, idle: str, fast: bool, steps: int) -> TrainedNetwork:
    """Return the supernet of a search with hard Gumbel samples after so many steps."""
    optimiser = attrs.evolve(METHODS[method], weight_decay=0.1, epochs=2, idle=idle, learning_rate=0.01)
    return TrainedNetwork.of(strategy(FirstOrder(relaxation=HardGumbel()), optimiser=optimiser, fast=fast), steps)


def values(network: TrainedNetwork) -> dict[str, Any]:
    """Return a copy of each weight with its moments, by name."""
    moments = network.state.optimisers["weights"].state
    return {n: (p.detach().clone(), copy.deepcopy(dict(moments.get(p, {})))) for n, p in weights_of(network.network)}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "readable"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_step_moves(method: str, fast: bool) -> None:
    """With "skip", a step changes the weights and moments of exactly the candidates that it computes; with "zero", all of them."""
    for idle in ("skip", "zero"):
        network = trained(method, idle, fast, 2)
        before, left_out = values(network), network.network.idle(next_mixing(network))
        network.train(1)
        changed = differences(before, values(network))
        assert left_out
        assert {*changed} == {*before} - (left_out if idle == "skip" else set()), idle


def next_mixing(network: TrainedNetwork) -> Mixing:
    """Return the mixing weights with which the weights move in the next step."""
    found, honest = [], Network.mixing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "mixing", lambda self, *given: found.append(honest(self, *given)) or found[-1])
        network.copy().train(1)
    return found[-1]


@pytest.mark.parametrize("method", METHODS)
def test_the_unrolled_step_is_that_of_the_optimiser(method: str) -> None:
    """The weights after the next step, as an architect sees them, are those after a step of torch's optimiser that skips."""
    network = trained(method, "skip", True, 2)
    problem = network.next_problem()
    loss = problem.train(problem.weights, problem.alphas)
    slopes = torch.autograd.grad(loss, [*problem.weights.values()], materialize_grads=True)
    gradients = dict(zip(problem.weights, slopes, strict=True))
    unrolled = problem.unroll(gradients)

    optimiser, before = network.state.optimisers["weights"], values(network)
    computed = {name for name, gradient in gradients.items() if gradient.any()}
    for name, weight in problem.weights.items():
        weight.grad = gradients[name] if name in computed else None
    optimiser.step()
    for name, weight in problem.weights.items():
        if name in computed:
            torch.testing.assert_close(unrolled[name], weight.detach(), rtol=1e-9, atol=1e-12)
        else:
            assert torch.equal(unrolled[name], before[name][0])


@pytest.mark.parametrize(("backbone", "plan"), [(TwoToOne(hidden=3, dropout=0.2), "stage"), (Darts(hidden=3), "end")])
def test_without_samples_nothing_is_skipped(backbone: Any, plan: str) -> None:
    """A search by softmax, with growth, pruning and tuning, comes to the same bytes with both options."""
    ends = []
    for idle in ("skip", "zero"):
        optimiser = Optimiser(weight_decay=0.1, epochs=2, idle=idle)
        search = Search(toy_strategy(backbone=backbone, plan=plan, optimiser=optimiser, architect=SecondOrder(follow=True)))
        search.run()
        ends.append(saved(search.state))

    assert ends[0][0] == ends[1][0]
    assert not differences(ends[0][1], ends[1][1])
