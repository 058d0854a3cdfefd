"""Architects: their gradients are the derivatives that they are said to be (all other laws: `nasframe check nasframe_bilevel`)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from nasframe_bilevel import ExactSecondOrder, FirstOrder, SecondOrder, SingleLevel, second_order
from nasframe_bilevel.toy import PLAIN, descend
from nasframe_recurrent import Prod, Sigmoid, Tanh
from recurrent import specimen, strategies
from torch import Tensor, nn
from torch.optim import Optimizer

import nasframe.search.bilevel
from nasframe import Architect, Bilevel, Optimiser, Search, Seed
from nasframe.records import Stepped
from nasframe.search.bilevel import alternating_step
from nasframe.testing.strategies import optimisers, seeds, sizes, trained_networks
from nasframe.testing.trained import TrainedNetwork

Patch = pytest.MonkeyPatch
Tensors = Mapping[str, Tensor]

#: operations that can be differentiated any number of times: no kink, and no running mean that is treated as a constant
SMOOTH = (Sigmoid(), Tanh(), Prod())
following = pytest.mark.parametrize("follow", [False, True], ids=["plain", "follow"])


@attrs.frozen(eq=False)
class Case:
    """A problem and the optimiser of its weights, which has state."""

    problem: Bilevel
    optimiser: Optimizer

    def optimiser_step(self, gradients: Tensors) -> Tensors:
        """Return the weights after a step of torch's optimiser, which is taken on copies."""
        weights, optimiser = copy.deepcopy((dict(self.problem.weights), self.optimiser))
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimiser.step()
        return {name: weight.detach() for name, weight in weights.items()}

    def plain_step(self, gradients: Tensors) -> Tensors:
        """Return the weights w - xi g."""
        return {name: w.detach() - self.problem.xi * gradients[name] for name, w in self.problem.weights.items()}

    def no_step(self, gradients: Tensors) -> Tensors:
        """Return the weights as they are."""
        return self.problem.weights

    def valid(self, step: Callable[[Tensors], Tensors], alphas: Tensors) -> Tensor:
        """Return the validation loss after a step of the weights down the training loss."""
        weights = self.problem.weights
        gradients = torch.autograd.grad(self.problem.train(weights, alphas), [*weights.values()], materialize_grads=True)
        return self.problem.valid(step(dict(zip(weights, gradients, strict=True))), alphas)


def numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def loss(generator: torch.Generator, n: int, k: int, curved: bool) -> Callable[[Tensors, Tensors], Tensor]:
    """Return a quadratic function of n weights and k alphas with all mixed terms, plus a tanh of them if it is to be curved."""
    matrix, vector, scale = numbers(generator, n + k, n + k), numbers(generator, n + k), 0.5 / (n + k)

    def value(weights: Tensors, alphas: Tensors) -> Tensor:
        z = torch.cat([t.flatten() for t in (*weights.values(), *alphas.values())])
        return scale * (z @ matrix @ z) + (torch.tanh(matrix @ z) @ vector if curved else vector @ z)

    return value


@st.composite
def toys(draw: st.DrawFn, curved: bool = True) -> Case:
    """Return a problem of two tensors of weights and two of alphas, and an optimiser that has made a step or more."""
    generator, (rows, columns, p, q) = draw(seeds()).generator(), [draw(sizes()) for _ in range(4)]
    weights, alphas = (
        {name: nn.Parameter(numbers(generator, *shape)) for name, shape in shapes.items()}
        for shapes in ({"W": (rows, columns), "b": (columns,)}, {"p": (p,), "q": (q,)})
    )
    train, valid = (loss(generator, (rows + 1) * columns, p + q, curved) for _ in range(2))
    recipe = draw(optimisers())
    optimiser = recipe.build(weights.items())
    for _ in range(draw(sizes())):
        for weight in weights.values():
            weight.grad = numbers(generator, *weight.shape)
        optimiser.step()
        optimiser.zero_grad()
    unroll = partial(recipe.unroll, optimiser, weights.items())
    return Case(Bilevel(weights, alphas, train, valid, recipe.learning_rate, unroll), optimiser)


