"""Deepen a network: a layer that starts as the identity after a layer, or a copy of a residual block whose branches start at zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import nn
from torch.fx import Node

from nasframe.change.claim import Claim
from nasframe.change.map import Set, Take
from nasframe.errors import ChangeError
from nasframe.modules.calls import (
    DROPOUTS,
    RECTIFIERS,
    SAME,
    Call,
    Calls,
    argument,
    channel_axis,
    innermost,
    is_leaf,
    is_pointwise,
    is_rectifier,
    line,
    operation,
    submodule,
    within,
)
from nasframe.modules.change import ModuleChange, grow
from nasframe.modules.coupling import Coupling
from nasframe.modules.edits import Insert, Layer, ModuleEdit, Replace, SetNumber, Stack, named_tensors
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite, Undo
from nasframe.modules.unwrap import Unwrap
from nasframe.seeds import Seed

#: layers that multiply their input by a weight and add a bias: zeros in both make their output zero
LINEAR = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm", "linear", "rms_norm"}) | {
    f"{kind}{rank}d" for kind in ("conv", "conv_transpose") for rank in (1, 2, 3)
}
#: operations f of one tensor with f(0) = 0
ZERO_AT_ZERO = (
    SAME
    | DROPOUTS
    | RECTIFIERS
    | {"elu", "gelu", "hardswish", "leaky_relu", "mean", "mish", "neg", "prelu", "selu", "silu", "sum", "tanh"}
    | {"chunk", "expand", "flatten", "getitem", "permute", "reshape", "roll", "select", "slice", "split", "split_with_sizes"}
    | {"squeeze", "t", "transpose", "unflatten", "unsqueeze", "view"}
    | {f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3)}
)
#: operations with values of at least zero, so that ReLU leaves them as they are
NOT_NEGATIVE = RECTIFIERS | {"hardsigmoid", "sigmoid", "softplus"}
#: operations whose values are of at least zero if those of their first argument are
KEEP_SIGN = (
    SAME
    | {"dropout", "feature_dropout", "native_dropout"}
    | {
        "flatten",
        "getitem",
        "mean",
        "permute",
        "reshape",
        "select",
        "slice",
        "squeeze",
        "sum",
        "transpose",
        "unsqueeze",
        "view",
    }
    | {f"{kind}_pool{rank}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for rank in (1, 2, 3)}
)


def odd(instance: Any, attribute: Any, value: Any) -> None:
    """Raise a ValueError unless the value is an odd number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise ValueError(f"{attribute.name} is {value!r}; it must be an odd number of at least 1, such as 3")


