"""The laws of operations: tried on modules within networks that have trained, with the inputs that reach them there."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from hypothesis import Phase, Verbosity, given, reject, settings, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.func import functional_call

from nasframe import MixedOperation, Operation, Pointwise, Seed, Strategy, build
from nasframe.change.claim import tolerance
from nasframe.errors import StructureError
from nasframe.network.cost import Cost, cost
from nasframe.network.network import tensors
from nasframe.testing.assertions import demand, hold
from nasframe.testing.case import STEPS, Searched, trained_network
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.layouts import LAYOUTS
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False)
class Placed:
    """An operation's module in a network, with the inputs of one call and what else is known there.

    Args:
        module: a copy, to do with as one likes.
        sizes: what the backbone built it with.
        inputs: what it was given, with the examples on the first axis.
        shapes: of what the other candidates of its site put out for the same.
        fresh: builds the same module anew, with other numbers.
    """

    module: nn.Module
    sizes: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    shapes: Mapping[str, torch.Size]
    fresh: Callable[[], nn.Module]


@attrs.frozen(eq=False, kw_only=True)
class Case(Searched):
    """An operation among others in a backbone that takes it; `place` tells which of its modules and which of its calls."""

    place: int

    def placed(self, training: bool = False) -> Placed:
        """The module in that mode, out of a network that has trained."""
        found = _placed(self.strategy, self.part, self.place)
        if found is None:
            reject()
        return attrs.evolve(found, module=copy.deepcopy(found.module).train(training))


@functools.lru_cache(maxsize=64)
def _placed(strategy: Strategy, part: Operation, place: int) -> Placed | None:
    """What is known of the operation at some place in the network of a search, if its modules are called there at all."""
    trained = trained_network(strategy, STEPS)
    network = trained.network.eval()
    network.fast = False  # a fast form calls no modules
    plain, sites = copy.deepcopy(network), dict(network.structure.sites())
    calls: list[tuple[str, str, tuple[Tensor, ...]]] = []
    for name, module in network.named_modules():
        if isinstance(module, MixedOperation):
            for key in (str(c.id) for c in sites[module.address].candidates if c.operation == part):
                note = functools.partial(lambda place, _, inputs: calls.append((*place, inputs)), (name, key))
                module.candidates[key].register_forward_pre_hook(note)
    with torch.no_grad():
        network(trained.inputs(), trained.mixing())
    if not calls:
        return None
    name, key, inputs = calls[place % len(calls)]
    inputs = tuple(i.detach().clone() for i in inputs)
    mixture = plain.get_submodule(name)
    assert isinstance(mixture, MixedOperation)
    with torch.no_grad():
        shapes = {k: other(*inputs).shape for k, other in mixture.candidates.items() if k != key}

    def fresh() -> nn.Module:
        other = build(network.structure, Seed((place, "fresh")), like=network)
        return other.get_submodule(f"{name}.candidates.{key}")

    return Placed(mixture.candidates[key], mixture.sizes, inputs, shapes, fresh)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The operation in every backbone that takes it, at any place."""
    parts = subject.parts
    assert parts is not None

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        fitting, why = _fitting(subject, part)
        if not fitting:
            raise NoCases(why)
        strategy = draw(st.one_of(fitting))
        return Case(subject=subject, part=part, strategy=strategy, place=draw(st.integers(0, 30)), data=draw(st.data()))

    return draw()


@functools.lru_cache(maxsize=64)
def _fitting(subject: Subject, part: Operation) -> tuple[list[SearchStrategy[Strategy]], str]:
    """The searches of the habitats whose backbone takes the operation; or why there are none."""
    fitting: list[SearchStrategy[Strategy]] = []
    unfit: list[str] = []  # for those of another arity
    unbuilt: list[str] = []  # for those that it comes nearer to
    for habitat in subject.habitats:
        try:
            searches = habitat.strategies((part,))
            _one(searches)
        except StructureError as error:
            unbuilt.append(f"{habitat.backbone.name}: {error}")
        except ValueError as error:
            unfit.append(f"{habitat.backbone.name}: {error}")
        else:
            fitting.append(searches)
    reasons = "; ".join(unbuilt + unfit) or "none has a habitat"
    return (
        fitting,
        f"no backbone that is installed takes it: {reasons}. Let it fit one of them, or give one",
    )