def next_case(parent: TrainedNetwork) -> Case:
    """Return the problem of the next step of a search."""
    return Case(parent.next_problem(), parent.state.optimisers["weights"])


trained = trained_networks(strategies(SMOOTH, least=1), steps=5)
cases = toys() | trained.map(next_case)


def close(found: float, expected: float, tolerance: float) -> None:
    assert abs(found - expected) <= tolerance * max(1.0, abs(expected)), f"{found} is not {expected}"


def along(gradient: Tensors, direction: Tensors) -> float:
    return float(sum((gradient[name] * d).sum() for name, d in direction.items()))


def descends(case: Case, architect: Architect, value: Callable[[Tensors], Tensor], tolerance: float = 1e-7) -> None:
    """Assert that the gradient is the derivative of a function of the alphas, by differences of the fourth order."""
    gradient, alphas = architect.gradient(case.problem), case.problem.alphas
    generator, h = Seed(("direction",)).generator(), 1e-3
    direction = {name: numbers(generator, *alpha.shape) for name, alpha in alphas.items()}
    f = {t: float(value({n: a.detach() + t * h * direction[n] for n, a in alphas.items()}).detach()) for t in (-2, -1, 1, 2)}
    close(along(gradient, direction), (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h), tolerance)


def distance(a: Tensors, b: Tensors) -> float:
    return float(torch.cat([(a[name] - b[name]).flatten() for name in a]).detach().norm())


class TestGradients:
    @given(cases)
    def test_single_level(self, case: Case) -> None:
        """It is the derivative of L_train(w, alpha)."""
        descends(case, SingleLevel(), partial(case.problem.train, case.problem.weights))

    @given(cases)
    def test_first_order(self, case: Case) -> None:
        """It is the derivative of L_val(w, alpha)."""
        descends(case, FirstOrder(), partial(case.valid, case.no_step))

    @following
    @given(cases)
    def test_exact_second_order(self, follow: bool, case: Case) -> None:
        """It is the derivative of L_val(w', alpha), where w' are the weights after a plain step, or after a step of the optimiser."""
        descends(case, ExactSecondOrder(follow=follow), partial(case.valid, case.optimiser_step if follow else case.plain_step))

    @following
    @given(cases)
    def test_the_difference_is_of_second_order(self, follow: bool, case: Case) -> None:
        """The error of second_order falls by a factor of a hundred when its step falls by ten, until rounding."""
        exact = ExactSecondOrder(follow=follow).gradient(case.problem)
        large, small = (distance(SecondOrder(follow=follow, step=s).gradient(case.problem), exact) for s in (1e-2, 1e-3))

        assert abs(large - 100 * small) <= 0.05 * large + 1e-9

    @following
    @given(toys(curved=False))
    def test_the_difference_is_exact_on_quadratics(self, follow: bool, case: Case) -> None:
        """On a quadratic loss second_order is exact with any step."""
        exact = ExactSecondOrder(follow=follow).gradient(case.problem)

        assert distance(SecondOrder(follow=follow, step=1.0).gradient(case.problem), exact) <= 1e-12

    @following
    @given(cases)
    def test_the_displaced_points(self, follow: bool, case: Case) -> None:
        """The training loss is taken at the weights, and at two points on either side of them at the distance `step`."""
        displaced(case, SecondOrder(follow=follow, step=0.02))

    @pytest.mark.parametrize("kind", [SecondOrder, ExactSecondOrder])
    @given(cases)
    def test_no_step_is_the_first_order(self, kind: type, case: Case) -> None:
        """At xi = 0 both are first_order, to the bit."""
        problem = attrs.evolve(case.problem, xi=0.0)
        first, second = FirstOrder().gradient(problem), kind().gradient(problem)

        assert all(torch.equal(first[name], second[name]) for name in problem.alphas)