@attrs.frozen
class Deepen(ModuleMorphism):
    """Add a layer after a layer, or a block after a residual block, without changing what the network computes.

    **After a layer** (Chen et al. 2016, Net2DeeperNet) the layer l becomes nn.Sequential(l, activation, identity), where the identity
    is a linear map of the channels, or a convolution with a single 1 in the middle of its kernel. The activation is ReLU where
    nothing but ReLU (or ReLU6) reads the output, because relu(relu(z)) = relu(z), or where no output is negative, as after ReLU and
    a pooling. Otherwise it is PReLU with the slope 1, which is the identity at first and learns its slope. After an activation, the
    new layer comes first and its activation second.

    **A block** within an nn.Sequential or an nn.ModuleList is copied, and the copy is put right after it. The block must compute
    its input plus branches (x + f(x), perhaps with ReLU around the sum), and the parameters that end the branches of the copy
    start at zero: the last weight and bias, or ConvNeXt's scale. These get a gradient at the first step, the others at the
    second.

    **After a recurrent layer** f (nn.RNN, nn.LSTM or nn.GRU) comes a second one g, whose outputs are added through a linear map P that
    starts at zero: h + P g(h) with h = f(x). P gets a gradient at the first step, g at the second. The layer becomes a `Stacked`. It
    is refused where the code gives the layer a state or uses the last state that it returns: g would lose its state between calls.

    All are exact in training and in evaluation mode. No BatchNorm is added after a layer: it would be exact in evaluation mode
    only. (On a GPU that multiplies in TF32, the identity rounds what passes it, as any layer does there.) New parameters have the
    dtype, device and memory format of the layer or block, and require gradients if it does.

    Refused:
        - a layer whose parameters are read without calling it, as nn.MultiheadAttention does with its out_proj
        - nn.RNNCell, nn.LSTMCell and nn.GRUCell, whose state the code of the model keeps
        - a block without a path that carries its input unchanged: one that normalises last, or that changes the size
        - a block in an nn.ModuleDict or another container that does not say in which order its blocks run

    Args:
        kernel: the kernel size of a new convolution; odd.
    """

    name: ClassVar[str] = "deepen"
    kernel: int = attrs.field(default=3, validator=odd)

    def places(self, coupling: Coupling) -> Iterator[Place]:
        """Yield the layers, with their channels, and the blocks, with the number of blocks in their nn.Sequential or nn.ModuleList."""
        calls = Calls(coupling)
        for name, module in coupling.model.named_modules():
            if not name or isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue  # the whole model, or a container without a forward
            container = coupling.model.get_submodule(name.rpartition(".")[0])
            size = len(container) if not is_leaf(module) and isinstance(container, nn.Sequential | nn.ModuleList) else 0
            try:
                if is_leaf(module):
                    layers, size = self._layers(calls, name, module)
                    residual = " in a residual branch" if isinstance(module, nn.RNNBase) else ""
                    note = f"followed by {' and '.join(layer.type for layer in layers)}{residual}"
                else:
                    note = f"copied, with zeros in {', '.join(zeroed(calls, coupling.model, name))}"
                yield Place(name, size, note)
            except ChangeError as error:
                yield Place(name, size, refusal=str(error))

    def rewrite(self, coupling: Coupling, at: str, seed: Seed) -> Rewrite:
        """Return the edit that adds a layer or a block after `at`, and the values with which it starts."""
        module = submodule(coupling.model, at)
        return self._after(coupling, at, module) if is_leaf(module) else self._copy(coupling, at)

    def _after(self, coupling: Coupling, at: str, module: nn.Module) -> Rewrite:
        calls = Calls(coupling)
        layers, channels = self._layers(calls, at, module)
        start: dict[str, Take | Set] = {f"0.{name}": Take(within(at, name)) for name in named_tensors(module)}
        if isinstance(module, nn.RNNBase):
            # P, the third part of `Stacked`, is zero. The second recurrent layer keeps its fresh initialisation.
            start |= {f"2.{name}": Set(torch.zeros(shape)) for name, shape in layers[1].shapes().items()}
            entries = {within(name, tensor): entry for name in calls.names(at) for tensor, entry in start.items()}
            return Rewrite((Stack(at, layers),), entries, Claim.exact(), undo=Undo(Unwrap(), at))
        for position, layer in enumerate(layers, 1):
            if layer.type in ("ReLU", "PReLU"):
                continue  # PReLU is built with the slope 1
            weight = torch.empty(layer.shapes()["weight"])
            # an identity matrix; that of a convolution lies in the middle tap
            (nn.init.dirac_ if weight.dim() > 2 else nn.init.eye_)(weight)
            start |= {f"{position}.weight": Set(weight), f"{position}.bias": Set(torch.zeros(channels))}
        entries = {within(name, tensor): entry for name in calls.names(at) for tensor, entry in start.items()}
        return Rewrite((Replace(at, layers),), entries, Claim.exact(), undo=Undo(Unwrap(), at))

    def _layers(self, calls: Calls, at: str, module: nn.Module) -> tuple[tuple[Layer, ...], int]:
        """Return the layers that are put after a module, and the number of channels."""
        if isinstance(module, nn.RNNCellBase):
            raise ChangeError(
                f"{at} is of type {type(module).__name__}, whose state the code of the model keeps; a layer after it would need a "
                "state as well; deepen a layer before or after it"
            )
        calls.require_no_readers(at)
        found = calls.of(at)
        if isinstance(module, nn.RNNBase):
            return _recurrent(at, module, found)
        for call in found:
            if len(call.outputs) != 1:
                raise ChangeError(f"{len(call.outputs)} tensors that {at} returns are used; a layer can follow one tensor only")
            if len(call.inputs) > 1:
                raise ChangeError(f"{at} is called with {len(call.inputs)} tensors, and an nn.Sequential hands on only one")
        outputs = [call.outputs[0] for call in found]
        # One layer must fit all calls, in both modes.
        axes = {(channel_axis(o), o.meta["val"].dim(), o.meta["val"].size(channel_axis(o) or 0)) for o in outputs}
        # One is taken out. If others are left, the calls differ.
        (axis, rank, channels) = axes.pop()
        if axes or axis is None or not outputs[0].meta["val"].is_floating_point():
            raise ChangeError(
                f"it does not follow from the graph along which axis the channels of {at} lie ({line(outputs[0])})"
            )
        if axis == rank - 1:
            identity = Layer("Linear", {"in_features": channels, "out_features": channels})
        # Up to one axis before the channels, the batch, and one to three after them: what torch's convolutions read.
        elif axis <= 1 and rank - axis <= 4:
            options = {
                "in_channels": channels,
                "out_channels": channels,
                "kernel_size": self.kernel,
                "padding": self.kernel // 2,
            }
            identity = Layer(f"Conv{rank - axis - 1}d", options)
        else:
            raise ChangeError(f"the channels of {at} lie along axis {axis} of {rank}, where torch has no layer that mixes them")
        # PReLU would never get a gradient where no value is negative.
        rectified = all(map(_is_not_negative, outputs))
        # The new layer is put so that each two linear maps have an activation between them.
        if not list(module.parameters()) and all(is_pointwise(node) for call in found for node in call.nodes):
            return (identity, Layer("ReLU") if rectified else Layer("PReLU", {"init": 1.0})), channels
        # The output of the model counts as a user, and is no rectifier.
        users = [user for call in found for user in call.users()]
        rectified = rectified or all(map(is_rectifier, users))
        return (Layer("ReLU") if rectified else Layer("PReLU", {"init": 1.0}), identity), channels

    def _copy(self, coupling: Coupling, at: str) -> Rewrite:
        model = coupling.model
        ends = zeroed(Calls(coupling), model, at)
        path, _, name = at.rpartition(".")
        names = [*model.get_submodule(path)._modules]
        after = names.index(name) + 1
        # In a container with numbers the blocks after the copy move on by one, and their tensors get other names.
        numbered = names == [str(i) for i in range(len(names))]
        new = str(after) if numbered else next(n for i in range(len(names)) if (n := f"{name}_copy{i or ''}") not in names)

        entries: dict[str, Take | Set] = {}
        for position in range(after, len(names)) if numbered else ():
            for tensor in named_tensors(model.get_submodule(within(path, names[position]))):
                old, moved = (within(path, f"{block}.{tensor}") for block in (names[position], str(position + 1)))
                entries[moved] = Take(old)
        for tensor, value in named_tensors(model.get_submodule(at)).items():
            # Set and not Take: the copy is a new block, whose optimiser state starts anew.
            start = torch.zeros_like(value) if f"{at}.{tensor}" in ends else value.detach()
            entries[within(path, f"{new}.{tensor}")] = Set(start)
        edits: list[ModuleEdit] = [Insert(path, new, name)]
        holder = path.rpartition(".")[0]
        if isinstance(model.get_submodule(holder), nn.TransformerEncoder | nn.TransformerDecoder):
            # torch's class keeps the number beside the list, as a constant that nothing is computed from.
            edits.append(SetNumber(holder, "num_layers", len(names) + 1))
        return Rewrite(tuple(edits), entries, Claim.exact())


