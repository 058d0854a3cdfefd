"""Splitting matrices of the linear and convolutional layers of any module that smooth elementwise functions follow.

The layers are found in the graph of a coupling (`nasframe.modules.coupling.couple`), whose example is the batch that they are measured on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.nn import functional
from torch.utils import _pytree

from nasframe import Pointwise, Seed
from nasframe.modules.calls import argument, is_pointwise, line, operation
from nasframe.modules.coupling import Coupling
from nasframe.network.pointwise import Term
from nasframe_splitting.candidates import second_derivatives
from nasframe_splitting.kernels import SplittingMatrices

#: the operations of layers, by the number of their spatial axes
LAYERS = {"linear": 0, "conv1d": 1, "conv2d": 2}


@attrs.frozen(eq=False)
class LayerCall:
    """A call of a layer and the elementwise function of its output.

    Attributes:
        z: the operation of the layer.
        function: the elementwise operations that are computed from z, in order; s is the result of the last one.
        surrogate: the sharpness of the softplus whose second derivative replaces that of ReLU; None if it is zero.
    """

    z: Node
    function: tuple[Node, ...]
    surrogate: float | None = None


@attrs.frozen(eq=False)
class Layer:
    """A layer z = W x + b whose output is read through an elementwise function s(z) only.

    Attributes:
        weight: the name of W: a matrix, or the kernels of a convolution.
        bias: the name of b, if there is one.
        calls: its calls in the graph.
        refusal: why its units cannot be split; None if they can.
    """

    weight: str
    bias: str | None = None
    calls: tuple[LayerCall, ...] = ()
    refusal: str | None = None

    def parts(self, theta: Tensor, coupling: Coupling) -> dict[str, Tensor]:
        """Return what belongs to the weight and to the bias in a tensor of the shape of eigenvectors, by name.

        Args:
            theta: a tensor of shape (groups, units of a group, size); a unit has its row or kernel, and then its bias.
            coupling: the coupling with the layer.
        """
        shape = coupling.tensors[self.weight].shape
        flat = theta.flatten(0, 1)
        found = {self.weight: flat[:, : shape[1:].numel()].reshape(shape)}
        return found if self.bias is None else {**found, self.bias: flat[:, -1]}


def layers(coupling: Coupling, surrogate: float | None = None) -> Iterator[Layer]:
    """Yield the linear layers and the convolutions in one or two dimensions, also those whose units cannot be split.

    Args:
        coupling: the coupling of the model.
        surrogate: if given, the second derivative of ReLU is replaced by that of the softplus log(1 + exp(beta z)) / beta with this
            beta, which is beta p (1 - p) with p = sigmoid(beta z). Outputs and gradients remain those of ReLU.

    Example:
        >>> from nasframe.modules.coupling import couple
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> for layer in layers(couple(net, torch.zeros(4, 2))):
        ...     print(layer.weight, layer.refusal)
        0.weight None
        2.weight it is not followed by an elementwise function: its output is read by the output of the model
    """
    held = graph_parameters(coupling)
    readers: dict[str, list[Node]] = {}
    for node in coupling.graphs[False].graph.find_nodes(op="placeholder"):
        if node.name in held:
            readers.setdefault(held[node.name], []).extend(node.users)
    for weight, nodes in readers.items():
        found = [node for node in nodes if operation(node) in LAYERS and parameter_of(held, node, "weight") == weight]
        if not found:
            continue
        bias = parameter_of(held, found[0], "bias")
        others = [n for n in (*nodes, *readers.get(bias or "", ())) if n not in found]
        kinds = {(operation(n), argument(n, "bias")) for n in found}
        if others:
            reason = f"its parameters are also read by {described(others[0])}"
            yield Layer(weight, bias, refusal=reason)
        elif len(kinds) > 1 or (bias is None and argument(found[0], "bias") is not None):
            yield Layer(weight, bias, refusal="its calls differ in their operation or bias, or the bias is computed")
        else:
            calls, refusals = zip(*(_followed(coupling, node, surrogate) for node in found), strict=True)
            yield Layer(weight, bias, calls, next(filter(None, refusals), None))


def layer_matrices(
    coupling: Coupling, loss: Callable[[Any], Tensor], chosen: Sequence[Layer] | None = None
) -> Mapping[str, SplittingMatrices]:
    """Return the splitting matrices of layers, by the name of the weight, from one backward pass in evaluation mode.

    Args:
        coupling: the coupling of the model with the batch as its example.
        loss: a function from what the model returns to the loss.
        chosen: the layers; by default all that can be split.

    Example:
        Two weights and a bias of each of three units:

        >>> from nasframe.modules.coupling import couple
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> matrices = layer_matrices(couple(net, torch.randn(8, 2)), lambda outputs: outputs.square().mean())
        >>> matrices["0.weight"].form().shape
        torch.Size([1, 3, 3, 3])
    """
    chosen = [layer for layer in layers(coupling) if layer.refusal is None] if chosen is None else chosen
    program, calls = coupling.graphs[False], [call for layer in chosen for call in layer.calls]
    run = _Run(program.graph_module, calls)
    outputs = run.run(*_inputs(coupling, program))
    returned = outputs[len(outputs) - len(program.graph_signature.user_outputs) :]
    value = loss(_pytree.tree_unflatten(returned, program.call_spec.out_spec))
    slopes = torch.autograd.grad(value, [run.s[call.z] for call in calls], materialize_grads=True) if calls else ()
    by_call = dict(zip((call.z for call in calls), slopes, strict=True))

    found = {}
    for layer in chosen:
        features, coefficients = [], []
        for call in layer.calls:
            x, z = run.x[call.z], run.z[call.z]
            c = by_call[call.z] * _curvature(coupling, call, z)
            groups = argument(call.z, "groups", 1)
            features.append(_features(call.z, x, coupling.tensors[layer.weight], layer.bias is not None))
            coefficients.append(_units_last(call.z, c).unflatten(1, (groups, -1)).transpose(0, 1))
        found[layer.weight] = SplittingMatrices([torch.cat(features, 1)], torch.cat(coefficients, 1)[None, None])
    return found


class _Run(Interpreter):
    """A run of a graph that keeps x and z of each call of a layer, and s, with respect to which the loss is differentiated."""

    def __init__(self, module: GraphModule, calls: Sequence[LayerCall]) -> None:
        super().__init__(module)
        self._layers = {call.z for call in calls}
        self._ends = {call.function[-1]: call.z for call in calls}
        self.x: dict[Node, Tensor] = {}
        self.z: dict[Node, Tensor] = {}
        self.s: dict[Node, Tensor] = {}

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        # copies, because a later operation may write in place
        if node in self._layers:
            self.x[node] = self.env[node.all_input_nodes[0]].detach().clone()
            self.z[node] = value.detach().clone()
        if node in self._ends:
            # frozen layers before it give no graph
            self.s[self._ends[node]] = value if value.requires_grad else value.detach().requires_grad_()
            return self.s[self._ends[node]].clone()
        return value


def _inputs(coupling: Coupling, program: ExportedProgram) -> Iterator[Any]:
    """Yield what the placeholders of a graph stand for: parameters, buffers, constants and the example, in their order."""
    named = dict(
        [*coupling.model.named_parameters(remove_duplicate=False), *coupling.model.named_buffers(remove_duplicate=False)]
    )
    leaves = iter(_pytree.tree_leaves((coupling.example.args, dict(coupling.example.kwargs))))
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            yield next(leaves)
        else:
            yield named[spec.target] if spec.target in named else program.constants[str(spec.target)]


def _followed(coupling: Coupling, z: Node, surrogate: float | None) -> tuple[LayerCall, str | None]:
    """Return the call of a layer with the elementwise function of its output, and why its units cannot be split."""
    constant = {*_constants(coupling)}
    inside = {z: None}
    for node in z.graph.nodes:
        reads = node.all_input_nodes
        if (
            is_pointwise(node)
            and any(n in inside for n in reads)
            and all(n in inside or n in constant for n in reads)
            and getattr(node.meta.get("val"), "shape", None) == z.meta["val"].shape
        ):
            inside[node] = None
    ends = [node for node in inside if any(user not in inside for user in node.users)]
    outside = [described(user) for node in ends for user in node.users if user not in inside]
    call = LayerCall(z, tuple(node for node in inside if node is not z), surrogate)
    if ends == [z]:
        return call, f"it is not followed by an elementwise function: its output is read by {outside[0]}"
    if z in ends:
        return call, f"its output is read by an elementwise function and also by {outside[0]}"
    if len(ends) > 1:
        return call, f"{len(ends)} different functions of its output are read, by {' and by '.join(outside)}"
    shown = z.meta["val"]
    probe = 2 * torch.randn(shown.shape, generator=Seed(("curvature",)).generator(), dtype=torch.float64)
    if not bool(_curvature(coupling, call, probe.to(shown.device, shown.dtype)).any()):
        names = ", ".join(operation(node) for node in call.function)
        return call, f"{names} is linear almost everywhere, so that the splitting matrices are zero"
    return call, None


def _curvature(coupling: Coupling, call: LayerCall, z: Tensor) -> Tensor:
    """Return d^2 s / dz^2 of the elementwise function of a layer's output, at z, with the surrogate of ReLU if there is one."""
    constant = _constants(coupling)

    def function(z: Tensor, h: Tensor) -> Tensor:
        values: dict[Node, Any] = {**constant, call.z: z.clone()}  # a copy, as the function may write in place
        for node in call.function:
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n])
            if call.surrogate is not None and operation(node) == "relu":
                values[node] = functional.softplus(values[node.all_input_nodes[0]], call.surrogate)
            else:
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[call.function[-1]]

    return second_derivatives(Pointwise((Term((None,)),), function), z, z)[0, 0]


