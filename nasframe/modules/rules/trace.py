"""What a rule sees: the tensors of a graph as axes, and the notes it takes about them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from nasframe.errors import ChangeError
from nasframe.modules.axes import Axis, AxisError, unify
from nasframe.modules.provenance import Call, Number, Size, expression_of, with_axes
from nasframe.modules.rules.readings import Equal, Reading, sizes_given

NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")

#: the name of a tensor of the model and the number of one of its axes
Source = tuple[str, int]


def _axes_of(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    return tuple(axes)


def _sources_of(sources: Iterable[Source | None]) -> tuple[Source | None, ...]:
    return tuple(sources)


@attrs.frozen(eq=False)
class Value:
    """A tensor in the graph.

    Attributes:
        axes: its axes.
        source: for each axis, the axis of the parameter or buffer that it is, moved but not computed with; None for all others.
        derived: whether it is computed from parameters, buffers and constants only.
    """

    axes: tuple[Axis, ...] = attrs.field(converter=_axes_of)
    source: tuple[Source | None, ...] = attrs.field(
        converter=_sources_of, default=attrs.Factory(lambda self: (None,) * len(self.axes), takes_self=True)
    )
    derived: bool = False

    @property
    def stored(self) -> bool:
        """Whether it is a parameter or a buffer, perhaps moved."""
        return any(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    def replace(self, dim: int, *axes: Axis) -> Value:
        """Return the value with other axes in the place of one of them."""
        dim %= len(self.axes)
        none = (None,) * len(axes)
        return Value(
            self.axes[:dim] + axes + self.axes[dim + 1 :], self.source[:dim] + none + self.source[dim + 1 :], self.derived
        )

    def moved(self, order: Iterable[int]) -> Value:
        """Return the value with the axes of the given numbers, in that order."""
        order = list(order)
        return Value([self.axes[k] for k in order], [self.source[k] for k in order], self.derived)


class ModuleNumber(NamedTuple):
    """A number that one of torch's modules keeps: the size of an axis."""

    module: str
    attribute: str
    axis: Axis


