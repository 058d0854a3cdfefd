"""The fast form of the recurrent backbones, held to the readable one: values, gradients, second derivatives; and mutants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_growing import NodeGrowth
from nasframe_recurrent import (
    Darts,
    IdentityEdge,
    IdentityHighway,
    Prod,
    Relu,
    ReluEdge,
    ReluHighway,
    Sigmoid,
    SigmoidEdge,
    SigmoidHighway,
    Sum,
    Tanh,
    TanhEdge,
    TanhHighway,
    TwoToOne,
    ZeroEdge,
    fused,
)
from nasframe_recurrent.edges import Edge
from nasframe_recurrent.operations import TwoInput, matrix
from nasframe_recurrent.plan import planned
from recurrent import Centred, strategy
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softsign
from torch.nn.modules.module import register_module_forward_pre_hook

from nasframe import Candidate, Cell, Network, Node, Operation, Pointwise, Seed, Site, Structure, Term, build
from nasframe.change.apply import remove_candidates
from nasframe.errors import StructureError
from nasframe.testing import laws
from nasframe.testing.aged import Aged
from nasframe.testing.strategies import removals, seeds, sizes

Tensors = Mapping[str, Tensor]


def minimal(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """A function of two terms, which no shipped operation has."""
    return torch.sigmoid(a) * h + softsign(b)


class Minimal(nn.Module):
    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.W, self.V, self.b = matrix(hidden, inputs, hidden), matrix(hidden, width, hidden), matrix(1, hidden, hidden)
        self.b = nn.Parameter(self.b[0].detach())

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        z = x if h is None else h
        return minimal(x @ self.W.t() + self.b, z @ self.V.t(), z[:, -self.hidden :])


@attrs.frozen
class MinimalGate(TwoInput):
    """A stranger's operation: sigmoid(W x + b) h + softsign(V h)."""

    name: ClassVar[str] = "minimal"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Minimal(inputs, hidden, hidden)

    def pointwise(self) -> Pointwise:
        return Pointwise((Term(("W", None), "b"), Term((None, "V"))), minimal)


@attrs.frozen
class MinimalEdge(Edge):
    """A stranger's operation: sigmoid(W z + b) h + softsign(V z)."""

    name: ClassVar[str] = "minimal_edge"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Minimal(inputs, hidden, inputs)

    def pointwise(self) -> Pointwise:
        return Pointwise((Term(("W",), "b"), Term(("V",))), minimal)


class Constant(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, z: Tensor) -> Tensor:
        return torch.ones_like(z[:, -self.hidden :])


@attrs.frozen
class One(Edge):
    """A stranger's operation, through which no gradient goes."""

    name: ClassVar[str] = "one"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Constant(hidden)

    def pointwise(self) -> Pointwise:
        return Pointwise((), torch.ones_like)


@attrs.frozen
class Fan(TwoToOne):
    """A stranger's wiring: every node on x and the first node, and all of them put out."""

    name: ClassVar[str] = "fan"

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        return tuple(node.id for node in cell.nodes)

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        return {node: ("x", cell.nodes[0].id if cell.nodes else "h")}


TWO = (Sigmoid(), Tanh(), Relu(), Sum(), Prod(), MinimalGate())
EDGES = (SigmoidEdge(), TanhEdge(), ReluEdge(), IdentityEdge(), ZeroEdge())
HIGHWAYS = (SigmoidHighway(), TanhHighway(), ReluHighway(), IdentityHighway())
ONE = (*EDGES, *HIGHWAYS, MinimalEdge(), One())


def chosen(operations: Sequence[Operation]) -> st.SearchStrategy[tuple[Operation, ...]]:
    """Some of them, not all of them zero."""
    some = st.lists(st.sampled_from(operations), min_size=1, unique=True)
    return some.filter(lambda chosen: not all(o.zero for o in chosen)).map(tuple)


