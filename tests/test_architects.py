"""Architects, held to the derivative of what they say they descend; and mutants, each of which a law must catch."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_bilevel import ExactSecondOrder, FirstOrder, SecondOrder, SingleLevel, second_order
from nasframe_bilevel.toy import PLAIN, descend
from nasframe_recurrent import Prod, Sigmoid, Tanh
from recurrent import specimen, strategies
from test_resume import digest
from torch import Tensor, nn
from torch.optim import Optimizer
from toy import PLUGINS, toy_strategy

import nasframe.search.bilevel
from nasframe import Architect, Bilevel, Optimiser, Search, Seed
from nasframe.records import Stepped
from nasframe.search.bilevel import alternating_step
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import optimisers, seeds, sizes, trained_networks
from nasframe.testing.trained import TrainedNetwork

Patch = pytest.MonkeyPatch
Tensors = Mapping[str, Tensor]

#: operations whose gradients are their derivatives, of every order: no kink, and no running mean that is taken as given
SMOOTH = (Sigmoid(), Tanh(), Prod())
ARCHITECTS = [SingleLevel(), FirstOrder(), *(kind(follow=f) for kind in (SecondOrder, ExactSecondOrder) for f in (False, True))]
every = pytest.mark.parametrize("architect", ARCHITECTS, ids=lambda a: f"{a.name}{'_follow' * getattr(a, 'follow', False)}")
following = pytest.mark.parametrize("follow", [False, True], ids=["plain", "follow"])


@attrs.frozen(eq=False)
class Case:
    """A problem and the weights' own optimiser, which has state."""

    problem: Bilevel
    optimiser: Optimizer

    def own_step(self, gradients: Tensors) -> Tensors:
        """The weights after torch's own step, taken on copies."""
        weights, optimiser = copy.deepcopy((dict(self.problem.weights), self.optimiser))
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimiser.step()
        return {name: weight.detach() for name, weight in weights.items()}

    def plain_step(self, gradients: Tensors) -> Tensors:
        """The weights after w - xi g."""
        return {name: w.detach() - self.problem.xi * gradients[name] for name, w in self.problem.weights.items()}

    def no_step(self, gradients: Tensors) -> Tensors:
        """The weights as they are."""
        return self.problem.weights

    def valid(self, ahead: Callable[[Tensors], Tensors], alphas: Tensors) -> Tensor:
        """The validation loss after a step down the training loss."""
        weights = self.problem.weights
        gradients = torch.autograd.grad(self.problem.train(weights, alphas), [*weights.values()], materialize_grads=True)
        return self.problem.valid(ahead(dict(zip(weights, gradients, strict=True))), alphas)


def numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def loss(generator: torch.Generator, n: int, k: int, curved: bool) -> Callable[[Tensors, Tensors], Tensor]:
    """A quadratic of n weights and k alphas with all its mixed terms, and a tanh of them if it is to be curved."""
    matrix, vector, scale = numbers(generator, n + k, n + k), numbers(generator, n + k), 0.5 / (n + k)

    def value(weights: Tensors, alphas: Tensors) -> Tensor:
        z = torch.cat([t.flatten() for t in (*weights.values(), *alphas.values())])
        return scale * (z @ matrix @ z) + (torch.tanh(matrix @ z) @ vector if curved else vector @ z)

    return value


@st.composite
def toys(draw: st.DrawFn, curved: bool = True) -> Case:
    """Two tensors of weights and two of alphas, and an optimiser that has made a step or more."""
    generator, (rows, columns, p, q) = draw(seeds()).generator(), [draw(sizes()) for _ in range(4)]
    weights, alphas = (
        {name: nn.Parameter(numbers(generator, *shape)) for name, shape in shapes.items()}
        for shapes in ({"W": (rows, columns), "b": (columns,)}, {"p": (p,), "q": (q,)})
    )
    train, valid = (loss(generator, (rows + 1) * columns, p + q, curved) for _ in range(2))
    recipe = draw(optimisers())
    own = recipe.build(weights.items())
    for _ in range(draw(sizes())):
        for weight in weights.values():
            weight.grad = numbers(generator, *weight.shape)
        own.step()
        own.zero_grad()
    return Case(Bilevel(weights, alphas, train, valid, recipe.learning_rate, partial(recipe.unroll, own, weights.items())), own)


