"""The laws of operations: tried on modules of networks that have trained, with the inputs that they have there."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.func import functional_call

from nasframe import Operation, Pointwise, Seed, Strategy, build
from nasframe.change.claim import tolerance
from nasframe.errors import StructureError
from nasframe.network.cost import Cost, cost
from nasframe.network.mixing import MixedOperation
from nasframe.network.network import tensors
from nasframe.testing.cases import STEPS, SearchCase
from nasframe.testing.compare import LAYOUTS, MODES, largest, require, require_at_most
from nasframe.testing.law import Inapplicable, NoCases, law
from nasframe.testing.strategies import cached, draw_one, trained_network
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False)
class Placed:
    """A module of an operation in a network, with the inputs of one of its calls.

    Args:
        module: a copy of the module.
        sizes: the sizes that the backbone built it with.
        inputs: the inputs of the call, with the examples on the first axis.
        shapes: the shapes of the outputs of the other candidates of its site for these inputs.
        fresh: returns the same module with another initialisation, for each number.
    """

    module: nn.Module
    sizes: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    shapes: Mapping[str, torch.Size]
    fresh: Callable[[int], nn.Module]


@attrs.frozen(eq=False, kw_only=True)
class Case(SearchCase):
    """An operation among others in a backbone; `place` chooses one of its modules and one of its calls."""

    place: int

    def placed(self, training: bool = False) -> Placed:
        """Return the module, in training or evaluation mode."""
        found = _placed(self.strategy, self.part, self.place)
        if found is None:
            reject()
        return attrs.evolve(found, module=copy.deepcopy(found.module).train(training))


@cached
def _placed(strategy: Strategy, part: Operation, place: int) -> Placed | None:
    # The inputs are those of a call in a trained network, because normalisations, saturated functions and states of zero
    # only occur there.
    trained = trained_network(strategy, STEPS)
    network = trained.network.eval()
    network.fast = False  # a fast form calls no modules
    # without the hooks, which would be copied with the module
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
    mixed = plain.get_submodule(name)
    assert isinstance(mixed, MixedOperation)
    with torch.no_grad():
        shapes = {k: other(*inputs).shape for k, other in mixed.candidates.items() if k != key}

    def fresh(number: int) -> nn.Module:
        other = build(network.structure, Seed((place, "fresh", number)), like=network)
        return other.get_submodule(f"{name}.candidates.{key}")

    return Placed(mixed.candidates[key], mixed.sizes, inputs, shapes, fresh)


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the operation in every backbone that accepts it."""
    parts = subject.parts
    assert parts is not None

    @st.composite
    def draw(draw: st.DrawFn) -> Case:
        part = draw(parts)
        fitting, refusal = _fitting(subject, part)
        if not fitting:
            raise refusal
        strategy = draw(st.one_of(fitting))
        return Case(subject=subject, part=part, strategy=strategy, place=draw(st.integers(0, 30)), data=draw(st.data()))

    return draw()


@cached
def _fitting(subject: Subject, part: Operation) -> tuple[list[SearchStrategy[Strategy]], Exception]:
    """Return the searches of the habitats whose backbone accepts the operation, and the error if there are none.

    The operation is at fault if a backbone refuses nothing but the arguments of its `build`.
    """
    fitting: list[SearchStrategy[Strategy]] = []
    refused: dict[str, str] = {}  # by the name of a backbone of operations with another number of inputs
    unbuilt: dict[str, str] = {}  # by the name of a backbone that comes nearer to it
    # Two kinds of refusal are kept apart: a backbone of operations with another number of inputs (ValueError) says nothing
    # about this operation, one whose `build` arguments it does not accept (StructureError) does.
    for habitat in subject.habitats:
        try:
            searches = habitat.strategies((part,))
            strategy = draw_one(searches)
            data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
            build(strategy.backbone.initial(data.sizes, 1), Seed((0, "fits")))
        except StructureError as error:
            unbuilt[habitat.backbone.name] = str(error)
        except ValueError as error:
            refused[habitat.backbone.name] = str(error)
        else:
            fitting.append(searches)
    if unbuilt:
        return fitting, StructureError("\n".join(f"{backbone}: {error}" for backbone, error in unbuilt.items()))
    reasons = "; ".join(f"{backbone}: {error}" for backbone, error in refused.items()) or "none has a habitat"
    return fitting, NoCases(
        f"no installed backbone accepts it: {reasons}. Make it fit one of them, or give a backbone and its habitat"
    )


