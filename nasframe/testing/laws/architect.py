"""The laws of architects: tried on toy problems, on the problems of searches that have trained, and in these searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from nasframe import AlphaLoss, Architect, Bilevel, Data, Draw, Optimiser, Seed, Split
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError
from nasframe.search.bilevel import alternating_step, loss_by_mixing
from nasframe.search.state import State, copied
from nasframe.search.trainer import alphas_of
from nasframe.testing.cases import SearchCase
from nasframe.testing.compare import differences, largest, require, require_at_most, require_like
from nasframe.testing.fakes import Squares
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import optimisers, sizes
from nasframe.testing.subject import Subject

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


@attrs.frozen
class Toy:
    """A bilevel problem with two tensors of weights and two of alphas, and an optimiser of the weights that has state.

    Args:
        shape: the rows and columns of a weight, and the lengths of the alphas.
        optimiser: the optimiser of the weights.
        seed: the seed of the numbers.
    """

    shape: tuple[int, int, int, int]
    optimiser: Optimiser
    seed: int

    def problem(self) -> Bilevel:
        """Return the problem with new tensors."""
        generator, (rows, columns, p, q) = Seed((self.seed, "toy")).generator(), self.shape
        weights = {"W": _parameter(generator, rows, columns), "b": _parameter(generator, columns)}
        alphas = {"p": _parameter(generator, p), "q": _parameter(generator, q)}
        train, valid = (_curved(generator, (rows + 1) * columns + p + q) for _ in range(2))
        optimiser = self.optimiser.build(weights.items())
        # One step, so that the optimiser has moments: an unrolled step without them would hide their part of the formula.
        for weight in weights.values():
            weight.grad = _numbers(generator, *weight.shape)
        optimiser.step()
        optimiser.zero_grad()
        unroll = partial(self.optimiser.unroll, optimiser, weights.items())
        return Bilevel(weights, alphas, train, valid, self.optimiser.learning_rate, unroll)


def _numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _parameter(generator: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(_numbers(generator, *shape))


def _curved(generator: torch.Generator, n: int) -> Loss:
    """Return a quadratic function of n weights and alphas with all mixed terms, plus a tanh of them."""
    # The tanh makes third derivatives differ from zero, so that a finite difference and an exact Hessian product are not
    # equal by accident.
    matrix, vector, scale = _numbers(generator, n, n), _numbers(generator, n), 0.5 / n

    def value(weights: Tensors, alphas: Tensors) -> Tensor:
        z = torch.cat([t.flatten() for t in (*weights.values(), *alphas.values())])
        return scale * (z @ matrix @ z) + torch.tanh(matrix @ z) @ vector

    return value


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """An architect in a search, and on a toy problem; `counts` are the numbers of candidates of some sites."""

    toy: Toy
    counts: tuple[int, ...]

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.toy}; sites of {', '.join(map(str, self.counts))} candidates"

    def search_problem(self) -> Bilevel:
        """Return the problem of the next step of the search; reject the case if everything is decided."""
        trained = self.trained
        if not trained.network.alphas:
            reject()
        return trained.next_problem()

    def problems(self) -> dict[str, Bilevel]:
        """Return both problems with new tensors."""
        return {"a toy problem": self.toy.problem(), "the problem of a search": self.search_problem()}

    def alphas(self, *purpose: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return alphas of the sites, different ones for each purpose."""
        generator = Seed((self.strategy.seed, "alphas", *purpose)).generator()
        return {f"cell/n{i}": _numbers(generator, n).to(dtype) for i, n in enumerate(self.counts)}


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the architect in the searches of all habitats."""
    assert subject.parts is not None
    parts = subject.parts
    toys = st.builds(Toy, st.tuples(sizes(), sizes(), sizes(), sizes()), optimisers(), st.integers(0, 999))

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        strategy = attrs.evolve(draw(subject.searches()), architect=part)
        if part.needs_progress:
            strategy = attrs.evolve(strategy, optimiser=attrs.evolve(strategy.optimiser, epochs=10))
        counts = draw(st.lists(st.integers(2, 5), min_size=2, max_size=3).map(tuple))
        return Case(subject=subject, part=part, strategy=strategy, toy=draw(toys), counts=counts, data=draw(st.data()))

    return draw()


def exercise(case: Case) -> dict[str, Any]:
    """Return the gradients of both problems, and the alphas after a step of the optimiser."""
    gradients = {f"the gradient of {what}": dict(case.part.gradient(p)) for what, p in case.problems().items()}
    alphas = {a: nn.Parameter(alpha) for a, alpha in case.alphas().items()}
    optimiser = case.part.build_optimiser([*alphas.items()])
    for alpha in alphas.values():
        alpha.grad = torch.ones_like(alpha)
    optimiser.step()
    return gradients | {"the alphas after a step": _detached(alphas)}


def _detached(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@law("architect.gradient", "a site is left out, or a tensor is flattened on the way")
def gradient(case: Case) -> None:
    """The gradient is finite and has the names, shapes and dtypes of the alphas."""
    for what, problem in case.problems().items():
        require_like(f"the gradient of {what}", case.part.gradient(problem), problem.alphas)


@law(
    "architect.independent",
    "torch.autograd.grad is called without materialize_grads, or something is divided by a norm of zero",
)
def independent(case: Case) -> None:
    """The gradient is finite even if a loss does not depend on the weights, on the alphas, or on either."""
    # As where all candidates of a site are without parameters, or a loss is constant: autograd then returns None for a
    # gradient, and the norm in the step of a finite difference is zero.
    for split, without in product(("train", "valid"), (("weights",), ("alphas",), ("weights", "alphas"))):
        problem = case.toy.problem()
        changed: dict[str, Any] = {split: partial(_without, getattr(problem, split), without)}
        found = case.part.gradient(attrs.evolve(problem, **changed))
        broken = [name for name, value in found.items() if not value.isfinite().all()]
        what = f"if the {split} loss does not depend on {' and '.join(without)}"
        require(not broken, f"{what} the gradient is not finite at {', '.join(broken)}")


def _without(loss: Loss, names: Sequence[str], weights: Tensors, alphas: Tensors) -> Tensor:
    given = {"weights": weights, "alphas": alphas}
    return loss(*({k: t.detach() * 0 for k, t in v.items()} if name in names else v for name, v in given.items()))


@law("architect.pure", "it calls backward(), which leaves gradients behind, or changes weights and takes the step back")
def pure(case: Case) -> None:
    """Computing the gradient changes no weight, alpha, .grad, buffer or optimiser, to the bit."""
    trained = case.trained
    if not trained.network.alphas:
        reject()
    problems = {"toy": case.toy.problem(), "search": trained.next_problem()}
    before = _values(problems) | _saved(trained.state)
    for problem in problems.values():
        case.part.gradient(problem)
    changed = differences(before, _values(problems) | _saved(trained.state))
    require(not changed, f"computing the gradient changed {', '.join(changed)}")


def _values(problems: Mapping[str, Bilevel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, problem in problems.items():
        for name, p in {**problem.weights, **problem.alphas}.items():
            values = p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone()
            kinds = ("{}", "requires_grad of {}", "the gradient of {}")
            found |= {f"{kind.format(name)} ({what})": v for kind, v in zip(kinds, values, strict=True)}
    return found


def _saved(state: State) -> dict[str, Any]:
    text, flat = saved(state)
    return {"the counters and records": text, **flat}


@law("architect.optimiser", "parameters are chosen by name, or the case that there are no alphas is forgotten")
def optimiser(case: Case) -> None:
    """The optimiser has exactly the alphas that it is given, also if there are none, as in an architecture."""
    for number in (len(case.counts), 0):
        given = {a: nn.Parameter(alpha) for a, alpha in [*case.alphas().items()][:number]}
        built = case.part.build_optimiser([*given.items()])
        # By identity, because a copy of an alpha would be moved without any effect.
        held = [id(p) for group in built.param_groups for p in group["params"]]
        right = sorted(held) == sorted(map(id, given.values()))
        require(right, f"it is given {len(given)} alphas and has {len(held)} parameters, not exactly these")
        # the settings of an optimiser may depend on the stage, and must work at each
        for stage in (0, 1, 3):
            case.part.configure(built, stage)
            built.step()


@law("architect.follows", "the class of the optimiser is not in nasframe.change.optimisers.POWERS")
def follows(case: Case) -> None:
    """The state of the optimiser is carried through a change of the network."""
    trained = case.trained
    try:
        # A change that changes nothing: whatever is lost is lost by carrying the optimiser's state.
        child = trained.after(remove_candidates(trained.network.structure, {}))
    except ChangeError as error:
        raise AssertionError(str(error)) from error
    changed = differences(_moments(trained.state), _moments(child.state))
    require(not changed, f"a change that removes nothing changed {', '.join(changed)}")


def _moments(state: State) -> dict[str, Any]:
    moments = state.optimisers["alphas"].state
    return {f"{key} of {n}": v for n, p in alphas_of(state.network) if p in moments for key, v in moments[p].items()}


@law("architect.descends", "a sign is wrong, in the gradient or by maximize=True in the optimiser")
def descends(case: Case) -> None:
    """Some steps reduce a loss that is the same for training and validation, and in which alphas and weights do not interact."""
    problem = case.toy.problem()
    # a goal beyond zero, so that weight decay of the alphas leads towards it
    goal = {n: alpha.detach() - 2 * torch.where(alpha.detach() < 0, -1.0, 1.0) for n, alpha in problem.alphas.items()}

    def bowl(alphas: Tensors) -> Tensor:
        return sum(((alpha - goal[n]).square().sum() for n, alpha in alphas.items()), torch.zeros((), dtype=torch.float64))

    def loss(weights: Tensors, alphas: Tensors) -> Tensor:
        return bowl(alphas) + sum(w.square().sum() for w in weights.values())

    problem = attrs.evolve(problem, train=loss, valid=loss)
    optimisers = {
        "weights": case.toy.optimiser.build(problem.weights.items()),
        "alphas": case.part.build_optimiser([*problem.alphas.items()]),
    }
    # The alphas start at random places and the bowl has its bottom beyond zero, so that standing still or descending to
    # zero by weight decay alone is not enough.
    first = float(bowl(problem.alphas).detach())
    for _ in range(5):
        case.part.configure(optimisers["alphas"], 0)
        alternating_step(problem, case.part, optimisers, lambda: loss(problem.weights, problem.alphas))
    last = float(bowl(problem.alphas).detach())
    require(last < first, f"in five steps the loss changes from {first:.6g} to {last:.6g}")


@law("architect.splits", "a hook is left on the weights, or a gradient of the validation loss reaches their step")
def splits(case: Case) -> None:
    """The validation split affects the weights through the alphas only, and the test split is not read.

    With fixed alphas, the weights of a search are the same bits whatever the validation examples are.
    """
    ends = []
    # The alphas are held fixed, so that the only lawful way from the validation split to the weights is closed.
    for factor in (1, -1):
        trained = case.trained
        trained = attrs.evolve(trained, data=_scaled_validation(trained.data, factor))
        trained.state.optimisers["alphas"] = _Fixed([p for _, p in alphas_of(trained.network)])
        ends.append(copied(trained.train(2).network))
    changed = differences(*ends)
    require(not changed, f"other validation examples changed {', '.join(changed)}")


class _Fixed(torch.optim.SGD):
    """An optimiser that moves nothing, whatever learning rate an architect sets, and keeps the last gradients."""

    seen: Sequence[Tensor] = ()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leave the parameters as they are."""
        self.seen = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.param_groups[0]["params"]]