@attrs.frozen(eq=False)
class Case:
    """A network with inputs, and the directions that its second derivatives are taken in."""

    network: Network
    inputs: Tensor
    seed: Seed

    def tensors(self) -> dict[str, Tensor]:
        """What there can be gradients of."""
        inputs = {"inputs": self.inputs} if self.inputs.is_floating_point() else {}
        return {**inputs, **dict(self.network.named_parameters())}

    def loss(self, fast: bool) -> tuple[Tensor, Tensor]:
        """What the network puts out, and a loss of it, with the same draws in either form."""
        self.network.fast = fast
        with self.seed("draws").as_global():
            output = self.network(self.inputs, {a: alpha.softmax(0) for a, alpha in self.network.alphas.items()})
        target = torch.randn(output.shape, generator=self.seed("target").generator(), dtype=output.dtype)
        return output, ((output - target) ** 2).mean()

    def derivatives(self, fast: bool, asked: Sequence[str] = ()) -> list[Tensors]:
        """The output, the gradients, those that can be differentiated again, and the Hessian times a vector."""
        live = {n: t for n, t in self.tensors().items() if t.requires_grad and (not asked or n in asked)}
        output, loss = self.loss(fast)
        generator = self.seed("direction").generator()
        first, again = (self._gradients(loss, live, create_graph=create) for create in (False, True))
        along = sum((g * torch.randn(g.shape, generator=generator, dtype=g.dtype)).sum() for g in again.values())
        return [{"output": output}, first, again, self._gradients(along, live)]

    def _gradients(self, value: Tensor, live: Tensors, **options: bool) -> Tensors:
        found = torch.autograd.grad(value, [*live.values()], retain_graph=True, materialize_grads=True, **options)
        return dict(zip(live, found, strict=True))


def equal(case: Case, asked: Sequence[str] = ()) -> None:
    """Both forms give the same, up to 1e-12 of each tensor's largest entry; where that is rounding itself, of them all."""
    names = ("values", "gradients", "gradients that can be differentiated", "second derivatives")
    for what, readable, fast in zip(names, case.derivatives(False, asked), case.derivatives(True, asked), strict=True):
        largest = max(float(v.detach().abs().max()) for v in readable.values())
        for name, value in readable.items():
            own = float(value.detach().abs().max())
            allowed = 1e-12 * (own if own > 1e-10 * largest else largest)
            distance = float((fast[name] - value).detach().abs().max())
            assert distance <= allowed, f"the {what} of {name} differ by {distance:.3g}; {allowed:.3g} is allowed"