def exercise(case: Case) -> dict[str, Any]:
    """Return the parameters and outputs of a new module, and what the operation declares about it."""
    placed = case.placed()
    with Seed((case.place, "exercise")).as_global():
        module = case.part.build(**placed.sizes).to(placed.inputs[0].dtype)
        outputs = {f"the output in {mode} mode": module.train(t)(*placed.inputs).detach() for mode, t in MODES.items()}
    bounds = {"magnitude()": case.part.magnitude(module), "identity_error()": case.part.identity_error(module)}
    return {
        **{f"the initial {n}": t.detach() for n, t in tensors(module).items()},
        **outputs,
        **{name: bound and bound.to_dict() for name, bound in bounds.items()},
        "cost()": attrs.astuple(case.part.cost(*(i.shape for i in placed.inputs), **placed.sizes)),
    }


@law("operation.shape", "it ignores the stride or a size that it is built with, or drops an axis of length one")
def shape(case: Case) -> None:
    """The output has the shape of those of the other candidates of the site, for any number of examples."""
    placed = case.placed()
    # The candidates of a site are summed, so that they must agree in shape with each other, whatever that shape is.
    shape = placed.module(*placed.inputs).shape
    for other in placed.shapes.values():
        require(
            shape == other, f"its output has the shape {tuple(shape)}, that of another candidate of the site {tuple(other)}"
        )
    # one example: squeeze() without an axis would drop it
    single = placed.module(*(i[:1] for i in placed.inputs)).shape
    count = len(placed.inputs[0])
    require(single == (1, *shape[1:]), f"for {count} examples the shape is {tuple(shape)}, for one {tuple(single)}")


@law("operation.dtype", "it makes a tensor without dtype and device of its inputs")
def dtype(case: Case) -> None:
    """An operation computes in the dtype and on the device of its inputs."""
    placed = case.placed()
    for kind in (torch.float32, torch.float64):
        found = placed.module.to(kind)(*(i.to(kind) for i in placed.inputs))
        require(found.dtype == kind, f"for inputs in {kind} its output is in {found.dtype}")
    # tensors on the meta device have no values, so that a tensor made elsewhere is noticed
    found = placed.module.to("meta")(*(i.to("meta") for i in placed.inputs))
    require(found.is_meta, f"its output is on {found.device}, its inputs are on another device")


@law("operation.batch", "it takes a mean, a maximum or a softmax over the first axis")
def batch(case: Case) -> None:
    """In evaluation mode the output for an example does not depend on the other examples, nor on their order."""
    placed = case.placed()
    whole = placed.module(*placed.inputs)
    # Both are needed: a maximum over the examples is noticed alone, a shift of the examples by their order.
    for row in range(len(whole)):
        # Not compared to the bit: libraries choose other kernels, with another order of sums, for other batch sizes.
        alone = placed.module(*(i[row : row + 1] for i in placed.inputs))
        what = f"the distance of the output for example {row} alone from that in a batch"
        require_at_most(what, largest(alone[0] - whole[row]), tolerance(whole))
    turned = placed.module(*(i.flip(0) for i in placed.inputs)).flip(0)
    require_at_most("the distance of the outputs for examples in another order", largest(turned - whole), tolerance(whole))


@law("operation.layout", "it uses view() or reads strides where reshape() is right")
def layout(case: Case) -> None:
    """The output does not depend on the memory layout of the inputs."""
    placed = case.placed()
    plain = placed.module(*placed.inputs)
    for name, laid in LAYOUTS.items():
        found = placed.module(*(laid(i) for i in placed.inputs))
        require_at_most(f"the distance of the outputs for inputs that are {name}", largest(found - plain), tolerance(plain))


@law("operation.pure", "it works in place on its inputs, or counts its calls")
def pure(case: Case) -> None:
    """A call does not change the inputs, and in evaluation mode not the module; a second call returns the same bits."""
    placed = case.placed()
    # The same input goes to all candidates of a site, and is read again by other nodes: whoever writes to it changes them.
    inputs, before = [i.clone() for i in placed.inputs], {n: t.detach().clone() for n, t in tensors(placed.module).items()}
    first, again = placed.module(*placed.inputs), placed.module(*placed.inputs)
    require(torch.equal(first, again), "a second call returns another output")
    changed = [n for n, t in tensors(placed.module).items() if not torch.equal(t, before[n])]
    require(not changed, f"a call in evaluation mode changes {', '.join(changed)}")
    # in training mode buffers may change, the inputs may not
    placed.module.train()(*placed.inputs)
    for position, (now, then) in enumerate(zip(placed.inputs, inputs, strict=True)):
        require(torch.equal(now, then), f"a call changes input {position}")