def displaced(case: Case, architect: SecondOrder) -> None:
    points: list[Tensors] = []

    def train(weights: Tensors, alphas: Tensors) -> Tensor:
        points.append({name: w.detach() for name, w in weights.items()})
        return case.problem.train(weights, alphas)

    architect.gradient(attrs.evolve(case.problem, train=train))
    w, plus, minus = points
    close(distance(plus, w), architect.step, 1e-9)
    close(distance(plus, minus), 2 * architect.step, 1e-9)


@given(optimisers(), st.integers(0, 3), seeds())
def test_unroll_is_a_step_of_the_optimiser(recipe: Optimiser, steps: int, seed: Seed) -> None:
    """The unrolled weights are those after a step of torch's optimiser, and their derivative is finite, also for a zero gradient."""
    generator, named = seed.generator(), [("w", nn.Parameter(numbers(seed.generator(), 5)))]
    weight, optimiser = named[0][1], recipe.build(named)
    mask = torch.tensor([0.0, 1, 1, 1e-7, 1])
    for _ in range(steps):
        weight.grad = numbers(generator, 5) * mask
        optimiser.step()
    gradient = (numbers(generator, 5) * mask).requires_grad_()
    found = recipe.unroll(optimiser, named, {"w": gradient})["w"]
    (slope,) = torch.autograd.grad(found.sum(), gradient)
    weight.grad = gradient.detach()
    optimiser.step()

    torch.testing.assert_close(found.detach(), weight.detach(), rtol=1e-13, atol=1e-15)
    assert slope.isfinite().all()


@given(trained)
def test_the_weights_move_against_the_new_alphas(parent: TrainedNetwork) -> None:
    """The loss of a step is the training loss at the old weights and the new alphas, with the same dropout mask."""
    against_the_new_alphas(parent)


def against_the_new_alphas(parent: TrainedNetwork) -> None:
    problem = parent.next_problem()
    later = parent.copy()
    stepped = next(iter(Search(later.strategy, data=later.data, state=later.state)))

    assert isinstance(stepped, Stepped)
    assert problem.train(problem.weights, later.network.alphas).item() == stepped.loss


def test_without_alphas_only_the_weights_move() -> None:
    """An architect is not called for a problem without alphas."""
    weights = {"w": nn.Parameter(torch.ones(1))}
    optimiser = PLAIN.build(weights.items())
    problem = Bilevel(weights, {}, lambda w, _: w["w"].sum(), lambda w, _: 1 / 0, 0.1, lambda g: g)
    alternating_step(problem, FirstOrder(), {"weights": optimiser}, lambda: problem.train(weights, {}))

    assert weights["w"].item() == pytest.approx(0.99)


#: the iterations of the paper for each xi; the reproduction of Table 1 has all
ITERATIONS = [(0.0, 659), (0.3, 411), (0.5, 296), (0.7, 335)]
MOST = 10_000 if FULL else 100


class TestToy:
    @pytest.mark.parametrize("kind", [SecondOrder, ExactSecondOrder])
    @pytest.mark.parametrize(("xi", "iterations"), ITERATIONS if FULL else ITERATIONS[2:3])
    def test_iterations_of_the_paper(self, kind: type, xi: float, iterations: int) -> None:
        """The architects, alternating as in a search, need the numbers of iterations in Table 1 of the paper."""
        descent = descend(kind(PLAIN), xi)
        (alpha, w) = descent.path[-1]

        assert descent.iterations == iterations
        assert abs(w - alpha) < 0.01

    def test_first_order(self) -> None:
        """First order is second order with xi = 0."""
        assert descend(FirstOrder(PLAIN), 0.5, most=MOST).path == descend(SecondOrder(PLAIN), 0.0, most=MOST).path

    def test_follow(self) -> None:
        """Following plain gradient descent is second order with its learning rate as xi."""
        followed = descend(SecondOrder(PLAIN, follow=True), 0.5, most=MOST)
        assert followed.path == descend(SecondOrder(PLAIN), PLAIN.learning_rate, most=MOST).path

    def test_most(self) -> None:
        """It stops after the given number of iterations."""
        assert descend(FirstOrder(PLAIN), 0.0, most=3).iterations == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"follow": 1}, "follow is 1; it must be true or false"), ({"step": 0.0}, "step is 0.0; it must be")],
)
def test_impossible_options(options: Any, message: str) -> None:
    """They are refused, and the message says what to write."""
    with pytest.raises(ValueError, match=message):
        SecondOrder(**options)