def _one(searches: SearchStrategy[Strategy]) -> None:
    """Draw a search and build its network."""

    @settings(
        max_examples=1, derandomize=True, database=None, deadline=None, phases=[Phase.generate], verbosity=Verbosity.quiet
    )
    @given(searches)
    def run(strategy: Strategy) -> None:
        data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
        build(strategy.backbone.initial(data.sizes, 1), Seed((0, "fits")))

    run()


def exercise(case: Case) -> dict[str, Any]:
    """The module, built and called in both modes, and what the operation tells of it."""
    placed = case.placed()
    with Seed((case.place, "exercise")).as_global():
        module = case.part.build(**placed.sizes).to(placed.inputs[0].dtype)
        outputs = {f"the output in {mode} mode": module.train(t)(*placed.inputs).detach() for mode, t in MODES.items()}
    bounds = {"its magnitude": case.part.magnitude(module), "its identity error": case.part.identity_error(module)}
    return {
        **{f"the initial {n}": t.detach() for n, t in tensors(module).items()},
        **outputs,
        **{name: bound and bound.to_dict() for name, bound in bounds.items()},
        "its cost": attrs.astuple(case.part.cost(*(i.shape for i in placed.inputs), **placed.sizes)),
    }


MODES = {"evaluation": False, "training": True}


@law("operation.shape", "it lets the stride or a size that it is built with out of account, or drops an axis of length one")
def shape(case: Case) -> None:
    """An operation puts out what its neighbours do: as many examples as it was given, in the shape of the other candidates."""
    placed = case.placed()
    own = placed.module(*placed.inputs).shape
    for other in placed.shapes.values():
        demand("shape", own == other, f"it puts out {tuple(own)}, another candidate of the same site {tuple(other)}")
    single = placed.module(*(i[:1] for i in placed.inputs)).shape
    demand(
        "shape", single == (1, *own[1:]), f"of {len(placed.inputs[0])} examples it makes {tuple(own)}, of one {tuple(single)}"
    )


@law("operation.dtype", "it makes a tensor without dtype and device of its inputs")
def dtype(case: Case) -> None:
    """An operation computes in the dtype and on the device of its inputs."""
    placed = case.placed()
    for kind in (torch.float32, torch.float64):
        found = placed.module.to(kind)(*(i.to(kind) for i in placed.inputs))
        demand("dtype", found.dtype == kind, f"it makes {found.dtype} of {kind}")
    found = placed.module.to("meta")(*(i.to("meta") for i in placed.inputs))
    demand("dtype", found.is_meta, f"its output is on {found.device}, its inputs on another device")


@law("operation.batch", "it takes a mean, a maximum or a softmax over the first axis")
def batch(case: Case) -> None:
    """In evaluation mode what is made of an example does not depend on the examples beside it, nor on their order."""
    placed = case.placed()
    whole = placed.module(*placed.inputs)
    for row in range(len(whole)):
        alone = placed.module(*(i[row : row + 1] for i in placed.inputs))
        hold(
            "batch",
            f"the distance of example {row} alone from itself among others",
            largest(alone[0] - whole[row]),
            tolerance(whole),
        )
    turned = placed.module(*(i.flip(0) for i in placed.inputs)).flip(0)
    hold("batch", "the distance of what is made of the examples in another order", largest(turned - whole), tolerance(whole))


