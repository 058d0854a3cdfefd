"""The fast form of the recurrent backbones equals the readable form in values, gradients and second derivatives."""

from __future__ import annotations

import ast
import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
import nasframe_recurrent.cell
import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from nasframe_growing import Combination, NodeGrowth
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
from nasframe_recurrent.edges import EdgeOperation
from nasframe_recurrent.operations import TwoInputOperation, weight_matrix
from nasframe_recurrent.plan import plan_cell, summands_of
from recurrent import Centred, strategy
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softsign
from torch.nn.modules.module import register_module_forward_pre_hook

from nasframe import Candidate, Cell, Mixing, Network, Node, Operation, Pointwise, Seed, Site, Structure, build
from nasframe.change.edit import remove_candidates
from nasframe.errors import StructureError
from nasframe.network.pointwise import Term
from nasframe.testing import assertions
from nasframe.testing.strategies import removals, seeds, sizes
from nasframe.testing.trained import TrainedNetwork

Tensors = Mapping[str, Tensor]


def minimal(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """A function of two terms that no shipped operation uses; it has no `derivatives`, so that autograd computes them."""
    return torch.sigmoid(a) * h + softsign(b)


class Minimal(nn.Module):
    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.W, self.V = weight_matrix(hidden, inputs, hidden), weight_matrix(hidden, width, hidden)
        self.b = nn.Parameter(weight_matrix(1, hidden, hidden)[0].detach())

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        z = x if h is None else h
        return minimal(x @ self.W.t() + self.b, z @ self.V.t(), z[:, -self.hidden :])


@attrs.frozen
class MinimalGate(TwoInputOperation):
    """An operation of another plugin: sigmoid(W x + b) h + softsign(V h)."""

    name: ClassVar[str] = "minimal"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Minimal(inputs, hidden, hidden)

    def pointwise(self) -> Pointwise:
        return Pointwise((Term(("W", None), "b"), Term((None, "V"))), minimal)


@attrs.frozen
class MinimalEdge(EdgeOperation):
    """An operation of another plugin: sigmoid(W z + b) h + softsign(V z)."""

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
class One(EdgeOperation):
    """An operation of another plugin, which passes no gradient on."""

    name: ClassVar[str] = "one"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Constant(hidden)

    def pointwise(self) -> Pointwise:
        return Pointwise((), torch.ones_like)


@attrs.frozen
class Fan(TwoToOne):
    """A wiring of another plugin: every node has x and the first node as inputs, and the output is the mean of all nodes."""

    name: ClassVar[str] = "fan"

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        return tuple(node.id for node in cell.nodes)

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        return {node: ("x", cell.nodes[0].id if cell.nodes else "h")}


#: weighted sums, also of sums and of an operation with itself
SUM_OF_TWO = Combination((Tanh(), Sum(), Combination((MinimalGate(), Tanh()))))
SUM_OF_ONE = Combination((IdentityEdge(), Combination((TanhEdge(), ReluEdge())), TanhEdge()))
TWO = (Sigmoid(), Tanh(), Relu(), Sum(), Prod(), MinimalGate(), SUM_OF_TWO)
EDGES = (SigmoidEdge(), TanhEdge(), ReluEdge(), IdentityEdge(), ZeroEdge())
HIGHWAYS = (SigmoidHighway(), TanhHighway(), ReluHighway(), IdentityHighway())
ONE = (*EDGES, *HIGHWAYS, MinimalEdge(), One(), SUM_OF_ONE)


def subsets(operations: Sequence[Operation]) -> st.SearchStrategy[tuple[Operation, ...]]:
    """Draw some of the operations, not all of them zero."""
    some = st.lists(st.sampled_from(operations), min_size=1, unique=True)
    return some.filter(lambda chosen: not all(o.zero for o in chosen)).map(tuple)


@attrs.frozen(eq=False)
class Case:
    """A network with inputs, and a seed for the target of its loss and the direction of its second derivatives."""

    network: Network
    inputs: Tensor
    seed: Seed

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that can have a gradient, by name."""
        inputs = {"inputs": self.inputs} if self.inputs.is_floating_point() else {}
        return {**inputs, **dict(self.network.named_parameters())}

    def loss(self, fast: bool) -> tuple[Tensor, Tensor]:
        """Return the outputs of the network and a loss of them; both forms draw the same dropout masks."""
        self.network.fast = fast
        with self.seed("draws").as_global():
            output = self.network(self.inputs, {a: alpha.softmax(0) for a, alpha in self.network.alphas.items()})
        target = torch.randn(output.shape, generator=self.seed("target").generator(), dtype=output.dtype)
        return output, ((output - target) ** 2).mean()

    def derivatives(self, fast: bool, requested: Sequence[str] = ()) -> list[Tensors]:
        """Return the output, the gradients, the gradients with a graph, and the product of the Hessian with a vector.

        Args:
            fast: whether the fast form computes them.
            requested: the names of the tensors whose gradients are computed; all by default.
        """
        live = {n: t for n, t in self.tensors().items() if t.requires_grad and (not requested or n in requested)}
        output, loss = self.loss(fast)
        generator = self.seed("direction").generator()
        first, again = (self._gradients(loss, live, create_graph=create) for create in (False, True))
        along = sum((g * torch.randn(g.shape, generator=generator, dtype=g.dtype)).sum() for g in again.values())
        return [{"output": output}, first, again, self._gradients(along, live)]

    def nudged(self) -> Case:
        """Return the case with parameters that differ by about 1e-14 of themselves."""
        other = copy.deepcopy(self)
        generator = self.seed("nudge").generator()
        for parameter in other.network.parameters():
            parameter.data *= 1 + 1e-14 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        return other

    def _gradients(self, value: Tensor, live: Tensors, **options: bool) -> Tensors:
        found = torch.autograd.grad(value, [*live.values()], retain_graph=True, materialize_grads=True, **options)
        return dict(zip(live, found, strict=True))


def equal(case: Case, requested: Sequence[str] = ()) -> None:
    """Assert that both forms agree up to 1e-12 of the largest entry of each tensor.

    A tensor may be a small sum of large terms, so that their rounding is more than that. It may then differ by as much as it changes
    in one of the forms where each parameter changes by 1e-14 of itself.
    """
    names = ("values", "gradients", "gradients with a graph", "second derivatives")
    forms = [case.derivatives(fast, requested) for fast in (False, True)]
    for at, what in enumerate(names):
        for name, value in forms[0][at].items():
            distance = _distance(forms[1][at][name], value)
            allowed = 1e-12 * float(value.detach().abs().max())
            if distance > allowed:
                nudged = [case.nudged().derivatives(fast, requested)[at][name] for fast in (False, True)]
                allowed = max(_distance(after, before[at][name]) for after, before in zip(nudged, forms, strict=True))
            assert distance <= allowed, f"the {what} of {name} differ by {distance:.3g}; {allowed:.3g} is allowed"


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def case(structure: Structure, time: int, batch: int, seed: Seed, training: bool = False) -> Case:
    """Return a case of the structure with random parameters, so that alphas and gates are not zero."""
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
    """Draw any wiring, tokens or numbers, sizes down to 1, some operations, gates, pruned and decided sites, in either mode."""
    hidden, time, batch = draw(sizes(3)), draw(sizes(4)), draw(sizes(3))
    ends = st.fixed_dictionaries({"inputs": sizes(3), "outputs": sizes(2)}) | st.fixed_dictionaries({"tokens": sizes(3)})
    fields = hidden, draw(sizes(2)), draw(st.sampled_from([0.0, 0.4]))
    backbone = draw(
        st.builds(TwoToOne, *map(st.just, fields), subsets(TWO))
        | st.builds(Fan, *map(st.just, fields), subsets(TWO))
        | st.builds(Darts, *map(st.just, fields), st.sampled_from(["last", "mean", "later"]), subsets(ONE))
    )
    seed = draw(seeds())
    structure = backbone.initial(draw(ends), draw(sizes(3)))
    for cell in draw(st.lists(st.sampled_from([type for type, _ in structure.cells]), max_size=2)):
        structure = NodeGrowth(form="gate").edit(structure, {"cell": cell}, {}, seed).structure
    if draw(st.booleans()):
        structure = remove_candidates(structure, draw(removals(structure, draw(st.booleans())))).structure
    return case(structure, time, batch, seed, draw(st.booleans()))


def specimen(backbone: Any) -> Case:
    """Return a case with two nodes and a third one behind a gate."""
    structure = backbone.initial({"inputs": 2, "outputs": 2}, 2)
    structure = NodeGrowth(form="gate").edit(structure, {"cell": "layer0"}, {}, Seed((1,))).structure
    return case(structure, 3, 2, Seed((2,)))


two_to_one = TwoToOne(3, operations=TWO)
darts = Darts(3, output="mean", operations=ONE)
both = pytest.mark.parametrize("backbone", [two_to_one, darts], ids=["two_to_one", "darts"])
mutated = both if FULL else pytest.mark.parametrize("backbone", [two_to_one], ids=["two_to_one"])


class TestEquality:
    @given(cases(), st.sampled_from([(1, 1e-9), (2**18, 1.0)]))
    def test_both_forms_are_one_function(self, case: Case, chunk: tuple[int, float]) -> None:
        """Values, gradients and second derivatives agree, for any length of the chunks of the backward pass."""
        structure = case.network.structure
        assert all(sentence.endswith("all of its operations are zero") for sentence in structure.backbone.slow_parts(structure))
        with patch.multiple(fused, CHUNK_ENTRIES=chunk[0], CHUNK_FRACTION=chunk[1]):
            equal(case)

    @given(cases(), st.data())
    def test_any_part_of_the_gradient(self, case: Case, data: st.DataObject) -> None:
        """Requested gradients agree, whichever are requested and whichever tensors are frozen."""
        names = [*case.tensors()]
        requested = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        # the bias of the head is never frozen, so that the loss depends on something
        frozen = data.draw(st.lists(st.sampled_from([n for n in names if n != "body.head.bias"]), unique=True))
        for name in set(frozen) - set(requested):
            case.tensors()[name].requires_grad_(False)
        equal(case, requested)

    @given(cases(), st.sampled_from([(1, 1e-9), (2**18, 1.0)]))
    def test_both_forms_observe_the_same(self, case: Case, chunk: tuple[int, float]) -> None:
        """Candidates have the same inputs, and the same gradients by their outputs, for any length of the chunks."""
        mixing = {a: alpha.softmax(0) for a, alpha in case.network.alphas.items()}
        other = copy.deepcopy(case.network)
        other.fast = False

        def loss(forward: Any) -> Tensor:
            with case.seed("draws").as_global():
                value: Tensor = forward(case.inputs, mixing).sin().sum()
            return value

        with patch.multiple(fused, CHUNK_ENTRIES=chunk[0], CHUNK_FRACTION=chunk[1]):
            assertions.assert_observed(case.network, other, loss)

    @both
    def test_observing_is_no_other_function(self, backbone: Any) -> None:
        """The outputs are those of a call, also where only some candidates are computed, and a candidate left out has no calls."""
        example = specimen(backbone)
        network = example.network
        chosen = dict.fromkeys(network.sites, (1,))
        mixing = Mixing({a: alpha.softmax(0) for a, alpha in network.alphas.items()}, chosen)
        first = next(network.mixed_operations(next(iter(network.sites))))[1].candidates
        for network.fast in (True, False):
            outputs, calls = network.observed(example.inputs, mixing, [*first.values()])
            torch.testing.assert_close(outputs, network(example.inputs, mixing))
            assert [bool(calls[module]) for module in first.values()] == [place == 1 for place in range(len(first))]
            observed = [call.output for call in calls[first["1"]]]
            slopes, again = (
                torch.autograd.grad(outputs.sin().sum(), observed, create_graph=create) for create in (True, False)
            )
            torch.testing.assert_close(slopes, again)

    @both
    def test_the_derivatives_are_those_of_the_values(self, backbone: Any) -> None:
        """First and second derivatives agree with finite differences in every input."""
        small = case(attrs.evolve(backbone, hidden=2).initial({"inputs": 1, "outputs": 1}, 1 + FULL), 2, 1, Seed((3,)))
        tensors = small.tensors()

        def output(x: Tensor, *values: Tensor) -> Tensor:
            parameters = dict(zip([*tensors][1:], values, strict=True))
            mixing = {a: parameters[f"alphas.{a}"] for a in small.network.alphas}
            return functional_call(small.network, parameters, (x, mixing))

        assert torch.autograd.gradcheck(output, [*tensors.values()])
        assert torch.autograd.gradgradcheck(output, [*tensors.values()], fast_mode=True)

    @both
    def test_parameters_are_read_at_each_call(self, backbone: Any) -> None:
        """With the parameters of another network put in the place of its parameters, a network computes what the other one does."""
        first, other = specimen(backbone), specimen(backbone)
        for parameter in other.network.parameters():
            parameter.data.mul_(1.5)
        mixing = {a: alpha.softmax(0) for a, alpha in first.network.alphas.items()}
        swapped = functional_call(first.network, dict(other.network.named_parameters()), (first.inputs, mixing))
        assert torch.equal(swapped, other.network(first.inputs, mixing))
        with torch.no_grad():
            assert torch.equal(swapped, other.network(first.inputs, mixing))


class TestView:
    """The fast form is derived from the readable form, which does not know it."""

    def test_the_cell_does_not_import_the_fast_form(self) -> None:
        """The module of the readable cell imports neither the plan nor the fused computation."""
        imported = {
            node.module
            for node in ast.walk(ast.parse(Path(nasframe_recurrent.cell.__file__).read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert not {"nasframe_recurrent.plan", "nasframe_recurrent.fused", "nasframe_recurrent"} & imported

    @both
    def test_a_plan_is_removed_with_its_network(self, backbone: Any) -> None:
        """A plan is derived once for each cell, and nothing of it is left when the network is deleted."""
        before = len(fused._plans)
        gc.freeze()  # looking for garbage among all that earlier tests left would take seconds
        example = specimen(backbone)
        example.loss(fast=True)
        cell = example.network.body.layers[0]
        assert fused.plan_of(cell) is fused.plan_of(cell)
        assert len(fused._plans) == before + 1
        del example, cell
        gc.collect()
        assert len(fused._plans) == before

    @both
    def test_no_module_of_the_readable_form_is_called(self, backbone: Any) -> None:
        """Everything in a layer is computed from descriptions, also an operation of another plugin with two terms."""
        example, called = specimen(backbone), []
        handle = register_module_forward_pre_hook(lambda module, inputs: called.append(type(module).__name__))
        try:
            example.loss(fast=True)
        finally:
            handle.remove()
        assert called == ["Network", "Dropout", "Linear"]

    @both
    def test_gradients_that_are_not_requested(self, backbone: Any) -> None:
        """The gradients of the weights are not computed where those of the alphas alone are requested."""
        example = specimen(backbone)
        example.inputs.requires_grad_(False)
        for requested, needed in ((example.network.alphas, False), (example.network.body, True)):
            with patch.object(fused, "backward_pass", wraps=fused.backward_pass) as spy:
                torch.autograd.grad(example.loss(fast=True)[1], [*requested.parameters()], materialize_grads=True)
            assert spy.call_args.kwargs == {"needs_x": False, "needs_maps": needed}


class TestFallback:
    def test_a_layer_without_a_fast_form_is_reported(self) -> None:
        """A layer with an operation without `pointwise()` runs in its readable form, and the other layers in the fast one."""
        network = specimen(TwoToOne(3, 2, operations=(Sum(), Centred()))).network
        gone = {a: {s.candidates[1].id} for a, s in network.structure.sites() if a.startswith("layer0")}
        structure = remove_candidates(network.structure, gone).structure
        assert structure.backbone.slow_parts(structure) == [
            "layer1 runs in its readable form: operation 'centred' at n0 does not implement pointwise()"
        ]
        equal(case(structure, 3, 2, Seed((0,))))

    @pytest.mark.parametrize(
        ("inputs", "operations", "reason"),
        [
            (("h", "x"), TWO, "operation 'sigmoid' at s has a linear map of a state that is not its last input"),
            (("h", "x"), (Sum(),), "operation 'sum' at s has a linear map of a state that is not its last input"),
            (("x", "x"), (Prod(),), "the last input of operation 'prod' at s is 'x', which is not a state"),
            (("xh",), (ZeroEdge(),), "all of its operations are zero"),
        ],
    )
    def test_the_reason_is_given(self, inputs: Any, operations: Any, reason: str) -> None:
        """A cell that cannot be computed state by state has a reason in the place of a plan."""
        candidates = tuple(Candidate(i, operation) for i, operation in enumerate(operations))
        assert plan_cell(Cell((Node("n0"),), (Site("s", "n0", inputs, candidates),)), ("n0",)) == reason


class TestMutants:
    """Each is a fast form with one fault, which the test of equality finds."""

    @staticmethod
    def caught(name: str, fault: Callable[..., Any], backbone: Any, message: str) -> None:
        """Assert that equality fails with the message when the function `name` of the fast form is replaced.

        Args:
            name: the function.
            fault: the replacement, called with the original function and its arguments.
            backbone: the backbone of the network.
            message: what the error must say.
        """
        example, original = specimen(backbone), getattr(fused, name)
        equal(example)
        with patch.object(fused, name, lambda *args: fault(original, *args)), pytest.raises(AssertionError, match=message):
            equal(example)

    @mutated
    def test_a_gate_is_forgotten(self, backbone: Any) -> None:
        def fault(original: Any, cell: Any, *args: Any) -> Tensor:
            return original(SimpleNamespace(cell=cell.cell, sites=cell.sites, gates={}), *args)

        self.caught("contribution_weights", fault, backbone, "values of output")

    @mutated
    def test_the_gradient_of_the_weight_of_a_sum_is_forgotten(self, backbone: Any) -> None:
        def fault(original: Any, weight: Tensor, candidates: Sequence[Candidate], mixed: Any) -> Tensor:
            factors = original(torch.ones_like(weight), candidates, mixed)
            places = [place for place, candidate in enumerate(candidates) for _ in summands_of(candidate)]
            found: Tensor = factors * weight[places].detach()
            return found

        self.caught("_of_summands", fault, backbone, "gradients of")

    @mutated
    def test_a_weight_is_transposed_in_the_backward_pass(self, backbone: Any) -> None:
        def fault(original: Any, *args: Any) -> Any:
            blocks = [None if w is None else w.view(3, -1, 3).transpose(0, 2).reshape(3, -1) for w in args[-1]]
            return original(*args[:-1], blocks)

        self.caught("backward_chunk", fault, backbone, "the gradients of")

    @mutated
    def test_derivatives_that_are_numbers_are_left_out(self, backbone: Any) -> None:
        def fault(original: Any, *args: Any) -> Any:
            y, by_a, by_s = original(*args)
            return y, by_a, [derivative if isinstance(derivative, Tensor) else 0.0 for derivative in by_s]

        self.caught("local_derivatives", fault, backbone, "the gradients of")

    def test_columns_of_x_are_swapped(self) -> None:
        def fault(original: Any, *args: Any) -> Any:
            W_x, *rest = original(*args)
            return W_x.flip(1), *rest

        self.caught("stack_parameters", fault, darts, "values of output")

    @mutated
    def test_the_gradient_is_a_constant(self, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        backward = fused.LayerFunction.backward
        monkeypatch.setattr(fused.LayerFunction, "backward", staticmethod(torch.no_grad()(backward)))
        with pytest.raises(AssertionError, match="the second derivatives of"):
            equal(specimen(backbone))


@attrs.frozen
class Described(TwoInputOperation):
    """The operation `tanh` with any description, true or not."""

    name: ClassVar[str] = "described"
    description: Any = None

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Tanh().build(inputs=inputs, hidden=hidden)

    def pointwise(self) -> Pointwise:
        return self.description


@attrs.frozen
class DescribedProduct(Described):
    """The operation `prod` with any description."""

    name: ClassVar[str] = "described_product"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return Prod().build(inputs=inputs, hidden=hidden)


WHOLE = Term(("W_x", "W_h"), "b")


class TestDescriptions:
    @pytest.mark.parametrize(
        ("description", "message"),
        [
            (
                Pointwise((Term(("V_x", None)),), torch.add),
                r"term 1 names 'V_x', which is not in the module; it must be a parameter of shape \(3, 2\)",
            ),
            (
                Pointwise((Term(("W_x",)),), torch.add),
                r"term 1 has the weights \('W_x',\); they must be a tuple with one entry, a name or None, for each of 2 inputs",
            ),
            (Pointwise((Term("W_x"),), torch.add), "has the weights 'W_x'; they must be a tuple"),
            (Pointwise((Term(("W_h", None)),), torch.add), r"names 'W_h', which has the shape \(3, 3\); .* of shape \(3, 2\)"),
            (Pointwise((Term((None, "W_h"), "W_x"),), torch.add), r"names 'W_x', which has the shape \(3, 2\)"),
            (Pointwise((WHOLE, WHOLE), torch.add), "`function` must accept 3 arguments, one for each of 2 terms and h: "),
            (Pointwise((WHOLE,), lambda a, h: 1.0), r"`function` returns 1\.0; it must return a tensor of the shape"),
            (Pointwise((WHOLE,), torch.add, lambda a: (a, 1.0, 1.0)), "`derivatives` must accept 2 arguments"),
            (
                Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, 1.0)),
                "returns a tuple of 2; it must return a tuple of 3: the value, its derivative by each of 1 terms, and its deriv",
            ),
            (
                Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, 1.0, None)),
                "returns None in place 3; it must return the value",
            ),
            (
                Pointwise((WHOLE,), torch.add, lambda a, h: (a + h, a.sum(), h)),
                r"returns tensor\(0\.\) in place 2; .*: each a tensor of the shape of the arguments",
            ),
        ],
    )
    def test_a_description_that_does_not_fit_its_module_is_refused(self, description: Any, message: str) -> None:
        """When the network is built, missing parameters and functions that cannot be called are refused with the operation."""
        structure = TwoToOne(3, operations=(Described(description),)).initial({"inputs": 2, "outputs": 1}, 1)
        with pytest.raises(StructureError, match=rf"pointwise\(\) of operation 'described': .*{message}"):
            build(structure, Seed(("described",)))

    @pytest.mark.parametrize("derivatives", [lambda a, h: (a * h, h, a), lambda a, h: (a * h, a, h)], ids=["true", "false"])
    def test_false_derivatives_are_found(self, derivatives: Any) -> None:
        """The law of the fast form compares the gradients that follow from `derivatives` with those of the module."""
        description = Pointwise((Term(("W_x", None)),), torch.mul, derivatives)
        backbone = TwoToOne(3, operations=(Sum(), DescribedProduct(description)))
        parent = TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 5)
        if derivatives(1.0, 2.0)[1] == 2.0:
            assertions.assert_fast_form(parent)
        else:
            with pytest.raises(AssertionError, match="the distance of the gradient of"):
                assertions.assert_fast_form(parent)

    @pytest.mark.parametrize("function", [lambda a, h: torch.tanh(a), lambda a, h: torch.tanh(-a)], ids=["true", "false"])
    def test_a_false_function_is_found(self, function: Any) -> None:
        """The law of the fast form compares the outputs that follow from `function` with those of the module."""
        backbone = TwoToOne(3, operations=(Sum(), Described(Pointwise((WHOLE,), function))))
        parent = TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 5)
        if function(torch.ones(1), None) > 0:
            assertions.assert_fast_form(parent)
        else:
            with pytest.raises(AssertionError, match="the distance of the outputs in evaluation mode"):
                assertions.assert_fast_form(parent)