class TestFaults:
    """The tests above detect wrong formulas, which no law of architects could know."""

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("direct[name] + (plus", "direct[name] - (plus"),
            ("problem.xi * g[name]", "g[name]"),
            ("/ (2 * eps)", "/ (2 * self.step)"),
            ("at(eps), at(-eps)", "at(eps), at(eps)"),
            ("at(eps), at(-eps)", "at(eps), at(0 * eps)"),
            ("problem.valid(w_unrolled, alpha)", "problem.valid(w, alpha)"),
        ],
    )
    def test_a_wrong_correction(self, old: str, new: str) -> None:
        """A wrong sign, xi left out, a wrong divisor, one point twice, no displacement, and the gradient at w are detected."""
        case = next_case(specimen(others=SMOOTH))
        value = partial(case.valid, case.plain_step)
        descends(case, SecondOrder(), value, 1e-6)
        with pytest.raises(AssertionError, match="is not"):
            descends(case, rewritten(old, new)(), value, 1e-6)

    @pytest.mark.parametrize(
        ("old", "new"), [("self.step / norm", "self.step"), ("at(eps), at(-eps)", "at(eps), at(eps)"), ("/ norm", "/ norm**2")]
    )
    def test_points_elsewhere(self, old: str, new: str) -> None:
        """A length that is not divided by the norm, and one point twice, are detected."""
        case = next_case(specimen(others=SMOOTH))
        displaced(case, SecondOrder())
        with pytest.raises(AssertionError, match="is not"):
            displaced(case, rewritten(old, new)())

    def test_weights_first(self, monkeypatch: Patch) -> None:
        """If the weights move before the alphas, the iterations of the paper and the loss of a step are others."""

        def swapped(problem: Bilevel, architect: Architect, optimisers: Any, loss: Any, **_: Any) -> Tensor:
            value = nasframe.search.bilevel.weights_step(problem.weights, optimisers["weights"], loss)
            nasframe.search.bilevel._move(problem.alphas, architect.gradient(problem), optimisers["alphas"])
            return value

        parent = specimen()
        monkeypatch.setattr("nasframe_bilevel.toy.alternating_step", swapped)
        monkeypatch.setattr("nasframe.search.trainer.alternating_step", swapped)

        assert descend(SecondOrder(PLAIN), 0.5).iterations == 301
        with pytest.raises(AssertionError):
            against_the_new_alphas(parent)

    @pytest.mark.parametrize(("method", "step"), [("adam", "_adam"), ("adamw", "_adam"), ("sgd", "_sgd")])
    def test_moments_forgotten(self, method: str, step: str, monkeypatch: Patch) -> None:
        """An unrolled step without the state of the optimiser is detected."""
        case, honest = next_case(specimen(method, others=SMOOTH)), getattr(Optimiser, step)
        value = partial(case.valid, case.optimiser_step)
        descends(case, ExactSecondOrder(follow=True), value)
        monkeypatch.setattr(Optimiser, step, lambda self, w, g, state, rate: honest(self, w, g, {}, rate))
        with pytest.raises(AssertionError, match="is not"):
            descends(case, ExactSecondOrder(follow=True), value)


def rewritten(old: str, new: str) -> type[SecondOrder]:
    """Return the architect with another text in one place of its source."""
    source = inspect.getsource(second_order)
    assert source.count(old) == 1
    names: dict[str, Any] = {"__name__": "rewritten"}
    exec(compile(source.replace(old, new), "rewritten", "exec"), names)  # noqa: S102 - the source is ours
    return names["SecondOrder"]