@law("operation.mode", "its train() or eval() does more than set the mode")
def mode(case: Case) -> None:
    """Setting training mode and then evaluation mode changes nothing."""
    placed = case.placed()
    before = placed.module(*placed.inputs)
    after = placed.module.train().eval()(*placed.inputs)
    require(torch.equal(before, after), f"the output changes by {largest(after - before):.3g}")


#: the number of initialisations and inputs over which gradients are judged
DRAWS = 4


@law("operation.gradient", "a parameter is not used, or a detach(), a sign, a round or a saturated function cuts it off")
def gradient(case: Case) -> None:
    """Gradients are finite in both modes, and one that is not zero reaches each parameter and each input.

    This is judged over several initialisations and inputs together, as a ReLU may be off for all examples by chance.
    """
    for name, training in MODES.items():
        reached: dict[str, bool] = {}
        for number in range(DRAWS):
            placed = case.placed(training)
            module = placed.fresh(number).train(training) if number else placed.module
            generator = Seed((case.place, "gradient", number)).generator()
            # inputs of both signs, so that not all are on one side of a ReLU, and not zero, as a first state is
            drawn = [torch.randn(i.shape, generator=generator, dtype=i.dtype) for i in placed.inputs]
            inputs = [torch.cat([i, -i, other, -other]).requires_grad_() for i, other in zip(placed.inputs, drawn, strict=True)]
            out = module(*inputs)
            if not out.requires_grad:
                require(case.part.zero, f"in {name} mode its output depends on nothing that has a gradient")
                break
            wanted = dict(module.named_parameters()) | {f"input {n}": i for n, i in enumerate(inputs)}
            # different factors: the plain sum of a normalised output is constant, and has no gradient
            factors = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)
            found = torch.autograd.grad((out * factors).sum(), [*wanted.values()], materialize_grads=True)
            for of, slope in zip(wanted, found, strict=True):
                require(bool(slope.isfinite().all()), f"in {name} mode the gradient of {of} is not finite")
                reached[of] = reached.get(of, False) or bool((slope != 0).any())
            if all(reached.values()):
                break
        dead = [of for of, is_reached in reached.items() if not is_reached and not case.part.zero]
        require(
            not dead, f"in {name} mode no gradient reaches {', '.join(dead)}, with any of {DRAWS} initialisations and inputs"
        )


@law("operation.slope", "its backward pass is written by hand, or something that matters is detached")
def slope(case: Case) -> None:
    """The gradient is that of the output: along a direction it equals the difference quotient."""
    point, value = _as_function(case.placed())
    pairs = [_slopes(point, value, Seed((case.place, "direction", n))) for n in range(3)]
    errors = [abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
    # a direction may cross the edge of a ReLU, but hardly all three
    require_at_most("the least distance, of three, of a slope from the difference quotient", min(errors), 1e-5)


def _as_function(placed: Placed) -> tuple[dict[str, Tensor], Callable[[Mapping[str, Tensor]], Tensor]]:
    """Return a number that the module computes as a function of its parameters and inputs, and their values.

    The inputs are changed a little, so that no two are equal: a maximum has no gradient there.
    """
    generator = Seed(("inputs",)).generator()
    # Parameters and inputs in one mapping, so that a direction moves all of them at once: one number tests every
    # derivative.
    point = {n: p.detach() for n, p in placed.module.named_parameters()}
    for n, i in enumerate(placed.inputs):
        point[f"input {n}"] = i + 0.01 * torch.randn(i.shape, generator=generator, dtype=i.dtype)
    with torch.no_grad():
        # Different factors for the entries of the output, so that errors of opposite signs do not cancel in the sum.
        factors = torch.linspace(0.5, 1.5, placed.module(*placed.inputs).numel(), dtype=placed.inputs[0].dtype)

    def value(at: Mapping[str, Tensor]) -> Tensor:
        inputs = tuple(at[f"input {n}"] for n in range(len(placed.inputs)))
        parameters = {n: t for n, t in at.items() if not n.startswith("input ")}
        return (functional_call(placed.module, parameters, inputs).flatten() * factors).sum() / factors.numel()

    return point, value


def _slopes(
    point: Mapping[str, Tensor], value: Callable[[Mapping[str, Tensor]], Tensor], seed: Seed, step: float = 1e-6
) -> tuple[float, float]:
    """Return the slope along a random direction by autograd, and by a difference quotient."""
    generator = seed.generator()
    along = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in point.items()}
    leaves = {n: t.clone().requires_grad_() for n, t in point.items()}
    out = value(leaves)
    found = 0.0
    if out.requires_grad:
        slopes = torch.autograd.grad(out, [*leaves.values()], materialize_grads=True)
        found = sum(float((s * along[n]).sum()) for n, s in zip(leaves, slopes, strict=True))
    # The step is about eps^(1/3) at float64, where the truncation of a central difference, of order step^2, and the
    # rounding, of order eps / step, are about equal.
    ahead, behind = (float(value({n: t + s * along[n] for n, t in point.items()}).detach()) for s in (step, -step))
    return found, (ahead - behind) / (2 * step)


