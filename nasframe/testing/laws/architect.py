"""The laws of architects: tried on toy problems, on what searches that have trained hand over, and in these searches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Data, Optimiser, Search, Seed, Split
from nasframe.change.apply import remove_candidates
from nasframe.change.claim import tolerance
from nasframe.change.optimisers import NamedParameters
from nasframe.errors import ChangeError
from nasframe.search.bilevel import alternating_step
from nasframe.search.state import State, copied
from nasframe.search.trainer import alphas_of
from nasframe.testing import assertions
from nasframe.testing.assertions import demand, hold
from nasframe.testing.case import Searched, same
from nasframe.testing.law import law
from nasframe.testing.saved import revived, saved
from nasframe.testing.strategies import optimisers, sizes
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


@attrs.frozen
class Toy:
    """A bilevel problem of two tensors of weights and two of alphas, and an optimiser of the weights that has state.

    Args:
        shape: rows and columns of a weight, and the lengths of the alphas.
    """

    shape: tuple[int, int, int, int]
    optimiser: Optimiser
    seed: int

    def problem(self) -> Bilevel:
        """The problem, made anew."""
        generator, (rows, columns, p, q) = Seed((self.seed, "toy")).generator(), self.shape
        weights = {"W": _parameter(generator, rows, columns), "b": _parameter(generator, columns)}
        alphas = {"p": _parameter(generator, p), "q": _parameter(generator, q)}
        train, valid = (_curved(generator, (rows + 1) * columns + p + q) for _ in range(2))
        own = self.optimiser.build(weights.items())
        for weight in weights.values():
            weight.grad = _numbers(generator, *weight.shape)
        own.step()
        own.zero_grad()
        unroll = partial(self.optimiser.unroll, own, weights.items())
        return Bilevel(weights, alphas, train, valid, self.optimiser.learning_rate, unroll)


def _numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _parameter(generator: torch.Generator, *shape: int) -> nn.Parameter:
    return nn.Parameter(_numbers(generator, *shape))


def _curved(generator: torch.Generator, n: int) -> Loss:
    """A quadratic of n weights and alphas, with all its mixed terms, and a tanh of them."""
    matrix, vector, scale = _numbers(generator, n, n), _numbers(generator, n), 0.5 / n

    def value(weights: Tensors, alphas: Tensors) -> Tensor:
        z = torch.cat([t.flatten() for t in (*weights.values(), *alphas.values())])
        return scale * (z @ matrix @ z) + torch.tanh(matrix @ z) @ vector

    return value


@attrs.frozen(eq=False, kw_only=True)
class Case(Searched):
    """An architect in a search, and beside it on a toy problem; `sites` are the numbers of candidates for its rule."""

    toy: Toy
    sites: tuple[int, ...]

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.toy}; sites of {', '.join(map(str, self.sites))} candidates"

    def problems(self) -> dict[str, Bilevel]:
        """Made anew: that of the toy, and that of the search's next step."""
        return {"a toy problem": self.toy.problem(), "the problem of a search": asked(self.trained)}

    def alphas(self, *purpose: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Logits by site; others for another purpose."""
        generator = Seed((self.strategy.seed, "alphas", *purpose)).generator()
        return {f"cell/n{i}": _numbers(generator, n).to(dtype) for i, n in enumerate(self.sites)}

    def mixing(self) -> dict[str, Tensor]:
        """Weights of these sites, all positive, of sum one; with one that is as small as those at which a node is born."""
        generator = Seed((self.strategy.seed, "weights")).generator()
        drawn = [torch.rand(n, generator=generator, dtype=torch.float64) + 0.1 for n in self.sites]
        drawn[0][-1] = 1e-9
        return {f"cell/n{i}": w / w.sum() for i, w in enumerate(drawn)}


@attrs.frozen(eq=False)
class _Ask(Architect):
    """An architect that keeps the problem which it is asked about, and breaks the search off."""

    name: ClassVar[str] = "ask"
    of: Architect
    found: list[Bilevel]

    def mixing(self, alphas: Tensors) -> Tensors:
        return self.of.mixing(alphas)

    def invert(self, mixing: Tensors) -> Tensors:
        return self.of.invert(mixing)

    def gradient(self, problem: Bilevel) -> Tensors:
        self.found.append(problem)
        raise InterruptedError

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        return self.of.build_optimiser(alphas)


def asked(trained: TrainedNetwork) -> Bilevel:
    """What the architect is asked at the next step of this search, on the search's own tensors."""
    if not trained.network.alphas:
        reject()  # nothing is undecided, and nobody asked
    ask = _Ask(trained.strategy.architect, [])
    with contextlib.suppress(InterruptedError):
        for _ in Search(attrs.evolve(trained.strategy, architect=ask), data=trained.data, state=trained.state):
            pass
    return ask.found[0]


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The architect in every habitat."""
    assert subject.parts is not None
    parts = subject.parts
    toys = st.builds(Toy, st.tuples(sizes(), sizes(), sizes(), sizes()), optimisers(), st.integers(0, 999))

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        strategy = attrs.evolve(draw(subject.searches()), architect=part)
        counts = draw(st.lists(st.integers(2, 5), min_size=2, max_size=3).map(tuple))
        return Case(subject=subject, part=part, strategy=strategy, toy=draw(toys), sites=counts, data=draw(st.data()))

    return draw()


def exercise(case: Case) -> dict[str, Any]:
    """Gradients of both problems, the rule and its inverse, and what the optimiser makes of alphas in a step."""
    gradients = {f"the gradient of {what}": dict(case.part.gradient(p)) for what, p in case.problems().items()}
    alphas = {a: nn.Parameter(alpha) for a, alpha in case.alphas().items()}
    weights, inverse = (_detached(f) for f in (case.part.mixing(alphas), case.part.invert(case.mixing())))
    optimiser = case.part.build_optimiser([*alphas.items()])
    for alpha in alphas.values():
        alpha.grad = torch.ones_like(alpha)
    optimiser.step()
    return gradients | {"the weights": weights, "the alphas": inverse, "the alphas after a step": _detached(alphas)}


def _detached(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _fits(law: str, what: str, found: Tensors, like: Tensors) -> None:
    """Raise unless there are finite tensors of these names, shapes and dtypes."""
    demand(law, found.keys() == like.keys(), f"{what} has the names {[*found]}; the alphas have {[*like]}")
    for name, value in found.items():
        kinds = [(tuple(t.shape), t.dtype) for t in (value, like[name])]
        demand(law, kinds[0] == kinds[1], f"{what} has at {name} shape and dtype {kinds[0]}; the alphas have {kinds[1]}")
        demand(law, bool(value.isfinite().all()), f"{what} is {value.tolist()} at {name}")


def _largest(value: Tensor) -> float:
    return float(value.detach().abs().max())


@law("architect.gradient", "a site is left out, or a tensor is flattened on its way")
def gradient(case: Case) -> None:
    """The gradient has the alphas' names, their shapes and dtypes, and is finite."""
    for what, problem in case.problems().items():
        _fits("gradient", f"the gradient of {what}", case.part.gradient(problem), problem.alphas)


@law("architect.independent", "torch.autograd.grad is called without materialize_grads, or a length of zero is divided by")
def independent(case: Case) -> None:
    """Where a loss does not depend on the weights, on the alphas, or on either, there is a finite gradient all the same."""
    for split, without in product(("train", "valid"), (("weights",), ("alphas",), ("weights", "alphas"))):
        problem = case.toy.problem()
        changed: dict[str, Any] = {split: partial(_without, getattr(problem, split), without)}
        found = case.part.gradient(attrs.evolve(problem, **changed))
        broken = [name for name, value in found.items() if not value.isfinite().all()]
        what = f"where the {split} loss does not depend on {' and '.join(without)}"
        demand("independent", not broken, f"{what} the gradient is not finite at {', '.join(broken)}")


def _without(loss: Loss, names: Sequence[str], weights: Tensors, alphas: Tensors) -> Tensor:
    given = {"weights": weights, "alphas": alphas}
    return loss(*({k: t.detach() * 0 for k, t in v.items()} if name in names else v for name, v in given.items()))


@law("architect.still", "it calls backward(), which leaves gradients behind, or moves weights and takes the step back")
def still(case: Case) -> None:
    """To ask for the gradient moves nothing: weights, alphas, their .grad, buffers and optimisers are as they were, to the
    bit.
    """
    trained = case.trained
    problems = {"toy": case.toy.problem(), "search": asked(trained)}
    before = _standing(problems) | _dumped(trained.state)
    for problem in problems.values():
        case.part.gradient(problem)
    _equal("still", "to ask changed", before, _standing(problems) | _dumped(trained.state))


def _standing(problems: Mapping[str, Bilevel]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, problem in problems.items():
        for name, p in {**problem.weights, **problem.alphas}.items():
            values = p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone()
            kinds = ("{}", "requires_grad of {}", "the gradient of {}")
            found |= {f"{kind.format(name)} ({what})": v for kind, v in zip(kinds, values, strict=True)}
    return found


def _dumped(state: State) -> dict[str, Any]:
    text, flat = saved(state)
    return {"the counters and records": text, **flat}


def _equal(law: str, what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = dict.fromkeys((*then, *now))
    different = [n for n in names if n not in then or n not in now or not same(then[n], now[n])]
    demand(law, not different, f"{what} {', '.join(different)}")


@law("architect.rule", "exp() of large alphas overflows where softmax() does not, or the dtype is the rule's own")
def rule(case: Case) -> None:
    """The rule gives for each site finite weights that are not negative, of its alphas' shape and dtype; for alphas of
    thousands, too.
    """
    for scale, dtype in product((1.0, 1e3), (torch.float32, torch.float64)):
        alphas = {a: scale * alpha for a, alpha in case.alphas(dtype=dtype).items()}
        weights = case.part.mixing(alphas)
        _fits("rule", f"what the rule makes of alphas of {dtype} around {scale:g}", weights, alphas)
        least = min(float(w.min()) for w in weights.values())
        demand("rule", least >= 0, f"a weight is {least:.3g}; weights are not negative")


@law("architect.slope", "something is detached or rounded on the way from the alphas to the weights")
def slope(case: Case) -> None:
    """The rule can be differentiated: along a direction the weights' slope is the difference of the weights."""
    alphas, h = case.alphas(), 1e-6
    errors = []
    for n in range(3):  # a direction may lead over a kink; three hardly do
        along, shares = case.alphas(f"direction {n}"), case.alphas(f"shares {n}")

        def value(at: Tensors, shares: Tensors = shares) -> Tensor:
            return torch.stack([(w * shares[a]).sum() for a, w in case.part.mixing(at).items()]).sum()

        leaves = {a: alpha.clone().requires_grad_() for a, alpha in alphas.items()}
        total = value(leaves)
        demand("slope", total.requires_grad, "no gradient goes from the weights to the alphas")
        slopes = torch.autograd.grad(total, [*leaves.values()], materialize_grads=True)
        found = sum(float((s * along[a]).sum()) for a, s in zip(leaves, slopes, strict=True))
        ahead, behind = (float(value({a: alpha + t * along[a] for a, alpha in alphas.items()})) for t in (h, -h))
        errors.append(abs(found - (ahead - behind) / (2 * h)))
    hold("slope", "the least distance, of three, of a slope from the difference of the weights", min(errors), 1e-6)


@law("architect.apart", "a maximum, a mean, a temperature or a sum goes over all sites at once")
def apart(case: Case) -> None:
    """The weights of a site depend on its own alphas alone: they are the same beside others, and alone."""
    alphas, others = case.alphas(), case.alphas("others")
    weights = case.part.mixing(alphas)
    for address, alpha in alphas.items():
        for what, given in {"alone": {}, "beside other alphas of the other sites": others}.items():
            found = case.part.mixing({**given, address: alpha})[address]
            moved, allowed = _largest(found - weights[address]), tolerance(weights[address])
            hold("apart", f"the distance of the weights of a site {what} from those beside the first", moved, allowed)


@law("architect.alike", "one candidate is the reference of the others, or alphas are compared with their neighbours")
def alike(case: Case) -> None:
    """Candidates are treated alike: with a site's alphas in another order its weights are the same in that order."""
    alphas = case.alphas()
    weights, turns = case.part.mixing(alphas), (partial(torch.flip, dims=(0,)), partial(torch.roll, shifts=1))
    for turn in turns:
        found = case.part.mixing({a: turn(alpha) for a, alpha in alphas.items()})
        for address, own in weights.items():
            distance = _largest(found[address] - turn(own))
            hold("alike", "the distance of the weights from those of alphas in another order", distance, tolerance(own))


@law("architect.inverse", "alphas() is another rule's inverse, or keeps away from zero by an epsilon")
def inverse(case: Case) -> None:
    """From positive weights of sum one, small ones too, come finite alphas, for the sites that are named, and by the rule
    from these the weights.
    """
    assertions.assert_inverse(case.part, case.mixing())


@law("architect.optimiser", "parameters are chosen by stage or by name, or none at all are not thought of")
def optimiser(case: Case) -> None:
    """The optimiser holds just the alphas that it is given, each once; none, too, as an architecture has none."""
    for number in (len(case.sites), 0):
        given = {a: nn.Parameter(alpha) for a, alpha in [*case.alphas().items()][:number]}
        built = case.part.build_optimiser([*given.items()])
        held = [id(p) for group in built.param_groups for p in group["params"]]
        demand(
            "optimiser",
            sorted(held) == sorted(map(id, given.values())),
            f"it is given {len(given)} alphas and holds {len(held)} parameters, not just these",
        )
        for stage in (0, 1, 3):
            case.part.configure(built, stage)
            built.step()


@law("architect.follows", "the optimiser keeps other moments than those of SGD, Adam and AdamW")
def follows(case: Case) -> None:
    """The state of its optimiser follows a change of the network: what is there before and after keeps its entries."""
    trained = case.trained
    try:
        child = trained.after(remove_candidates(trained.network, {}, Seed(("follows",))))
    except ChangeError as error:
        raise AssertionError(f"follows: {error}") from error
    _equal("follows", "a change that takes nothing away changed", _moments(trained.state), _moments(child.state))


def _moments(state: State) -> dict[str, Any]:
    own = state.optimisers["alphas"].state
    return {f"{key} of {n}": v for n, p in alphas_of(state.network) if p in own for key, v in own[p].items()}


@law("architect.descends", "a sign is wrong, in the gradient or as maximize=True in the optimiser")
def descends(case: Case) -> None:
    """What it does to the alphas lowers a loss that is the same in training and in validation and whose alphas and weights
    have nothing to do with each other.
    """
    problem = case.toy.problem()
    # over zero, so that a decay of the alphas does not lead away from it
    goal = {n: alpha.detach() - 2 * torch.where(alpha.detach() < 0, -1.0, 1.0) for n, alpha in problem.alphas.items()}

    def bowl(alphas: Tensors) -> Tensor:
        return sum(((alpha - goal[n]).square().sum() for n, alpha in alphas.items()), torch.zeros((), dtype=torch.float64))

    def loss(weights: Tensors, alphas: Tensors) -> Tensor:
        return bowl(alphas) + sum(w.square().sum() for w in weights.values())

    problem = attrs.evolve(problem, train=loss, valid=loss)
    steps = {
        "weights": case.toy.optimiser.build(problem.weights.items()),
        "alphas": case.part.build_optimiser([*problem.alphas.items()]),
    }
    first = float(bowl(problem.alphas).detach())
    for _ in range(5):
        alternating_step(problem, case.part, steps, lambda: loss(problem.weights, problem.alphas))
    last = float(bowl(problem.alphas).detach())
    demand("descends", last < first, f"in five steps the loss goes from {first:.6g} to {last:.6g}")


@law("architect.splits", "a hook is left on the weights, or a gradient of the validation loss reaches their step")
def splits(case: Case) -> None:
    """Validation reaches the weights through the alphas alone: where these are held, the weights of a search are the same bits,
    whatever the examples of the validation part; and nobody reads the test part.
    """
    ends = []
    for mark in (1, -1):
        trained = case.trained
        trained = attrs.evolve(trained, data=_marked(trained.data, mark))
        trained.state.optimisers["alphas"] = Optimiser("sgd", learning_rate=0.0).build(alphas_of(trained.network))
        ends.append(copied(trained.train(2).network))
    _equal("splits", "other validation examples changed", *ends)


def _marked(data: Data, mark: int) -> Data:
    """The data with every input of the validation part multiplied by a number, and a test part that none may read."""

    def marked(batch: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def of(index: Tensor) -> tuple[Tensor, Tensor]:
            inputs, targets = batch(index)
            return mark * inputs, targets

        return of

    def unread(index: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("splits: the test part was read")

    validation = Split(data.validation.size, marked(data.validation.batch), marked(data.validation.draw))
    return attrs.evolve(data, validation=validation, test=Split(data.test.size, unread))


@law("architect.resumed", "something that matters is kept beside the optimiser's tensors, as a learning rate that falls")
def resumed(case: Case) -> None:
    """A search that is written down in its midst and taken up again comes to the same bytes as the one that went on."""
    trained = case.trained.train(1)
    again = revived(*saved(trained.state), case.strategy, case.subject.plugins, trained.data)
    ends = [_dumped(attrs.evolve(trained, state=state).train(2).state) for state in (trained.state, again)]
    _equal("resumed", "taken up again, the search came to another end in", *ends)