def _is_not_negative(node: Node) -> bool:
    """Return whether the values of a node are of at least zero, whatever the weights are."""
    name = operation(node)
    if name in KEEP_SIGN:
        return bool(node.all_input_nodes) and _is_not_negative(node.all_input_nodes[0])
    return name in NOT_NEGATIVE and (name != "hardtanh" or is_rectifier(node))


def _recurrent(at: str, module: nn.RNNBase, calls: Sequence[Call]) -> tuple[tuple[Layer, ...], int]:
    """Return the recurrent layer and the linear map that are put on top of a recurrent layer, and the number of its features."""
    kind = next((cls.__name__ for cls in (nn.RNN, nn.LSTM, nn.GRU) if isinstance(module, cls)), None)
    if kind is None:
        raise ChangeError(f"{at} is of type {type(module).__name__}; a layer can follow an nn.RNN, nn.LSTM or nn.GRU")
    for call in calls:
        # the outputs of all steps are the first thing that the layer returns, and its last state comes after
        if len(call.inputs) > 1 or [output.args[1:] for output in call.outputs] != [(0,)]:
            raise ChangeError(
                f"the code gives {at} a state or uses the state that it returns ({line(call.nodes[-1])}); a layer on top of it would "
                "need a state as well; deepen a layer before or after it"
            )
    units = module.proj_size or module.hidden_size
    features = units * (2 if module.bidirectional else 1)
    # The second layer returns as many features as the first, without a projection.
    options = {"input_size": features, "hidden_size": units}
    options |= {name: getattr(module, name) for name in ("bias", "batch_first", "bidirectional")}
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = module.nonlinearity
    return (Layer(kind, options), Layer("Linear", {"in_features": features, "out_features": features})), features