@law("operation.curvature", "the function detaches something, or has a backward pass that cannot be differentiated")
def curvature(case: Case) -> None:
    """If an operation implements pointwise(), the gradient of its module can be differentiated again."""
    if case.part.pointwise() is None:
        raise Inapplicable("it does not implement pointwise()")
    point, value = _as_function(case.placed())
    generator = Seed((case.place, "factors")).generator()
    factors = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in point.items()}

    # A linear combination of the gradient's entries is a number again, whose slope contains second derivatives.
    def sloped(at: Mapping[str, Tensor]) -> Tensor:
        leaves = {n: t if t.requires_grad else t.clone().requires_grad_() for n, t in at.items()}
        out = value(leaves)
        if not out.requires_grad:
            return out * 0
        slopes = torch.autograd.grad(out, [*leaves.values()], create_graph=True, materialize_grads=True)
        return sum(((s * factors[n]).sum() for n, s in zip(leaves, slopes, strict=True)), torch.zeros((), dtype=out.dtype))

    pairs = [_slopes(point, sloped, Seed((case.place, "direction", n))) for n in range(3)]
    errors = [abs(a - b) / max(1.0, abs(b)) for a, b in pairs]
    require_at_most("the least distance, of three, of a second derivative from the difference quotient", min(errors), 1e-5)


@law("operation.state", "a number is kept in a plain attribute: make it an nn.Parameter, or register_buffer it")
def state(case: Case) -> None:
    """All numbers of a module are in its state dict: another module that loads it returns the same bits in both modes."""
    for name, training in MODES.items():
        placed = case.placed(training)
        # another initialisation: what it does not load stays different
        other = placed.fresh(0).train(training)
        # What the module keeps outside of its state dict would be lost in every commit and every change.
        other.load_state_dict(placed.module.state_dict())
        outputs = []
        for module in (placed.module, other):
            with Seed((case.place, "state")).as_global():
                outputs.append(module(*placed.inputs))
        distance = largest(outputs[0] - outputs[1])
        require(torch.equal(*outputs), f"in {name} mode the distance of the outputs is {distance:.3g}")


@law("operation.cost", "cost() is overridden, and counts something else than one call of the module")
def cost_(case: Case) -> None:
    """cost() returns the number of parameters of the module and of the floating-point operations of a call."""
    placed = case.placed()
    shapes = [i.shape for i in placed.inputs]
    declared, measured = case.part.cost(*shapes, **placed.sizes), cost(placed.module, *shapes)
    require(isinstance(declared, Cost) and declared == measured, f"cost() returns {declared}; that of the module is {measured}")


@law("operation.zero", "it declares `zero`, but adds a bias or keeps a part of its input")
def zero(case: Case) -> str | None:
    """The output of an operation that declares `zero` is zero for all inputs."""
    placed = case.placed()
    # both modes, and inputs of the other sign and another size
    outputs = [placed.module.train(t)(*(s * i for i in placed.inputs)) for t, s in itertools.product(MODES.values(), (1, -3))]
    silent = all(bool((o == 0).all()) for o in outputs)
    if not case.part.zero:
        return "it could declare `zero`: all its outputs were zero" if silent else None
    require(silent, f"its output is {max(largest(o) for o in outputs):.3g}")
    return None