@law("operation.layout", "it uses view() or reads strides where reshape() is right")
def layout(case: Case) -> None:
    """What is made of numbers does not depend on how they lie in memory."""
    placed = case.placed()
    plain = placed.module(*placed.inputs)
    for name, laid in LAYOUTS.items():
        found = placed.module(*(laid(i) for i in placed.inputs))
        hold("layout", f"the distance of the outputs where the inputs are {name}", largest(found - plain), tolerance(plain))


@law("operation.pure", "it works in place on its inputs, or counts its calls")
def pure(case: Case) -> None:
    """A call leaves the inputs as they are, and in evaluation mode the module, too: called again it puts out the same bits."""
    placed = case.placed()
    given, before = [i.clone() for i in placed.inputs], {n: t.detach().clone() for n, t in tensors(placed.module).items()}
    first, again = placed.module(*placed.inputs), placed.module(*placed.inputs)
    demand("pure", torch.equal(first, again), "a second call puts out something else")
    changed = [n for n, t in tensors(placed.module).items() if not torch.equal(t, before[n])]
    demand("pure", not changed, f"a call in evaluation mode changes {', '.join(changed)}")
    placed.module.train()(*placed.inputs)
    for position, (now, then) in enumerate(zip(placed.inputs, given, strict=True)):
        demand("pure", torch.equal(now, then), f"a call changes input {position}")


@law("operation.mode", "its train() or eval() does more than to set the mode")
def mode(case: Case) -> None:
    """To go into training mode and back changes nothing."""
    placed = case.placed()
    before = placed.module(*placed.inputs)
    after = placed.module.train().eval()(*placed.inputs)
    demand("mode", torch.equal(before, after), f"the output has moved by {largest(after - before):.3g}")


@law("operation.gradient", "a parameter is not used, or a detach(), a sign, a round or a saturated function cuts it off")
def gradient(case: Case) -> None:
    """In both modes gradients are finite, and one that is not zero reaches each parameter and each input."""
    for name, training in MODES.items():
        placed = case.placed(training)
        generator = Seed((case.place, "gradient")).generator()
        # not all on one side of a ReLU, nor zero, as a first state is
        drawn = [torch.randn(i.shape, generator=generator, dtype=i.dtype) for i in placed.inputs]
        inputs = [torch.cat([i, -i, other, -other]).requires_grad_() for i, other in zip(placed.inputs, drawn, strict=True)]
        out = placed.module(*inputs)
        asked = dict(placed.module.named_parameters()) | {f"input {n}": i for n, i in enumerate(inputs)}
        if not out.requires_grad:
            demand("gradient", case.part.zero, f"in {name} mode its output depends on nothing that has a gradient")
            continue
        weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)
        found = torch.autograd.grad((out * weights).sum(), [*asked.values()], materialize_grads=True)
        for of, slope in zip(asked, found, strict=True):
            demand("gradient", bool(slope.isfinite().all()), f"in {name} mode the gradient of {of} is not finite")
            dead = not case.part.zero and bool((slope == 0).all()) and len(inputs) == case.part.arity
            demand("gradient", not dead, f"in {name} mode no gradient reaches {of}")


@law("operation.slope", "its backward pass is written by hand, or something that matters is detached")
def slope(case: Case) -> None:
    """The gradient is that of what is computed: along a direction it is the difference of the outputs."""
    placed = case.placed()
    point, value = _as_function(placed)
    if not point:
        raise Inapplicable("it has no numbers")
    (found, *exact) = zip(*(_slopes(point, value, Seed((case.place, "direction", n))) for n in range(3)), strict=True)
    errors = [abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, exact[0], strict=True)]
    # a direction may lead over the edge of a ReLU; three hardly do
    hold("slope", "the least distance, of three, of a slope from the difference of the outputs", min(errors), 1e-5)


