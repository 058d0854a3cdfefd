"""Where an exported graph calls a module, what goes in and out, and who else reads the module's parameters."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tag, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from nasframe.errors import ChangeError
from nasframe.modules.coupling import Coupling

#: operations f with f(relu(z)) = f(z); hardtanh is one of them if its lower end is not negative
RECTIFIERS = frozenset({"relu", "relu6", "hardtanh"})
#: operations that return their first argument, in evaluation mode at least, perhaps with another layout in memory
SAME = frozenset({"alias", "clone", "contiguous", "detach", "to", "type_as"})
DROPOUTS = frozenset({"alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout", "native_dropout"})
#: normalisations whose channels lie along axis 1
CHANNELS_FIRST = frozenset({"batch_norm", "group_norm", "instance_norm"})
#: operations whose output has its channels along the last axis
CHANNELS_LAST = frozenset({"embedding", "layer_norm", "linear", "matmul", "rms_norm", "scaled_dot_product_attention"})


@attrs.frozen(eq=False)
class Call:
    """One call of a module in an exported graph.

    Attributes:
        program: the exported program.
        nodes: the operations within the call, in order.
        inputs: the activations from outside that these operations read.
        outputs: the operations whose results are read outside, or returned by the model.
    """

    program: ExportedProgram
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def users(self) -> tuple[Node, ...]:
        """Return the operations outside that read what the call returns."""
        inside = set(self.nodes)
        return tuple(user for output in self.outputs for user in output.users if user not in inside)


class Calls:
    """The calls of all modules in the graphs of a model, in training and in evaluation mode."""

    def __init__(self, coupling: Coupling) -> None:
        self._model = coupling.model
        # a module may have several names, and the graph calls it by any of them
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in coupling.model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        first = {name: names[0] for names in self._names.values() for name in names}
        self._by_module: dict[str, list[Call]] = {}
        #: by parameter or buffer: the operations that read it, under whichever of its names
        self._readers: dict[str, list[Node]] = {}
        self._aliases = {name: {name, *aliases} for name, aliases in coupling.aliases.items()}
        self._first = {alias: name for name, aliases in self._aliases.items() for alias in aliases}
        for program in coupling.graphs.values():
            signature = program.graph_signature
            held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
            # A module that is called twice has two entries in the stack of modules, `name` and `name@1`, with the same path.
            nodes: dict[tuple[str, str], list[Node]] = {}
            for node in program.graph.nodes:
                if node.op == "placeholder" and held.get(node.name) in self._first:
                    self._readers.setdefault(self._first[held[node.name]], []).extend(u for u in node.users if u.op != "output")
                for key, (path, _) in stack(node):
                    nodes.setdefault((first.get(path, path), key), []).append(node)
            for (path, _), inside in nodes.items():
                self._by_module.setdefault(path, []).append(_call(program, inside))

    def of(self, module: str) -> tuple[Call, ...]:
        """Return the calls of a module.

        Raises:
            ChangeError: if the module is not called with the example.
        """
        first = self.names(module)[0]
        if first not in self._by_module:
            raise ChangeError(
                f"{module} is not called with the example, or computes nothing, so a change of it could not be checked"
            )
        return tuple(self._by_module[first])

    def names(self, module: str) -> tuple[str, ...]:
        """Return all names of a module."""
        return tuple(self._names[submodule(self._model, module)])

    def require_no_readers(self, module: str) -> None:
        """Check that a module's parameters are read in its calls only, or in those of a module that shares them.

        Raises:
            ChangeError: if other code reads one of them.
        """
        inside = self._model.get_submodule(module)
        for name, _ in (*inside.named_parameters(module), *inside.named_buffers(module)):
            first = self._first.get(name, name)
            # A tied parameter may be read in the calls of each module that has it.
            owners = {alias.rpartition(".")[0] for alias in self._aliases.get(first, ())}
            for node in self._readers.get(first, ()):
                if not owners & {path for _, (path, _) in stack(node)}:
                    raise ChangeError(
                        f"{name} is read at {line(node)} in {innermost(node) or 'the model'}, without a call of {module}; that "
                        f"code would not see a change of {module}"
                    )

    def parameter(self, program: ExportedProgram, node: Node, module: str) -> str | None:
        """Return the name of the parameter of a module, or of its parts, that a placeholder holds; None if it holds none."""
        name = program.graph_signature.inputs_to_parameters.get(node.name)
        names = self._aliases.get(self._first.get(name, name), {name}) if name else ()
        # Sorted, because sets of strings have another order in every process.
        return next((n for n in sorted(names) if not module or n.startswith(f"{module}.")), None)


def _call(program: ExportedProgram, nodes: list[Node]) -> Call:
    signature = program.graph_signature
    held = {*signature.inputs_to_parameters, *signature.inputs_to_buffers, *signature.inputs_to_lifted_tensor_constants}
    inside, returned = set(nodes), set(signature.user_outputs)
    inputs = dict.fromkeys(i for node in nodes for i in node.all_input_nodes if i not in inside and i.name not in held)
    # The graph also returns buffers that are written, such as running statistics: no activation of this call.
    outputs = [n for n in nodes if any(u not in inside and (u.op != "output" or n.name in returned) for u in n.users)]
    return Call(program, tuple(nodes), tuple(inputs), tuple(outputs))


def stack(node: Node) -> list[tuple[str, tuple[str, str]]]:
    """Return the modules in whose forward a node is, outermost first: pairs of a key and (name, class)."""
    return list((node.meta.get("nn_module_stack") or {}).items()) if node.op == "call_function" else []


def operation(node: Node) -> str:
    """Return the name of the operation of a node, without namespace and without the underscore of its form in place.

    A node that is no operation has the name "".
    """
    if node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    if not isinstance(node.target, OpOverload):
        return str(node.target)
    return str(node.target._schema.name).rpartition("::")[2].rstrip("_")


def innermost(node: Node) -> str:
    """Return the name of the innermost module in whose forward a node is."""
    modules = stack(node)
    return modules[-1][1][0] if modules else ""


def line(node: Node) -> str:
    """Return the line of the user's code that a node comes from, as FILE:LINE."""
    return (node.meta.get("custom") or {}).get("line") or "an unknown line"