@law(
    "operation.residual",
    "`residual` leaves out a parameter, for example a bias, or names one in which the output is not linear",
)
def residual(case: Case) -> None:
    """If the parameters in `residual` are zero, the operation is the identity on its last input h, to the bit.

    If they are multiplied by g, its output o becomes (1 - g) h + g o.
    """
    if case.part.residual is None:
        raise Inapplicable("it does not declare `residual`")
    placed = case.placed()
    parameters = {n: p.detach() for n, p in placed.module.named_parameters()}
    unknown = set(case.part.residual) - parameters.keys()
    names = ", ".join(parameters) or "no parameters"
    require(not unknown, f"it names {', '.join(sorted(unknown))}; the module has {names}")
    # (1 - g) h + g o = h + g (o - h): the operation is h plus a part that is of degree one in these parameters.
    o = placed.module(*placed.inputs)

    def scaled(g: float) -> Tensor:
        return functional_call(placed.module, {n: parameters[n] * g for n in case.part.residual}, placed.inputs)

    h = placed.inputs[-1][..., -o.shape[-1] :]  # of [x, h] the h
    if h.shape != o.shape:
        raise Inapplicable("its output has another shape than its input here, so it cannot be the identity")
    require(torch.equal(scaled(0.0), h), "at zero it is not the identity on its last input")
    # two values of g, as a wrong formula may hold at one of them
    for g in (0.5, -2.0):
        distance = largest(scaled(g) - ((1 - g) * h + g * o))
        require_at_most(f"the distance from (1 - g) h + g o at g = {g}", distance, 8 * tolerance(o))


@law(
    "operation.homogeneous",
    "`homogeneous` leaves out a parameter, for example a bias, or the output is not linear in one that it names",
)
def homogeneous(case: Case) -> None:
    """If the parameters in `homogeneous` are multiplied by w > 0, the output is multiplied by w, in both modes."""
    if case.part.homogeneous is None:
        raise Inapplicable("it does not declare `homogeneous`")
    for name, training in MODES.items():
        placed = case.placed(training)
        parameters = {n: p.detach() for n, p in placed.module.named_parameters()}
        unknown = set(case.part.homogeneous) - parameters.keys()
        names = ", ".join(parameters) or "no parameters"
        require(not unknown, f"it names {', '.join(sorted(unknown))}; the module has {names}")
        o = placed.module(*placed.inputs)
        for w in (0.2, 3.0):
            scaled = functional_call(placed.module, {n: parameters[n] * w for n in case.part.homogeneous}, placed.inputs)
            require_at_most(f"the distance from w o at w = {w} in {name} mode", largest(scaled - w * o), 8 * tolerance(o))


@law("operation.pointwise", "a term names another parameter, or the function is not the one that the module computes")
def pointwise(case: Case) -> None:
    """What the fast form computes, from the pointwise description or those of the summands, is what the module does, in both modes."""
    for name, training in MODES.items():
        placed = case.placed(training)
        found = _described(case.part, placed)
        if found is None:
            raise Inapplicable("it implements neither pointwise() nor summands() that do")
        out = placed.module(*placed.inputs)
        require_at_most(f"the distance of the outputs in {name} mode", largest(found - out), tolerance(out))


def _described(part: Operation, placed: Placed) -> Tensor | None:
    """Return the output of a module as its operation describes it; None if there is no description."""
    if summands := part.summands():
        weights, modules = placed.module.weights, placed.module.operations
        assert isinstance(weights, Tensor), "a module with summands has a parameter `weights`"
        assert isinstance(modules, nn.ModuleList), "a module with summands has its modules in `operations`"
        count = len(summands)
        require(
            len(weights) == len(modules) == count, f"it has {count} summands, {len(weights)} weights and {len(modules)} modules"
        )
        terms = [_described(o, attrs.evolve(placed, module=m)) for o, m in zip(summands, modules, strict=True)]
        known = [w * term for w, term in zip(weights, terms, strict=True) if term is not None]
        return sum(known[1:], known[0]) if len(known) == count else None
    description = part.pointwise()
    return None if description is None else description.function(*_arguments(description, placed))


def _arguments(description: Pointwise, placed: Placed) -> list[Tensor]:
    """Return the arguments of the pointwise function, the terms and h, in one shape."""
    parameters = dict(placed.module.named_parameters())
    terms = []
    for term in description.terms:
        missing = [n for n in (*term.weights, term.bias) if n is not None and n not in parameters]
        names = ", ".join(parameters) or "no parameters"
        require(not missing, f"a term names {', '.join(missing)}; the module has {names}")
        summands = [i @ parameters[n].t() for n, i in zip(term.weights, placed.inputs, strict=True) if n is not None]
        summands += [parameters[term.bias]] if term.bias is not None else []
        terms.append(sum(summands[1:], summands[0]))
    # clones, as the module may write to its inputs, which another law reports
    hidden = placed.module(*map(torch.clone, placed.inputs)).shape[-1]
    return [*torch.broadcast_tensors(*terms, placed.inputs[-1][..., -hidden:])]