def _as_function(placed: Placed) -> tuple[dict[str, Tensor], Callable[[Mapping[str, Tensor]], Tensor]]:
    """A number that the module makes, as a function of its parameters and inputs; at inputs none of which are equal, as those
    of a maximum may be.
    """
    generator = Seed(("inputs",)).generator()
    point = {n: p.detach() for n, p in placed.module.named_parameters()}
    for n, i in enumerate(placed.inputs):
        point[f"input {n}"] = i + 0.01 * torch.randn(i.shape, generator=generator, dtype=i.dtype)
    with torch.no_grad():
        weights = torch.linspace(0.5, 1.5, placed.module(*placed.inputs).numel(), dtype=placed.inputs[0].dtype)

    def value(at: Mapping[str, Tensor]) -> Tensor:
        inputs = tuple(at[f"input {n}"] for n in range(len(placed.inputs)))
        own = {n: t for n, t in at.items() if not n.startswith("input ")}
        return (functional_call(placed.module, own, inputs).flatten() * weights).sum() / weights.numel()

    return point, value


def _slopes(
    point: Mapping[str, Tensor], value: Callable[[Mapping[str, Tensor]], Tensor], seed: Seed, step: float = 1e-6
) -> tuple[float, float]:
    """The slope along a random direction by autograd, and by a difference."""
    generator = seed.generator()
    along = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in point.items()}
    leaves = {n: t.clone().requires_grad_() for n, t in point.items()}
    out = value(leaves)
    found = 0.0
    if out.requires_grad:
        slopes = torch.autograd.grad(out, [*leaves.values()], materialize_grads=True)
        found = sum(float((s * along[n]).sum()) for n, s in zip(leaves, slopes, strict=True))
    ahead, behind = (float(value({n: t + s * along[n] for n, t in point.items()}).detach()) for s in (step, -step))
    return found, (ahead - behind) / (2 * step)