def asked(parent: TrainedNetwork) -> Case:
    """What the architect is asked at the next step of this search."""
    found: list[Bilevel] = []

    class Ask(FirstOrder):
        def gradient(self, problem: Bilevel) -> Tensors:
            found.append(problem)
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        for _ in Search(attrs.evolve(parent.strategy, architect=Ask()), data=parent.data, state=parent.state):
            pass
    return Case(found[0], parent.state.optimisers["weights"])


trained = trained_networks(strategies(SMOOTH, least=1), steps=5)
supernets = trained.map(asked)
cases = toys() | supernets


def close(found: float, expected: float, tolerance: float) -> None:
    assert abs(found - expected) <= tolerance * max(1.0, abs(expected)), f"{found} is not {expected}"


def along(gradient: Tensors, direction: Tensors) -> float:
    return float(sum((gradient[name] * d).sum() for name, d in direction.items()))


def descends(case: Case, architect: Architect, value: Callable[[Tensors], Tensor], tolerance: float = 1e-7) -> None:
    """Its gradient is the derivative of that function of the alphas, by differences of the fourth order."""
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
        """It is the derivative of L_val(w', alpha), where w' is a plain step ahead, or torch's own step with its moments."""
        descends(case, ExactSecondOrder(follow=follow), partial(case.valid, case.own_step if follow else case.plain_step))

    @following
    @given(cases)
    def test_the_difference_is_of_second_order(self, follow: bool, case: Case) -> None:
        """The error of second_order falls by a hundred when its step falls by ten, until rounding."""
        exact = ExactSecondOrder(follow=follow).gradient(case.problem)
        large, small = (distance(SecondOrder(follow=follow, step=s).gradient(case.problem), exact) for s in (1e-2, 1e-3))

        assert abs(large - 100 * small) <= 0.05 * large + 1e-9

    @following
    @given(toys(curved=False))
    def test_the_difference_is_exact_on_quadratics(self, follow: bool, case: Case) -> None:
        """Whatever the step."""
        exact = ExactSecondOrder(follow=follow).gradient(case.problem)

        assert distance(SecondOrder(follow=follow, step=1.0).gradient(case.problem), exact) <= 1e-12

    @following
    @given(cases)
    def test_the_displaced_points(self, follow: bool, case: Case) -> None:
        """The training loss is taken at the weights, and at two points on either side of them that are `step` away."""
        displaced(case, SecondOrder(follow=follow, step=0.02))

    @pytest.mark.parametrize("kind", [SecondOrder, ExactSecondOrder])
    @given(cases)
    def test_no_step_is_the_first_order(self, kind: type, case: Case) -> None:
        """At xi = 0 both are first_order, to the bit."""
        problem = attrs.evolve(case.problem, xi=0.0)
        first, second = FirstOrder().gradient(problem), kind().gradient(problem)

        assert all(torch.equal(first[name], second[name]) for name in problem.alphas)

    @every
    @pytest.mark.parametrize("without", [("train", 0), ("train", 1), ("valid", 0), ("valid", 1), ("train", 0, 1)])
    @given(case=toys())
    def test_losses_that_do_not_depend(self, architect: Architect, without: Any, case: Case) -> None:
        """Where a loss does not depend on the weights or on the alphas there are gradients all the same, by every name."""
        split, *positions = without
        loss = getattr(case.problem, split)

        def partly(*groups: Tensors) -> Tensor:
            return loss(*({k: t.detach() * 0 for k, t in g.items()} if i in positions else g for i, g in enumerate(groups)))

        problem = attrs.evolve(case.problem, **{split: partly})
        gradient = architect.gradient(problem)

        assert {n: (g.shape, bool(g.isfinite().all())) for n, g in gradient.items()} == {
            n: (a.shape, True) for n, a in problem.alphas.items()
        }