@law("operation.derivatives", "a derivative or the value is that of another function, or two derivatives are swapped")
def derivatives(case: Case) -> None:
    """The derivatives that pointwise() declares are those that autograd finds."""
    description = case.part.pointwise()
    if description is None or description.derivatives is None:
        raise Inapplicable("it does not declare derivatives in pointwise()")
    arguments = _arguments(description, case.placed())
    terms = [", ".join(name for name in (*term.weights, term.bias) if name is not None) for term in description.terms]
    names = ["its value", *(f"its derivative by the term of {of}" for of in terms), "its derivative by h"]
    # without declared derivatives autograd computes them
    right = attrs.evolve(description, derivatives=None).value_and_derivatives(*arguments)
    found = description.value_and_derivatives(*arguments)
    require(len(found) == len(names), f"it returns {len(found)} values; they should be {len(names)}: {', '.join(names)}")
    # A derivative that is the same everywhere may be a number.
    exact = [torch.as_tensor(value, dtype=arguments[-1].dtype) for value in right]
    allowed = tolerance(torch.stack([value.abs().max() for value in exact]))
    errors = {name: largest(e - f) for name, e, f in zip(names, exact, found, strict=True)}
    wrong = [name for name, distance in errors.items() if not distance <= allowed] or names
    require_at_most(f"the distance of {' and of '.join(wrong)}", max(errors[name] for name in wrong), allowed)


#: a bound that is so many times the largest value found is reported as loose
LOOSE = 100.0


@law("operation.bound", "a norm is taken along the wrong axis, or a term, for example the bias, is left out")
def bound(case: Case) -> str | None:
    """magnitude() and identity_error() bound |o| and |o - h| for inputs of all sizes, up to the corners of the box of their norms."""
    placed = case.placed()
    declared = {"|o|": case.part.magnitude(placed.module), "|o - h|": case.part.identity_error(placed.module)}
    bounds = {what: bound for what, bound in declared.items() if bound is not None}
    if not bounds:
        raise Inapplicable("it implements neither magnitude() nor identity_error()")
    # For each bound the least ratio of bound to value over all inputs. A bound may be infinitely loose at one input, and
    # must be near at some other.
    tightest = dict.fromkeys(bounds, math.inf)
    # A bound may be right for small inputs and wrong for large ones, or the reverse, as where a constant term is missing.
    for scale, training in itertools.product((0.1, 1.0, 10.0), MODES.values()):
        module = placed.module.train(training)
        for inputs in (tuple(scale * i for i in placed.inputs), *_corners(module, placed.inputs, scale)):
            out, norms = module(*inputs), [largest(i) for i in inputs]
            for what, limit in bounds.items():
                found = largest(out - inputs[-1][..., -out.shape[-1] :] if what == "|o - h|" else out)
                allowed = limit(norms)
                where = f"{what} for inputs within {', '.join(f'{n:.3g}' for n in norms)}"
                require_at_most(where, found, allowed * (1 + 1e-9) + tolerance(out))
                tightest[what] = min(tightest[what], allowed / found if found else math.inf if allowed else 1.0)
    if max(tightest.values()) <= LOOSE:
        return None
    return f"but the bound on {' or '.join(bounds)} is over {LOOSE:g} times the largest value found"


def _corners(module: nn.Module, inputs: tuple[Tensor, ...], scale: float) -> list[tuple[Tensor, ...]]:
    """Return inputs in corners of the box of their norms; each corner follows the gradient of the largest output before."""
    norms, at, found = [scale * largest(i) for i in inputs], tuple(i.clone() for i in inputs), []
    for _ in range(3):
        # Every entry at its largest absolute value.
        at = tuple((n * torch.where(i >= 0, 1.0, -1.0)).to(i.dtype).requires_grad_() for n, i in zip(norms, at, strict=True))
        found.append(tuple(i.detach() for i in at))
        out = module(*at).flatten()
        if not out.requires_grad:
            break
        # A few steps of sign ascent: for a function that is linear in its inputs, the first corner in the direction of the
        # gradient has the largest output.
        top = out[out.abs().argmax()]
        climb = torch.autograd.grad(top.abs(), at, materialize_grads=True)
        at = tuple(torch.where(c == 0, i, c).detach() for c, i in zip(climb, at, strict=True))
    return found