@law("operation.curvature", "the function detaches something, or has a backward pass of its own that cannot be differentiated")
def curvature(case: Case) -> None:
    """Where an operation tells its pointwise form, the gradient of its module has a finite gradient: its own difference."""
    if case.part.pointwise() is None:
        raise Inapplicable("it tells no pointwise form")
    placed = case.placed()
    point, value = _as_function(placed)
    generator = Seed((case.place, "weights")).generator()
    weights = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in point.items()}

    def sloped(at: Mapping[str, Tensor]) -> Tensor:
        leaves = {n: t if t.requires_grad else t.clone().requires_grad_() for n, t in at.items()}
        out = value(leaves)
        if not out.requires_grad:
            return out * 0
        slopes = torch.autograd.grad(out, [*leaves.values()], create_graph=True, materialize_grads=True)
        return sum(((s * weights[n]).sum() for n, s in zip(leaves, slopes, strict=True)), torch.zeros((), dtype=out.dtype))

    pairs = [_slopes(point, sloped, Seed((case.place, "direction", n))) for n in range(3)]
    errors = [abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
    hold(
        "curvature",
        "the least distance, of three, of a second derivative from the difference of the gradients",
        min(errors),
        1e-5,
    )


@law("operation.state", "a number lies in a plain attribute: make it an nn.Parameter, or register_buffer it")
def state(case: Case) -> None:
    """The numbers of a module are all in its state: another one that takes them over puts out the same bits in both modes."""
    for name, training in MODES.items():
        placed = case.placed(training)
        other = placed.fresh().train(training)
        other.load_state_dict(placed.module.state_dict())
        outputs = []
        for module in (placed.module, other):
            with Seed((case.place, "state")).as_global():
                outputs.append(module(*placed.inputs))
        demand("state", torch.equal(*outputs), f"in {name} mode the outputs are {largest(outputs[0] - outputs[1]):.3g} apart")


@law("operation.cost", "cost() is overridden, and counts something else than one call of the module")
def cost_(case: Case) -> None:
    """The cost that is told is that of the module: its parameters, and the operations of a call."""
    placed = case.placed()
    shapes = [i.shape for i in placed.inputs]
    told, own = case.part.cost(*shapes, **placed.sizes), cost(placed.module, *shapes)
    demand("cost", isinstance(told, Cost) and told == own, f"it tells {told}; its module has {own}")


@law("operation.zero", "it declares `zero`, but adds a bias or keeps a part of its input")
def zero(case: Case) -> str | None:
    """An operation that is declared zero puts out zeros, whatever it is given."""
    placed = case.placed()
    outputs = [placed.module.train(t)(*(s * i for i in placed.inputs)) for t, s in itertools.product(MODES.values(), (1, -3))]
    silent = all(bool((o == 0).all()) for o in outputs)
    if not case.part.zero:
        return "it may claim `zero`: it put out nothing else" if silent else None
    demand("zero", silent, f"it puts out {max(largest(o) for o in outputs):.3g}")
    return None


@law(
    "operation.residual", "`residual` leaves out a parameter, as a bias, or names one in which the output is not of degree one"
)
def residual(case: Case) -> None:
    """Where `residual` names parameters, the operation is at zero the identity on its last input, to the bit, and to scale them
    by g makes (1 - g) h + g o of its output o.
    """
    if case.part.residual is None:
        raise Inapplicable("it declares no `residual`")
    placed = case.placed()
    own = {n: p.detach() for n, p in placed.module.named_parameters()}
    unknown = set(case.part.residual) - own.keys()
    demand(
        "residual", not unknown, f"it names {', '.join(sorted(unknown))}; the module has {', '.join(own) or 'no parameters'}"
    )
    o = placed.module(*placed.inputs)

    def scaled(g: float) -> Tensor:
        return functional_call(placed.module, {n: own[n] * g for n in case.part.residual}, placed.inputs)

    h = placed.inputs[-1][..., -o.shape[-1] :]  # of [x, h] the h
    if h.shape != o.shape:
        raise Inapplicable("it changes the shape of its input, of which nothing is the identity")
    demand("residual", torch.equal(scaled(0.0), h), "at zero it is not the identity on its last input")
    for g in (0.5, -2.0):
        hold(
            "residual",
            f"the distance from (1 - g) h + g o at g = {g}",
            largest(scaled(g) - ((1 - g) * h + g * o)),
            8 * tolerance(o),
        )


@law("operation.pointwise", "a term names another parameter, or the function is not the one that the module computes")
def pointwise(case: Case) -> None:
    """The pointwise form computes what the module does, in both modes, by the parameters that its terms name."""
    told = case.part.pointwise()
    if told is None:
        raise Inapplicable("it tells no pointwise form")
    for name, training in MODES.items():
        placed = case.placed(training)
        arguments, out = _arguments(told, placed), placed.module(*placed.inputs)
        found = told.function(*arguments)
        hold("pointwise", f"the distance of its outputs in {name} mode", largest(found - out), tolerance(out))


def _arguments(told: Pointwise, placed: Placed) -> list[Tensor]:
    """What the terms give, and h, of one shape."""
    own = dict(placed.module.named_parameters())
    terms = []
    for term in told.terms:
        missing = [n for n in (*term.weights, term.bias) if n is not None and n not in own]
        demand(
            "pointwise", not missing, f"a term names {', '.join(missing)}; the module has {', '.join(own) or 'no parameters'}"
        )
        summands = [i @ own[n].t() for n, i in zip(term.weights, placed.inputs, strict=True) if n is not None]
        summands += [own[term.bias]] if term.bias is not None else []
        terms.append(sum(summands[1:], summands[0]))
    hidden = placed.module(*map(torch.clone, placed.inputs)).shape[-1]
    return [*torch.broadcast_tensors(*terms, placed.inputs[-1][..., -hidden:])]


@law("operation.derivatives", "a slope or the value is that of another function, or two slopes are swapped")
def derivatives(case: Case) -> None:
    """What the pointwise form tells of its function and its slopes is what autograd finds."""
    told = case.part.pointwise()
    if told is None or told.derivatives is None:
        raise Inapplicable("it tells no derivatives of a pointwise form")
    placed = case.placed()
    arguments = _arguments(told, placed)
    terms = [", ".join(name for name in (*term.weights, term.bias) if name is not None) for term in told.terms]
    names = ["its value", *(f"its slope by the term of {own}" for own in terms), "its slope by h"]
    right, found = (
        attrs.evolve(told, derivatives=None).value_and_derivatives(*arguments),
        told.value_and_derivatives(*arguments),
    )
    demand("derivatives", len(found) == len(names), f"it tells {len(found)} values; they are {len(names)}: {', '.join(names)}")
    exact = [torch.as_tensor(value, dtype=arguments[-1].dtype) for value in right]
    allowed = tolerance(torch.stack([value.abs().max() for value in exact]))
    off = {name: largest(e - f) for name, e, f in zip(names, exact, found, strict=True)}
    wrong = [name for name, distance in off.items() if not distance <= allowed] or names
    hold("derivatives", f"the distance of {' and of '.join(wrong)}", max(off[name] for name in wrong), allowed)


#: so many times the largest value that is found a bound says little
LOOSE = 100.0


@law("operation.bound", "a norm is taken along the wrong axis, or a term, as the bias, is left out")
def bound(case: Case) -> str | None:
    """What is told of |o| and of |o - h| holds for inputs of all sizes, and in the corners of the box of their norms."""
    placed = case.placed()
    told = {"|o|": case.part.magnitude(placed.module), "|o - h|": case.part.identity_error(placed.module)}
    bounds = {what: own for what, own in told.items() if own is not None}
    if not bounds:
        raise Inapplicable("it tells no bounds")
    tightest = dict.fromkeys(bounds, math.inf)
    for scale, training in itertools.product((0.1, 1.0, 10.0), MODES.values()):
        module = placed.module.train(training)
        for inputs in (tuple(scale * i for i in placed.inputs), *_corners(module, placed.inputs, scale)):
            out, norms = module(*inputs), [largest(i) for i in inputs]
            for what, own in bounds.items():
                found = out - inputs[-1][..., -out.shape[-1] :] if what == "|o - h|" else out
                tightest[what] = min(tightest[what], _within(own(norms), what, found, norms))
    if max(tightest.values()) <= LOOSE:
        return None
    return f"but the bound on {' or '.join(bounds)} is over {LOOSE:g} times the largest that was found"


def _within(allowed: float, what: str, value: Tensor, norms: list[float]) -> float:
    """How many times the value is allowed."""
    found = largest(value)
    where = f"{what} for inputs within {', '.join(f'{n:.3g}' for n in norms)}"
    hold("bound", where, found, allowed * (1 + 1e-9) + tolerance(value))
    return allowed / found if found else math.inf if allowed else 1.0


def _corners(module: nn.Module, inputs: tuple[Tensor, ...], scale: float) -> list[tuple[Tensor, ...]]:
    """Inputs in the corners of their box, from which the largest output climbs on, a corner at a time."""
    norms, at, found = [scale * largest(i) for i in inputs], tuple(i.clone() for i in inputs), []
    for _ in range(3):
        at = tuple((n * torch.where(i >= 0, 1.0, -1.0)).to(i.dtype).requires_grad_() for n, i in zip(norms, at, strict=True))
        found.append(tuple(i.detach() for i in at))
        out = module(*at)
        if not out.requires_grad:
            break
        climb = torch.autograd.grad(
            out.flatten()[out.abs().argmax()] * out.flatten()[out.abs().argmax()].sign().detach(), at, materialize_grads=True
        )
        at = tuple(torch.where(c == 0, i, c).detach() for c, i in zip(climb, at, strict=True))
    return found


def largest(value: Tensor) -> float:
    """The largest absolute value."""
    return float(value.detach().abs().max()) if value.numel() else 0.0