def displaced(case: Case, architect: SecondOrder) -> None:
    points: list[Tensors] = []

    def train(weights: Tensors, alphas: Tensors) -> Tensor:
        points.append({name: w.detach() for name, w in weights.items()})
        return case.problem.train(weights, alphas)

    architect.gradient(attrs.evolve(case.problem, train=train))
    w, plus, minus = points
    close(distance(plus, w), architect.step, 1e-9)
    close(distance(plus, minus), 2 * architect.step, 1e-9)


class TestUnroll:
    @given(optimisers(), st.integers(0, 3), seeds())
    def test_is_torchs_own_step(self, recipe: Optimiser, steps: int, seed: Seed) -> None:
        """From no state or some, the unrolled weights are those that the optimiser's own step makes; a gradient of zero at a
        weight that never had another has a finite derivative.
        """
        generator, named = seed.generator(), [("w", nn.Parameter(numbers(seed.generator(), 5)))]
        weight, own = named[0][1], recipe.build(named)
        mask = torch.tensor([0.0, 1, 1, 1e-7, 1])
        for _ in range(steps):
            weight.grad = numbers(generator, 5) * mask
            own.step()
        gradient = (numbers(generator, 5) * mask).requires_grad_()
        found = recipe.unroll(own, named, {"w": gradient})["w"]
        (slope,) = torch.autograd.grad(found.sum(), gradient)
        weight.grad = gradient.detach()
        own.step()

        torch.testing.assert_close(found.detach(), weight.detach(), rtol=1e-13, atol=1e-15)
        assert slope.isfinite().all()


class TestSupernets:
    @every
    def test_asking_moves_nothing(self, architect: Architect) -> None:
        """Parameters, buffers, gradients, the optimisers' state and the global generator are as they were."""
        untouched(architect)

    @given(supernets)
    def test_the_noise_is_that_of_the_step(self, case: Case) -> None:
        """Both losses are the same each time they are asked for."""
        steady(case)

    @given(trained)
    def test_the_weights_move_against_the_new_alphas(self, parent: TrainedNetwork) -> None:
        """The loss of a step is the problem's training loss, its dropout mask too, at the old weights and the new alphas."""
        against_the_new_alphas(parent)

    @every
    def test_a_search_resumes(self, architect: Architect) -> None:
        """A search with growth, pruning and dropout ends, and in the same bytes when it is taken up in the middle."""
        strategy = toy_strategy(architect=architect)
        search, dumps = Search(strategy), []
        for _ in search:
            dumps.append(saved(search.state))
        again = Search(strategy, state=revived(*dumps[len(dumps) // 2], strategy, PLUGINS))
        again.run()

        assert search.network.structure.decided
        assert digest(again.state) == digest(search.state)


def untouched(architect: Architect) -> None:
    parent = specimen()
    problem, before = asked(parent).problem, digest(parent.state)
    torch.manual_seed(3)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    architect.gradient(problem)

    assert digest(parent.state) == before
    assert all(p.grad is None for p in parent.network.parameters())
    assert torch.equal(torch.rand(3), drawn)


def against_the_new_alphas(parent: TrainedNetwork) -> None:
    problem = asked(parent).problem
    later = parent.copy()
    stepped = next(iter(Search(later.strategy, data=later.data, state=later.state)))

    assert isinstance(stepped, Stepped)
    assert problem.train(problem.weights, later.network.alphas).item() == stepped.loss


def steady(case: Case) -> None:
    for loss in (case.problem.train, case.problem.valid):
        assert torch.equal(*(loss(case.problem.weights, case.problem.alphas) for _ in range(2)))


class TestToy:
    @pytest.mark.parametrize("kind", [SecondOrder, ExactSecondOrder])
    @pytest.mark.parametrize(("xi", "iterations"), [(0.0, 659), (0.3, 411), (0.5, 296), (0.7, 335)])
    def test_iterations_of_the_paper(self, kind: type, xi: float, iterations: int) -> None:
        """The registered architects, alternated as in a search, take the iterations that the paper's Table 1 has."""
        descent = descend(kind(PLAIN), xi)
        (alpha, w) = descent.path[-1]

        assert descent.iterations == iterations
        assert abs(w - alpha) < 0.01

    def test_first_order(self) -> None:
        """It is xi = 0, whatever xi is."""
        assert descend(FirstOrder(PLAIN), 0.5).path == descend(SecondOrder(PLAIN), 0.0).path

    def test_follow(self) -> None:
        """To follow plain gradient descent is to have its learning rate as xi."""
        assert descend(SecondOrder(PLAIN, follow=True), 0.5).path == descend(SecondOrder(PLAIN), PLAIN.learning_rate).path

    def test_most(self) -> None:
        """It stops at the number of iterations that is given."""
        assert descend(FirstOrder(PLAIN), 0.0, most=3).iterations == 3


def test_a_decided_problem_is_not_asked() -> None:
    """Without alphas only the weights move."""
    weights = {"w": nn.Parameter(torch.ones(1))}
    optimiser = PLAIN.build(weights.items())
    problem = Bilevel(weights, {}, lambda w, _: w["w"].sum(), lambda w, _: 1 / 0, 0.1, lambda g: g)
    alternating_step(problem, FirstOrder(), {"weights": optimiser}, lambda: problem.train(weights, {}))

    assert weights["w"].item() == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"follow": 1}, "follow is 1; it must be true or false"), ({"step": 0.0}, "step is 0.0; it must be")],
)
def test_options_that_cannot_be(options: Any, message: str) -> None:
    """They are refused with what to write instead."""
    with pytest.raises(ValueError, match=message):
        SecondOrder(**options)