class Trace:
    """One model whose graphs are read into the same axes.

    A rule gets the trace and the arguments of its operation, in which each tensor is a `Value`, and returns the `Value` of each
    output. It says through the methods of the trace which axes have the same units, and who produces and consumes them.

    Attributes:
        where: the place in the user's code of the operation that is read: the module, and the file and line.
        module: the name of the module that calls the operation.
        operation: the name of the operation, such as "conv2d".
        output: the operation's output as torch describes it: a fake tensor, or a list of them, for its shape.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        """Make an empty trace.

        Args:
            tensors: the parameters and buffers, each once.
            names: the name in `tensors` of every name, for tied tensors.
        """
        self.names = names
        self.axes = {name: tuple(Axis(size) for size in tensor.shape) for name, tensor in tensors.items()}
        self.produced: dict[Source, str] = {}
        self.consumed: dict[Source, str] = {}
        self.contracted: list[tuple[Axis, str, bool]] = []
        self.equal: list[Equal] = []
        self.module_numbers: list[ModuleNumber] = []
        self.norm_before: dict[Source, tuple[str, ...]] = {}
        self.made: set[Axis] = set()
        self.readings: list[Reading] = []
        self._calls: Mapping[int, Call] = {}
        self._returned: dict[int, Any] = {}
        self.where = self.module = self.operation = ""
        self.output: Any = None
        self._node: Node | None = None
        self._values: dict[Node, Any] = {}

    # What rules say

    def unify(self, a: Axis, b: Axis) -> None:
        """Give two axes the same units."""
        unify(a, b, self.where)

    def consume(self, activation: Axis, weight: Value, dim: int) -> None:
        """Note that the entries of a weight's axis multiply the units of an activation, which are then summed."""
        dim %= len(weight.axes)
        self.unify(activation, weight.axes[dim])
        # A parameter can be divided among copies of units. What is computed from parameters cannot, and stays as it is. If both
        # are activations, a sum over more units has another scale.
        source = weight.source[dim]
        if source is not None:
            # The first place is the one that messages name.
            self.consumed.setdefault(source, self.where)
            norm = self._norm_that_alone_feeds()
            if norm:
                self.norm_before[source] = norm
        elif weight.derived:
            weight.axes[dim].freeze(f"the weight is no parameter but computed, at {self.where}")
        else:
            self.contract(activation)

    def produce(self, weight: Value, dim: int) -> Axis:
        """Note that each entry of a tensor's axis belongs to one unit, and return the axis."""
        dim %= len(weight.axes)
        source = weight.source[dim]
        if source is not None:
            self.produced.setdefault(source, self.where)
        return weight.axes[dim]

    def contract(self, axis: Axis, scaled: bool = False) -> None:
        """Note that two activations are multiplied and summed over the axis, and whether the sum is divided by the root of its size."""
        self.contracted.append((axis, self.where, scaled))

    def freeze(self, axis: Axis, reason: str) -> None:
        """Freeze an axis; the place is added to the reason."""
        axis.freeze(f"{reason} at {self.where}")

    def normalise(self, axis: Axis) -> None:
        """Note that statistics are taken along the axis."""
        axis.normalise(f"normalised over at {self.where}")

    def tie(self, first: Axis, second: Axis, reason: str) -> None:
        """Note that two axes have the same size, though not the same units."""
        equal = Equal(first, second, f"{reason} at {self.where}")
        if not any(first is e.first and second is e.second for e in self.equal) and first.find() is not second.find():
            self.equal.append(equal)

    def number(self, attribute: str, axis: Axis) -> None:
        """Note that the module that calls the operation keeps the size of an axis as an attribute."""
        self.module_numbers.append(ModuleNumber(self.module, attribute, axis))

    def broadcast(self, values: Sequence[Value], shape: Sequence[int]) -> Value:
        """Return the value of an operation that treats all entries alike, such as a sum: its inputs have the same units.

        Args:
            values: the inputs; an axis of size 1 is repeated.
            shape: the shape of the output.
        """
        axes = []
        # From the last axis, as torch aligns shapes when it broadcasts them.
        for k in range(-len(shape), 0):
            for value in values:
                if len(value.axes) >= -k and value.axes[k].size == 1 != shape[k]:
                    self.freeze(value.axes[k], "it has the size 1 and is repeated")
            here = [v for v in values if len(v.axes) >= -k and v.axes[k].size == shape[k]]
            for value in here:
                # A parameter among them, such as a bias or a position, has an entry for each unit.
                self.unify(here[0].axes[k], self.produce(value, k))
            axes.append(here[0].axes[k] if here else Axis(shape[k]))
        return Value(axes)

    def like(self, output: Any = None, frozen: str | None = None) -> Any:
        """Return values with new axes in the shape of the operation's output.

        Args:
            output: a fake tensor or a list of them; by default the operation's output.
            frozen: why the axes are frozen, if they are.
        """
        output = self.output if output is None else output
        if isinstance(output, Tensor):
            return Value([Axis(size, frozen=frozen) for size in output.shape])
        return [self.like(o, frozen) for o in output] if isinstance(output, tuple | list) else None

    def opaque(self, arguments: Any, reason: str) -> Any:
        """Freeze all axes of the arguments and return frozen outputs.

        What is computed only from parameters that are frozen already, such as those of a parametrisation, is frozen for their reason.
        """
        values = list(_values(arguments))
        held = [axis.frozen for value in values for axis in value.axes if axis.frozen]
        said = held[0] if held and all(value.derived for value in values) else f"{reason} at {self.where}"
        for axis in _axes(arguments):
            axis.freeze(said)
        return self.like(frozen=said)

    def reads(self, *outputs: int) -> bool:
        """Return whether the model reads any of the operation's outputs of these numbers."""
        assert self._node is not None
        return any(user.users for user in self._node.users if user.args[1] in outputs)

    # The interpreter

    def read(self, graph: Graph, inputs: Sequence[Any], calls: Mapping[int, Call]) -> Any:
        """Read a graph and return the values of its outputs.

        Args:
            graph: a graph of ATen operations.
            inputs: one value for each placeholder.
            calls: the calls in the user's code that made the nodes of the graph.
        """
        self._calls, self._returned = calls, {}
        return self._read(graph, inputs)

    def _read(self, graph: Graph, inputs: Sequence[Any]) -> Any:
        places = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                self._values[node] = next(places)
            elif node.op == "get_attr":
                # A tensor that is a constant of the code, or a graph in the graph, which `_call` reads.
                held = operator.attrgetter(node.target)(graph.owning_module)
                constant = isinstance(held, Tensor)
                self._values[node] = self._constant(held, node.target) if constant else held
            elif node.op == "call_function":
                self._values[node] = self._call(node)
            else:
                # The node "output", which is the last one.
                return map_arg(node.args[0], self._values.__getitem__)
        return None

    def _constant(self, tensor: Tensor, name: str) -> Value:
        return attrs.evolve(self.like(tensor, f"it is an axis of the constant tensor {name} in the code"), derived=True)

    def _call(self, node: Node) -> Any:
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, node.kwargs), self._values.__getitem__)
        # A rule returns one value for each output, in a list.
        if node.target is operator.getitem:
            return args[0][args[1]]
        if str(node.target).startswith("wrap_with_"):  # torch.no_grad() and torch.autocast(): a graph in the graph
            (body,) = (a for a in args if isinstance(a, GraphModule))
            return self._read(body.graph, args[args.index(body) + 1 :])
        self._node, self.output = node, node.meta.get("val")
        number = (node.meta.get("custom") or {}).get("call", -1)
        call = self._calls.get(number)
        self.where, self.module = place(node, call), _modules(node)[-1]
        inputs = list(_values((args, kwargs)))
        try:
            result = self._apply(node.target, args, kwargs)
        except AxisError as error:
            # What does not fit together is frozen, and does not end the trace: the rest of the model may still change.
            result = self.opaque((args, kwargs), str(error))
        # An operation without inputs makes a constant, and counts as derived.
        derived = all(value.derived for value in inputs)
        result = _map(result, lambda value: attrs.evolve(value, derived=derived))
        if call is not None:
            self._returned[number] = result
            self._note_readings(node.target, call, inputs[0].axes if inputs else (), result, args, kwargs)
        return result

    def _note_readings(
        self, target: Any, call: Call, before: tuple[Axis, ...], result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note where the code gave the size of an axis."""
        if not isinstance(target, torch._ops.OpOverload):
            return
        after = result.axes if isinstance(result, Value) else [value.axes for value in _values(result)]
        for integer, axis in sizes_given(self.operation, call, _bind(target._schema, args, kwargs), before, after):
            if not isinstance(integer, Number):
                # A 1 that is written in the code stays a 1, unlike a number of heads that happens to be 1.
                if self.operation in ("view", "reshape", "unflatten") and integer == axis.size == 1:
                    self.freeze(axis, "the code gives it the size 1")
            else:
                reading = Reading(with_axes(expression_of(integer), self._axis_of), axis, self.where)
                if reading not in self.readings:
                    self.readings.append(reading)

    def _axis_of(self, size: Size) -> Axis | None:
        """Return the axis of which the code read the size."""
        values = list(_values(self._returned.get(size.call)))
        if len(values) <= size.output or len(values[size.output].axes) <= size.dim:
            return None
        axis = values[size.output].axes[size.dim]
        return axis.find() if axis.size == size.value else None

    def _apply(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(target, torch._ops.OpOverload):
            return self.opaque((args, kwargs), f"{target} has no rule")
        name = target._schema.name.removeprefix("aten::")
        self.operation = name
        if not target._schema.returns:  # an assertion
            return None
        if any(isinstance(size, torch.SymInt) for output in tree_leaves(self.output) for size in getattr(output, "shape", ())):
            raise ChangeError(
                f"the shape of what {target} returns depends on its values, at {self.where}; nasframe changes models "
                "whose shapes do not"
            )
        given = _bind(target._schema, args, kwargs)
        inputs = list(_values(given))
        rule = find_rule(name, target._schema.overload_name)
        if rule is not None:
            # A rule names the arguments that it needs, and gets no others.
            wanted = inspect.signature(rule).parameters
            result = rule(self, **{key: value for key, value in ({"inputs": inputs} | given).items() if key in wanted})
            # A wrong rule, perhaps of a third party, must not make a wrong change: what it says is dropped, and the axes are
            # frozen.
            shapes = [value.shape for value in _values(result)]
            if shapes != [tuple(output.shape) for output in tree_leaves(self.output)]:
                raise AxisError(f"the rule of {name} returned axes of the sizes {shapes}")
            return result
        # Known to `_state` of the recurrent layers: an initial state of zeros has no units.
        if not inputs:  # zeros, arange, ...: made by the code
            values = self.like()
            self.made.update(_axes(values))
            return values
        if torch.Tag.pointwise in target.tags and isinstance(self.output, Tensor):
            return self.broadcast(inputs, self.output.shape)
        return self.opaque(given, f"{target} has no rule")

    def _norm_that_alone_feeds(self) -> tuple[str, ...]:
        """Return the affine parameters of the normalisation whose output only the current operation reads."""
        assert self._node is not None
        # If something else reads the norm, its weights cannot be divided among copies for the current operation alone.
        norm = self._node.args[0]
        if (
            not isinstance(norm, Node)
            or len(norm.users) != 1
            or getattr(norm.target, "__name__", "").partition(".")[0] not in NORMS
        ):
            return ()
        held = (self._values[a] for a in norm.args if isinstance(a, Node))
        return tuple(source[0] for value in held for source in value.source[-1:] if source)


# The registry

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def register_rule(*operations: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or more operations: which axes have the same units, and who produces and consumes them.

    A rule gets the `Trace` and those arguments of the operation that it names, and returns the value of each output. The argument
    `self` of an operation is called `input`, and `inputs` is the list of all tensors. A later rule replaces an earlier one.

    Args:
        operations: names such as "linear" for torch's ATen operations, "max.dim" for one overload, "library::name" for yours.

    Example:
        Let an operation of a library scale each channel:

        >>> @register_rule("mylib::scale_channels")
        ... def scale_channels(trace, input, factors):
        ...     trace.unify(input.axes[1], trace.produce(factors, 0))
        ...     return input
    """

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return register


def find_rule(name: str, overload: str = "") -> Rule | None:
    """Return the rule of an operation, or None. An operation in place has the rule of the one that is not."""
    plain = name.removesuffix("_")
    # The rule of one overload before that of all, and the form in place before the other.
    names = (f"{name}.{overload}", f"{plain}.{overload}", name, plain)
    return next((RULES[n] for n in names if n in RULES), None)


def place(node: Node, call: Call | None) -> str:
    """Return the module and the line of the user's code that a node comes from."""
    module = _modules(node)[-1] or "the model"
    return f"{module} ({call.line})" if call is not None and call.line else module


def _modules(node: Node) -> list[str]:
    return [name for name, _ in (node.meta.get("nn_module_stack") or {}).values()] or [""]


def _bind(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by name, defaults included."""
    names = ["input" if argument.name == "self" else argument.name for argument in schema.arguments]
    defaults = {n: a.default_value for n, a in zip(names, schema.arguments, strict=True) if a.has_default_value()}
    given = dict(zip(names, args, strict=False)) | {"input" if k == "self" else k: v for k, v in kwargs.items()}
    return defaults | given


def _values(tree: Any) -> Iterator[Value]:
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, Mapping):
        yield from _values(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _values(item)


def _axes(tree: Any) -> Iterator[Axis]:
    return (axis for value in _values(tree) for axis in value.axes)


def _map(tree: Any, change: Callable[[Value], Value]) -> Any:
    if isinstance(tree, Value):
        return change(tree)
    return [_map(item, change) for item in tree] if isinstance(tree, list | tuple) else tree