def _scaled_validation(data: Data, factor: int) -> Data:
    """Return the data with the validation inputs multiplied by a factor, and a test split that raises an error."""

    def scaled(batch: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def of(index: Tensor) -> tuple[Tensor, Tensor]:
            inputs, targets = batch(index)
            return factor * inputs, targets

        return of

    def unreadable(index: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("the test split was read")

    validation = Split(data.validation.size, scaled(data.validation.batch), scaled(data.validation.draw))
    return attrs.evolve(data, validation=validation, test=Split(data.test.size, unreadable))


@law("architect.training", "it draws from torch's global generator, calls backward(), or leaves `active` out")
def training(case: Case) -> None:
    """The mixing weights of the weights' step are finite, follow from the draw, and are of the same candidates as those given.

    Computing them changes nothing.
    """
    if type(case.part).training_mixing is Architect.training_mixing:
        raise Inapplicable("it does not implement training_mixing()")
    trained = case.trained
    network, (inputs, targets) = trained.network, trained.data.train.batch(torch.arange(2))
    if not network.alphas:
        reject()
    loss = loss_by_mixing(network, lambda forward, mixing: trained.data.objective(forward(inputs, mixing), targets))
    before = _values({"search": trained.next_problem()}) | _saved(trained.state)
    for progress in (0.0, 0.5, 1.0) if case.part.needs_progress else (0.0, 1.0, None):
        draw = Draw(Seed((case.strategy.seed, "training mixing")), progress)
        with torch.no_grad():
            given = network.mixing(draw)
        # The loss has the same dropout at each call; only what the architect itself draws may differ between the two.
        found = []
        for number in range(2):
            with Seed((number,)).as_global():
                found.append(case.part.training_mixing(given, partial(_seeded, loss), draw))
            require_like(f"training_mixing() at progress {progress}", found[-1], given)
            require(found[-1].active == given.active, f"it computes {found[-1].active} in the place of {given.active}")
        changed = differences(*map(dict, found))
        require(not changed, f"with equal draws there are other mixing weights at {', '.join(changed)}")
    changed = differences(before, _values({"search": trained.next_problem()}) | _saved(trained.state))
    require(not changed, f"computing them changed {', '.join(changed)}")


def _seeded(loss: Callable[[Tensors], Tensor], mixing: Tensors) -> Tensor:
    with Seed(("dropout",)).as_global():
        return loss(mixing)


@law("architect.terms", "the architect adds the gradient of its `terms` itself, in addition to nasframe")
def terms(case: Case) -> None:
    """A step moves the alphas by the gradient without `terms` plus the gradient of these."""
    if "terms" not in [f.name for f in attrs.fields(type(case.part))]:
        raise Inapplicable("it has no option `terms`")
    found: dict[tuple[AlphaLoss, ...], list[Tensor]] = {}
    # The same term twice: a term that is added once too often or too rarely shows in the sum.
    for terms in ((), (Squares(), Squares())):
        trained = case.trained
        if not trained.network.alphas:
            reject()
        trained = attrs.evolve(trained, strategy=attrs.evolve(case.strategy, architect=attrs.evolve(case.part, terms=terms)))
        trained.state.optimisers["alphas"] = fixed = _Fixed([p for _, p in alphas_of(trained.network)])
        trained.train(1)
        found[terms] = [*fixed.seen]
    network, optimiser = case.trained.network, case.strategy.optimiser
    progress = optimiser.progress(case.trained.state.epoch) if optimiser.epochs else None
    loss = Squares().loss(network.sites, dict(network.alphas), network.mixing(), progress)
    wanted = torch.autograd.grad(2 * loss, [*network.alphas.values()])
    for name, without, total, slope in zip(network.alphas, *found.values(), wanted, strict=True):
        what = f"the distance of the gradient of {name} from the sum of that without terms and that of the terms"
        require_at_most(what, largest(total - without - slope), tolerance(torch.cat([total, without, slope])))


@law("architect.noise", "a generator is seeded for a step, and not for each loss of it")
def noise(case: Case) -> None:
    """In a step of a search, the training and the validation loss draw independent random numbers.

    This concerns the examples that are drawn (augmentation) and what the network draws (dropout). Each loss draws the same
    numbers at every call, so that a difference of two losses is not one of their noise.
    """
    trained, drawn = case.trained, dict[str, list[Tensor]]()

    def record(what: str) -> None:
        # Numbers from the global generator at the place at which an augmentation or dropout would draw them.
        drawn.setdefault(what, []).append(torch.rand(4))

    def recording(split: Split, what: str) -> Split:
        def draw(index: Tensor) -> tuple[Tensor, Tensor]:
            record(what)
            return split.draw(index)

        return attrs.evolve(split, draw=draw)

    train, validation = (
        recording(trained.data.train, "the train split"),
        recording(trained.data.validation, "the validation split"),
    )
    trained = attrs.evolve(trained, data=attrs.evolve(trained.data, train=train, validation=validation))
    if not trained.network.alphas:
        reject()
    problem = trained.next_problem()
    # Each loss twice, as a finite difference calls it: the numbers must be the same in both calls.
    for what, loss in {"training": problem.train, "validation": problem.valid}.items():
        handle = trained.network.register_forward_pre_hook(lambda *_, what=what: record(f"the network for the {what} loss"))
        for _ in range(2):
            loss(problem.weights, problem.alphas)
        handle.remove()
    changing = [what for what, numbers in drawn.items() if not all(torch.equal(n, numbers[0]) for n in numbers)]
    require(not changing, f"other random numbers are drawn at every call by {', '.join(changing)}")
    for one, other in combinations(drawn, 2):
        require(not torch.equal(drawn[one][0], drawn[other][0]), f"the same random numbers are drawn by {one} and {other}")


@law(
    "architect.resumed",
    "something that matters is kept beside the tensors of the optimiser, for example a learning rate that falls",
)
def resumed(case: Case) -> None:
    """A search that is saved and continued comes to the same bytes as one that was not interrupted."""
    trained = case.trained.train(1)
    again = revived(*saved(trained.state), case.strategy, case.subject.plugins, trained.data)
    ends = [_saved(attrs.evolve(trained, state=state).train(2).state) for state in (trained.state, again)]
    changed = differences(*ends)
    require(not changed, f"the search that was continued has other values of {', '.join(changed)}")