def zeroed(calls: Calls, model: nn.Module, at: str) -> tuple[str, ...]:
    """Return the parameters of a block that end its branches: with zeros in them, the block returns its input.

    Args:
        calls: the calls of the model's modules.
        model: the model.
        at: the name of the block.

    Raises:
        ChangeError: if the block cannot be copied within its container, or does not add branches to its input.
    """
    container = submodule(model, at.rpartition(".")[0])
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        raise ChangeError(
            f"{at} is in a {type(container).__name__}, which does not say in which order its modules run; a block can be copied within "
            "an nn.Sequential or an nn.ModuleList only"
        )
    if len(calls.names(at.rpartition(".")[0])) > 1:
        raise ChangeError(
            f"{at} is in a container that the model uses under several names, so that a copy would run several times"
        )
    names: dict[str, None] = {}
    for call in calls.of(at):
        if len(call.outputs) != 1:
            raise ChangeError(f"{len(call.outputs)} tensors that {at} returns are used; a block that is copied must return one")
        branches = Branches(call, at, calls)
        ends = branches.residual(call.outputs[0])
        if ends is None:
            reached = ", ".join(dict.fromkeys(map(described, branches.blocked)))
            raise ChangeError(f"{at} has no path that carries its input unchanged, or a branch without an end: {reached}")
        if not ends:
            raise ChangeError(f"{at} returns its input, so that a copy of it would add nothing")
        names |= dict.fromkeys(ends)
    return tuple(names)


def described(node: Node) -> str:
    """Return an operation with its module and line, for messages."""
    return f"{operation(node) or node.name} in {innermost(node) or 'the model'} ({line(node)})"