def case(structure: Structure, time: int, batch: int, seed: Seed, training: bool = False) -> Case:
    """A network with parameters as after some training: alphas and gates are not zero; on numbers, or on tokens."""
    network = build(structure, seed("build")).double().train(training)
    generator = seed("parameters").generator()
    for parameter in network.parameters():
        parameter.data.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    if "tokens" in dict(structure.sizes):
        return Case(network, torch.randint(structure.size("tokens"), (time, batch), generator=generator), seed)
    x = torch.randn(time, batch, structure.size("inputs"), generator=generator, dtype=torch.float64)
    return Case(network, x.requires_grad_(), seed)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any wiring, numbers or tokens, sizes down to 1, some of the operations, nodes behind gates, pruned and decided sites, in
    either mode.
    """
    hidden, time, batch = draw(sizes(3)), draw(sizes(4)), draw(sizes(3))
    ends = st.fixed_dictionaries({"inputs": sizes(3), "outputs": sizes(2)}) | st.fixed_dictionaries({"tokens": sizes(3)})
    fields = hidden, draw(sizes(2)), draw(st.sampled_from([0.0, 0.4]))
    backbone = draw(
        st.builds(TwoToOne, *map(st.just, fields), chosen(TWO))
        | st.builds(Fan, *map(st.just, fields), chosen(TWO))
        | st.builds(Darts, *map(st.just, fields), st.sampled_from(["last", "mean", "later"]), chosen(ONE))
    )
    seed = draw(seeds())
    network = build(backbone.initial(draw(ends), draw(sizes(3))), seed)
    for cell in draw(st.lists(st.sampled_from([type for type, _ in network.structure.cells]), max_size=2)):
        network = NodeGrowth(form="gate").change(network, {"cell": cell}, {}, seed).child
    if draw(st.booleans()):
        network = remove_candidates(network, draw(removals(network.structure, draw(st.booleans()))), seed).child
    return case(network.structure, time, batch, seed, draw(st.booleans()))


def specimen(backbone: Any) -> Case:
    """Two nodes and a third one behind a gate."""
    network = build(backbone.initial({"inputs": 2, "outputs": 2}, 2), Seed((0,)))
    network = NodeGrowth(form="gate").change(network, {"cell": "layer0"}, {}, Seed((1,))).child
    return case(network.structure, 3, 2, Seed((2,)))


two_to_one = TwoToOne(3, operations=TWO)
darts = Darts(3, output="mean", operations=ONE)
both = pytest.mark.parametrize("backbone", [two_to_one, darts], ids=["two_to_one", "darts"])


class TestEquality:
    @given(cases(), st.sampled_from([(1, 1e-9), (2**18, 1.0)]))
    def test_both_forms_are_one_function(self, case: Case, stretch: tuple[int, float]) -> None:
        """Values, gradients and second derivatives of the fast form are those of the readable one, however it goes back."""
        structure = case.network.structure
        assert all(sentence.endswith("all of its operations are zero") for sentence in structure.backbone.slow_parts(structure))
        with patch.multiple(fused, ENTRIES=stretch[0], PART=stretch[1]):
            equal(case)

    @given(cases(), st.data())
    def test_any_part_of_the_gradient(self, case: Case, data: st.DataObject) -> None:
        """Whatever is asked for, and whatever can have a gradient, what is asked for is right."""
        names = [*case.tensors()]
        asked = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        # the head's bias stays alive, so that the loss depends on something
        frozen = data.draw(st.lists(st.sampled_from([n for n in names if n != "body.head.bias"]), unique=True))
        for name in set(frozen) - set(asked):
            case.tensors()[name].requires_grad_(False)
        equal(case, asked)

    @both
    def test_the_derivatives_are_those_of_the_values(self, backbone: Any) -> None:
        """First and second derivatives agree with finite differences in every input."""
        own = case(attrs.evolve(backbone, hidden=2).initial({"inputs": 1, "outputs": 1}, 2), 2, 1, Seed((3,)))
        tensors = own.tensors()

        def output(x: Tensor, *values: Tensor) -> Tensor:
            parameters = dict(zip([*tensors][1:], values, strict=True))
            weights = {a: parameters[f"alphas.{a}"] for a in own.network.alphas}
            return functional_call(own.network, parameters, (x, weights))

        assert torch.autograd.gradcheck(output, [*tensors.values()])
        assert torch.autograd.gradgradcheck(output, [*tensors.values()], fast_mode=True)

    @both
    def test_parameters_are_read_at_each_call(self, backbone: Any) -> None:
        """With other parameters in the place of its own a network computes what one that has them does."""
        own, other = specimen(backbone), specimen(backbone)
        for parameter in other.network.parameters():
            parameter.data.mul_(1.5)
        weights = {a: alpha.softmax(0) for a, alpha in own.network.alphas.items()}
        swapped = functional_call(own.network, dict(other.network.named_parameters()), (own.inputs, weights))
        assert torch.equal(swapped, other.network(own.inputs, weights))
        with torch.no_grad():
            assert torch.equal(swapped, other.network(own.inputs, weights))


class TestWork:
    @both
    def test_no_module_of_the_readable_form_is_called(self, backbone: Any) -> None:
        """A stranger's operation with two gates is computed from its description, and so is all else of a layer."""
        own, called = specimen(backbone), []
        handle = register_module_forward_pre_hook(lambda module, inputs: called.append(type(module).__name__))
        try:
            own.loss(fast=True)
        finally:
            handle.remove()
        assert called == ["Network", "Dropout", "Linear"]

    @both
    def test_gradients_that_nobody_asks_for(self, backbone: Any) -> None:
        """Where the gradient of the alphas alone is asked for, those of the weights are not computed."""
        own = specimen(backbone)
        own.inputs.requires_grad_(False)
        for asked, needed in ((own.network.alphas, False), (own.network.body, True)):
            with patch.object(fused, "backward", wraps=fused.backward) as spy:
                torch.autograd.grad(own.loss(fast=True)[1], [*asked.parameters()], materialize_grads=True)
            assert spy.call_args.args[-2:] == (False, needed)