class TestMutants:
    """Each has one fault; the law named catches it."""

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
        """The derivative: a wrong sign, xi left out, a wrong divisor, one point twice, no displacement, v at w."""
        case = asked(specimen(others=SMOOTH))
        value = partial(case.valid, case.plain_step)
        descends(case, SecondOrder(), value, 1e-6)
        with pytest.raises(AssertionError, match="is not"):
            descends(case, mutant(old, new)(), value, 1e-6)

    @pytest.mark.parametrize(
        ("old", "new"), [("self.step / norm", "self.step"), ("at(eps), at(-eps)", "at(eps), at(eps)"), ("/ norm", "/ norm**2")]
    )
    def test_points_elsewhere(self, old: str, new: str) -> None:
        """The displaced points: a length that is not divided by the norm, one point twice."""
        case = asked(specimen(others=SMOOTH))
        displaced(case, SecondOrder())
        with pytest.raises(AssertionError, match="is not"):
            displaced(case, mutant(old, new)())

    def test_weights_first(self, monkeypatch: Patch) -> None:
        """The paper's iterations, and the loss of a step: with the weights before the alphas they are others."""

        def swapped(problem: Bilevel, architect: Architect, optimisers: Any, loss: Any) -> Tensor:
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
        """The derivative: an unrolled step without the optimiser's state is not the optimiser's."""
        case, own = asked(specimen(method, others=SMOOTH)), getattr(Optimiser, step)
        value = partial(case.valid, case.own_step)
        descends(case, ExactSecondOrder(follow=True), value)
        monkeypatch.setattr(Optimiser, step, lambda self, w, g, state, rate: own(self, w, g, {}, rate))
        with pytest.raises(AssertionError, match="is not"):
            descends(case, ExactSecondOrder(follow=True), value)

    @every
    def test_running_statistics_that_move(self, architect: Architect, monkeypatch: Patch) -> None:
        """Asking moves nothing: a pass on the network's own buffers is seen."""
        monkeypatch.setattr(nasframe.search.bilevel, "_buffers", lambda network: dict(network.named_buffers()))
        with pytest.raises(AssertionError):
            untouched(architect)

    def test_another_mask_each_time(self, monkeypatch: Patch) -> None:
        """The noise: a loss that draws anew is seen."""
        case = asked(specimen())
        monkeypatch.setattr(Seed, "as_global", lambda seed, device="cpu": contextlib.nullcontext())
        with pytest.raises(AssertionError):
            steady(case)


def mutant(old: str, new: str) -> type[SecondOrder]:
    """The architect with another text in one place."""
    source = inspect.getsource(second_order)
    assert source.count(old) == 1
    names: dict[str, Any] = {"__name__": "mutant"}
    exec(compile(source.replace(old, new), "mutant", "exec"), names)  # noqa: S102 - the source is ours
    return names["SecondOrder"]