def _constants(coupling: Coupling) -> dict[Node, Any]:
    """Return the parameters, buffers and constants of a graph, by their nodes."""
    program = coupling.graphs[False]
    nodes = program.graph.find_nodes(op="placeholder")
    specs = program.graph_signature.input_specs
    values = zip(nodes, specs, _inputs(coupling, program), strict=True)
    return {n: v.detach() if isinstance(v, Tensor) else v for n, spec, v in values if spec.kind != InputKind.USER_INPUT}


def _features(z: Node, x: Tensor, weight: Tensor, bias: bool) -> Tensor:
    """Return what the units of a layer multiply their weights with, of shape (groups, samples, size), with ones for a bias."""
    rank = LAYERS[operation(z)]
    if rank == 0:
        found = x.flatten(0, -2).unsqueeze(0)
    else:
        x = x.reshape(-1, *x.shape[-rank - 1 :])  # a single input has no axis for the batch
        stride, dilation = _per_axis(argument(z, "stride"), rank), _per_axis(argument(z, "dilation"), rank)
        padding, spans = argument(z, "padding"), [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same":
            pads = [(span // 2, span - span // 2) for span in spans]
        else:
            pads = [(p, p) for p in _per_axis(0 if padding == "valid" else padding, rank)]
        x = functional.pad(x, [p for pair in reversed(pads) for p in pair])
        # a convolution in one dimension is one in two, over images of height 1
        one = (1,) * (2 - rank)
        x = x.view(*x.shape[:2], *one, *x.shape[2:])
        patches = functional.unfold(x, (*one, *weight.shape[2:]), dilation=(*one, *dilation), stride=(*one, *stride))
        groups = x.shape[1] // weight.shape[1]
        # (batch, groups * size, places) to (groups, samples, size)
        found = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return torch.cat([found, found.new_ones(*found.shape[:2], 1)], 2) if bias else found


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    """Return an option of a convolution for each axis; one number stands for all axes."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values


def _units_last(z: Node, value: Tensor) -> Tensor:
    """Return a tensor of the shape of z as (samples, units)."""
    rank = LAYERS[operation(z)]
    return value.movedim(-rank - 1, -1).flatten(0, -2)


def graph_parameters(coupling: Coupling) -> dict[str, str]:
    """Return the parameters that a graph reads, by the names of its placeholders."""
    first = {alias: name for name, names in coupling.aliases.items() for alias in names}
    found = coupling.graphs[False].graph_signature.inputs_to_parameters
    return {node: first[target] for node, target in found.items() if target in first}


def parameter_of(held: Mapping[str, str], node: Node, name: str) -> str | None:
    """Return the name of the parameter that is an argument of a layer; None if there is none, or it is computed.

    Args:
        held: the parameters of the graph, see `graph_parameters`.
        node: the call of the layer.
        name: the name of the argument, such as "weight".
    """
    found = argument(node, name)
    return held.get(found.name) if isinstance(found, Node) else None


def described(node: Node) -> str:
    """Return the operation of a node and its line in the user's code, for a message."""
    return "the output of the model" if node.op == "output" else f"{operation(node)} ({line(node)})"