class TestFallback:
    def test_a_layer_that_cannot_says_so(self) -> None:
        """A layer with an operation that tells nothing runs in its readable form, the others in the fast one."""
        own = specimen(TwoToOne(3, 2, operations=(Sum(), Centred())))
        gone = {a: {s.candidates[1].id} for a, s in own.network.structure.sites() if a.startswith("layer0")}
        own = case(remove_candidates(own.network, gone, Seed((0,))).child.structure, 3, 2, Seed((0,)))
        structure = own.network.structure
        assert structure.backbone.slow_parts(structure) == [
            "layer1 runs in its readable form: operation 'centred' at n0 does not tell its pointwise form"
        ]
        equal(own)

    @pytest.mark.parametrize(
        ("inputs", "operations", "reason"),
        [
            (("h", "x"), TWO, "operation 'sigmoid' at s has a linear map of another state than its last"),
            (("h", "x"), (Sum(),), "operation 'sum' at s has a linear map of another state than its last"),
            (("x", "x"), (Prod(),), "operation 'prod' at s has 'x' for its last input, which is no state"),
            (("xh",), (ZeroEdge(),), "all of its operations are zero"),
        ],
    )
    def test_what_cannot_be_planned(self, inputs: Any, operations: Any, reason: str) -> None:
        """What a step cannot be computed from is named."""
        candidates = tuple(Candidate(i, operation) for i, operation in enumerate(operations))
        assert planned(Cell((Node("n0"),), (Site("s", "n0", inputs, candidates),)), ("n0",)) == reason