def argument(node: Node, name: str, default: object = None) -> object:
    """Return an argument of an ATen operation by its name in the schema."""
    assert isinstance(node.target, OpOverload)
    for position, expected in enumerate(node.target._schema.arguments):
        if expected.name == name:
            # A graph may leave out the arguments that have their defaults.
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, expected.default_value if expected.has_default_value() else default)
    return default


def is_rectifier(node: Node) -> bool:
    """Return whether f(relu(z)) = f(z) for the operation f of a node."""
    name = operation(node)
    return name in RECTIFIERS and (name != "hardtanh" or argument(node, "min_val") >= 0)  # type: ignore[operator]


def is_pointwise(node: Node) -> bool:
    """Return whether the operation of a node is applied to each entry alone."""
    return isinstance(node.target, OpOverload) and (Tag.pointwise in node.target.tags or operation(node) in RECTIFIERS)


def channel_axis(node: Node) -> int | None:
    """Return the axis of a node's output along which its channels or features lie, or None if it is not known.

    The axis follows from the operation that the output comes from: axis 1 after a convolution of a batch, the last one after a
    linear map. Pointwise operations, dropout, permutations and the like are followed back to such an operation.
    """
    name = operation(node)
    value: Any = node.meta.get("val")
    if not hasattr(value, "shape"):
        return None
    rank = value.dim()
    if rank == 2:
        return 1  # (batch, features), whatever it comes from
    if convolved := re.fullmatch(r"conv(?:_transpose)?(\d)d|(?:adaptive_)?(?:avg|max)_pool(\d)d", name):
        return rank - 1 - int(convolved[1] or convolved[2])  # also of a single input without a batch
    if name in CHANNELS_FIRST:
        return 1
    if name in CHANNELS_LAST:
        return rank - 1
    if name in ("permute", "transpose"):
        along = channel_axis(node.all_input_nodes[0])
        args: Any = node.args
        if name == "permute":
            order = [d % rank for d in args[1]]
        else:
            a, b = (d % rank for d in args[1:3])
            order = list(range(rank))
            order[a], order[b] = b, a
        # `order` lists the axes before, by the place that they have now.
        return order.index(along) if along is not None else None
    if name in ("cat", "concat", "expand", "slice"):  # the other axes, or more channels along the same one
        return next((axis for i in node.all_input_nodes if (axis := channel_axis(i)) is not None), None)
    if name in (
        "flatten",
        "reshape",
        "view",
    ):  # the axes after the channels, or before them, may be taken apart or put together
        source = node.all_input_nodes[0]
        before, along = source.meta["val"].shape, channel_axis(source)
        if along is None:
            return None
        # Either nothing has changed up to the channels, or they were the last axis and still are.
        if before[: along + 1] == value.shape[: along + 1]:
            return along
        return rank - 1 if along == len(before) - 1 and before[-1] == value.shape[-1] else None
    if is_pointwise(node) or name in SAME or name in DROPOUTS:
        # An input that is broadcast, such as a scale, has other axes than the output.
        same = [i for i in node.all_input_nodes if getattr(i.meta.get("val"), "shape", None) == value.shape]
        return next((axis for axis in map(channel_axis, same) if axis is not None), None)
    return None


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module has no parts, apart from the parametrizations of its weights."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return a module of a model by its name.

    Raises:
        ChangeError: if the model has no such module.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        hint = suggestion(name, [n for n, _ in model.named_modules()])
        raise ChangeError(f"the model has no module {name!r}{hint}") from None


def suggestion(name: str, names: Sequence[str]) -> str:
    """Return the end of a message about a name that does not exist: the names that may have been meant.

    Args:
        name: the name.
        names: the names that exist.
    """
    # "model.conv" for "conv", or "conv" for "blocks.0.conv", has little in common with it as a text
    near = [n for n in names if n and (name.endswith(f".{n}") or n.endswith(f".{name}"))]
    near = (near or difflib.get_close_matches(name, names, n=3))[:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "; nasframe.places(model, example) lists the places"


def within(module: str, name: str) -> str:
    """Return the name in the model of what has a name in a module; the model itself has the name "".

    Example:
        >>> within("layer1.0", "conv1.weight"), within("", "conv1.weight")
        ('layer1.0.conv1.weight', 'conv1.weight')
    """
    return f"{module}.{name}" if module else name