@attrs.frozen(eq=False)
class Branches:
    """The sums of a block that lead from its output back to its input.

    Attributes:
        call: a call of the block.
        at: the name of the block.
        calls: the calls of all modules, for the names of parameters.
        blocked: the operations at which a search for the input, or for the end of a branch, stopped.
    """

    call: Call
    at: str
    calls: Calls
    blocked: list[Node] = attrs.field(factory=list)

    def residual(self, node: Node) -> tuple[str, ...] | None:
        """Return the parameters that end all branches, if a node is the input of the block plus branches, and otherwise None."""
        # The recursion follows the path that carries the input. It ends at the input of the block.
        if node in self.call.inputs:
            return ()
        name = operation(node)
        if node not in self.call.nodes:
            return None
        if name in ("add", "sub"):
            first, second = node.args[:2]
            # x - f(x) is a sum as well, f(x) - x is none, and neither is f(x) + 2 x, which has the argument alpha
            orders = [(first, second), (second, first)] if name == "add" and argument(node, "alpha") == 1 else [(first, second)]
            for kept, branch in orders:
                if not isinstance(kept, Node) or not isinstance(branch, Node):
                    continue
                before = self.residual(kept)
                end = None if before is None else self.zero(branch)
                if before is not None and end is not None:
                    return (*before, *end)
            return None
        # The input of the copy is the output of the block. If that was rectified, to rectify it again changes nothing.
        same = is_rectifier(node) and _same_function(node, self.call.outputs[0])
        off = name in DROPOUTS and (argument(node, "p") == 0 or argument(node, "train") is False)
        if name in SAME or same or off:
            return self.residual(node.all_input_nodes[0])
        self.blocked.append(node)
        return None

    def zero(self, node: Node) -> tuple[str, ...] | None:
        """Return parameters with which an activation is zero if they are zero, or None if there are none."""
        # The recursion ends at a parameter of the block, which can be set to zero.
        if parameter := self.calls.parameter(self.call.program, node, self.at):
            return (parameter,)
        if node not in self.call.nodes:
            return None
        name, inputs = operation(node), node.all_input_nodes
        if name in LINEAR:
            weight, bias = argument(node, "weight"), argument(node, "bias")
            ends = [self.zero(p) if isinstance(p, Node) else None for p in (weight, bias) if p is not None]
            found = None if weight is None or None in ends else tuple(n for end in ends for n in end or ())
        elif name == "mul":
            # One factor of zero is enough. The other must stay, or neither would get a gradient. A scale is preferred.
            found = next((end for i in sorted(inputs, key=lambda i: i.op != "placeholder") if (end := self.zero(i))), None)
        elif name in ("add", "cat", "concat", "stack", "sub"):
            parts = [self.zero(i) for i in inputs] if all(isinstance(a, Node) for a in _terms(node)) else [None]
            found = None if None in parts else tuple(n for part in parts for n in part or ())
        elif name in ZERO_AT_ZERO or name == "div":
            found = self.zero(inputs[0])
        else:
            found = None
        if not found:
            self.blocked.append(node)
        return found or None


def _terms(node: Node) -> list[Any]:
    first = node.args[0]
    return list(first) if isinstance(first, list | tuple) else list(node.args[:2])


def _same_function(a: Node, b: Node) -> bool:
    """Return whether two nodes apply the same operation with the same options."""
    return operation(a) == operation(b) and tuple(a.args[1:]) == tuple(b.args[1:]) and a.kwargs == b.kwargs


def deepen(
    model: nn.Module,
    at: str,
    *,
    example: Any,
    kernel: int = 3,
    numbers: Any = None,
    seed: int = 0,
) -> ModuleChange:
    """Return the change that adds a layer after a layer, or a copy of a residual block after the block. The model is not modified.

    Args:
        model: any module that `torch.export` can trace.
        at: the name of the layer or block, as listed by `nasframe.places`.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        kernel: the kernel size of a new convolution; odd.
        numbers: the new values of numbers that the model's classes keep, by name, such as {"n_layer": 13}.
        seed: the seed of all random draws.

    Raises:
        ChangeError: if the place cannot be deepened. The message has the reason, and the line of the model's code.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> deepen(model, "0", example=torch.ones(5, 3)).model[0]
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=4, bias=True)
        )
    """
    return grow(model, Deepen(kernel), at, example, numbers=numbers, seed=seed)