class TestMutants:
    """Each is a fast form with one fault; the law sees it."""

    @staticmethod
    def caught(name: str, fault: Callable[..., Any], backbone: Any, message: str) -> None:
        """Equality fails with that message when a function of the fast form is replaced, which is given to the fault."""
        own, original = specimen(backbone), getattr(fused, name)
        equal(own)
        with patch.object(fused, name, lambda *args: fault(original, *args)), pytest.raises(AssertionError, match=message):
            equal(own)

    @both
    def test_a_gate_is_forgotten(self, backbone: Any) -> None:
        def fault(original: Any, cell: Any, own: Any, *args: Any) -> Tensor:
            return original(SimpleNamespace(sites=cell.sites, gates={}), own, *args)

        self.caught("mixing", fault, backbone, "values of output")

    @both
    def test_a_weight_is_transposed_on_the_way_back(self, backbone: Any) -> None:
        def fault(original: Any, *args: Any) -> Any:
            blocks = [None if w is None else w.view(3, -1, 3).transpose(0, 2).reshape(3, -1) for w in args[-1]]
            return original(*args[:-1], blocks)

        self.caught("stretch", fault, backbone, "the gradients of")

    @both
    def test_slopes_that_are_numbers_are_left_out(self, backbone: Any) -> None:
        def fault(original: Any, *args: Any) -> Any:
            y, by_a, by_state = original(*args)
            return y, by_a, [slope if isinstance(slope, Tensor) else 0.0 for slope in by_state]

        self.caught("slopes", fault, backbone, "the gradients of")

    def test_columns_of_x_are_swapped(self) -> None:
        def fault(original: Any, *args: Any) -> Any:
            W_x, *rest = original(*args)
            return W_x.flip(1), *rest

        self.caught("stacked", fault, darts, "values of output")

    @both
    def test_the_gradient_is_a_constant(self, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        backward = fused.Layer.backward
        monkeypatch.setattr(fused.Layer, "backward", staticmethod(torch.no_grad()(backward)))
        with pytest.raises(AssertionError, match="the second derivatives of"):
            equal(specimen(backbone))


@attrs.frozen
class Told(TwoInput):
    """An operation that tells what it is made with, true or not."""

    name: ClassVar[str] = "told"
    form: Any = None

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Tanh().build(inputs=inputs, hidden=hidden)

    def pointwise(self) -> Pointwise:
        return self.form


@attrs.frozen
class Product(Told):
    """The same of a module that multiplies."""

    name: ClassVar[str] = "product"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Prod().build(inputs=inputs, hidden=hidden)


WHOLE = Term(("W_x", "W_h"), "b")


class TestWhatIsTold:
    @pytest.mark.parametrize(
        ("form", "message"),
        [
            (
                Pointwise((Term(("V_x", None)),), torch.add),
                "names 'V_x', which its module does not have; it must be a parameter",
            ),
            (Pointwise((Term(("W_x",)),), torch.add), r"has the weights \('W_x',\); it must be a tuple with one for each of 2"),
            (Pointwise((Term("W_x"),), torch.add), "has the weights 'W_x'; it must be a tuple"),
            (Pointwise((Term(("W_h", None)),), torch.add), r"names 'W_h', which has the shape \(3, 3\); .* of shape \(3, 2\)"),
            (Pointwise((Term((None, "W_h"), "W_x"),), torch.add), r"names 'W_x', which has the shape \(3, 2\)"),
            (Pointwise((WHOLE, WHOLE), torch.add), "must take its 2 terms and h"),
            (Pointwise((WHOLE,), lambda a, h: 1.0), r"gives 1\.0; it must give a tensor of the shape of its arguments"),
            (Pointwise((WHOLE,), torch.add, lambda a: (a, 1.0, 1.0)), "derivatives must take its 1 terms and h"),
            (
                Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, 1.0)),
                "give a tuple of 2; they must give a tuple of 3: what the function gives, its slope by each of its 1 terms",
            ),
            (Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, 1.0, None)), "give None in place 3; in this order"),
            (
                Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, a.sum(), h)),
                r"give tensor\(0\.\) in place 2; .*: each a tensor of the shape",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, form: Any, message: str) -> None:
        """A form that names what is not there, or that cannot be called, is refused with the operation's name."""
        with pytest.raises(StructureError, match=f"operation 'told': the pointwise form's .*{message}"):
            build(TwoToOne(3, operations=(Told(form),)).initial({"inputs": 2, "outputs": 1}, 1), Seed(("told",)))

    @pytest.mark.parametrize("derivatives", [lambda a, h: (a * h, h, a), lambda a, h: (a * h, a, h)], ids=["true", "false"])
    def test_what_is_told_of_slopes_is_held_to_the_module(self, derivatives: Any) -> None:
        """Fast: gradients made of what is told are those of the module, or it is seen."""
        form = Pointwise((Term(("W_x", None)),), torch.mul, derivatives)
        backbone = TwoToOne(3, operations=(Sum(), Product(form)))
        parent = Aged.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 5)
        if derivatives(1.0, 2.0)[1] == 2.0:
            laws.fast(parent)
        else:
            with pytest.raises(AssertionError, match="fast: the distance of the gradient of"):
                laws.fast(parent)

    @pytest.mark.parametrize("function", [lambda a, h: torch.tanh(a), lambda a, h: torch.tanh(-a)], ids=["true", "false"])
    def test_what_is_told_is_held_to_the_module(self, function: Any) -> None:
        """Fast: a form that is not what the module computes is seen, and one that is passes."""
        backbone = TwoToOne(3, operations=(Sum(), Told(Pointwise((WHOLE,), function))))
        parent = Aged.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 5)
        if function(torch.ones(1), None) > 0:
            laws.fast(parent)
        else:
            with pytest.raises(AssertionError, match="fast: the distance of the outputs in evaluation mode"):
                laws.fast(parent)
