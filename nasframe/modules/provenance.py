"""Integers that remember where they come from, while a model is traced.

A user's class keeps numbers such as `n_head`, and its code computes with them and with the shapes of tensors:
`x.view(B, T, self.n_head, C // self.n_head)`. While the model is traced, its attributes and all shapes are instances of `Number`,
which remember the expression that they are the value of, so that the new value of `n_head` follows from the new shapes.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.fx.traceback import annotate
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nasframe.modules.axes import Axis

_HERE = str(Path(__file__).parent)


@attrs.frozen
class Attribute:
    """A number that a module keeps.

    Attributes:
        module: the name of the module.
        name: the name of the attribute; "config.n_head" for a number of an object that the module keeps.
        entry: its position, if the attribute is a tuple or a list of numbers.
    """

    module: str
    name: str
    entry: int | None = None

    def __str__(self) -> str:
        path = f"{self.module}.{self.name}" if self.module else self.name
        return path if self.entry is None else f"{path}[{self.entry}]"


@attrs.frozen
class Size:
    """The size of an axis of a tensor that a call of a torch function returned.

    Attributes:
        call: the number of the call.
        output: the position among the tensors that it returned.
        dim: the number of the axis.
        value: the size.
    """

    call: int
    output: int
    dim: int
    value: int


@attrs.frozen
class Result:
    """The result of an integer operation.

    Attributes:
        sign: "+", "-", "*", "//" or "%".
        left: the left operand.
        right: the right operand.
    """

    sign: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        left, right = (f"({side})" if isinstance(side, Result) else str(side) for side in (self.left, self.right))
        return f"{left} {self.sign} {right}"


#: where a number comes from; once the graph is read, each `Size` is replaced by its axis
Expression = int | Attribute | Size | Result | Axis


class Number(int):
    """An integer that remembers the expression that it is the value of."""

    expression: Expression

    @classmethod
    def of(cls, value: int, expression: Expression) -> Number:
        """Return a number with the value of an expression."""
        # An attribute of the instance: a subclass of int has a dictionary, and its constructor takes the value alone.
        number = cls(value)
        number.expression = expression
        return number


def expression_of(value: int) -> Expression:
    """Return the expression of a number, or the value of a plain integer."""
    return getattr(value, "expression", int(value))


def _arithmetic(name: str, sign: str, swapped: bool) -> Callable[[Number, Any], Any]:
    operation = getattr(int, name)

    def apply(self: Number, other: Any) -> Any:
        result = operation(int(self), other)  # NotImplemented where the other is no integer
        if type(result) is not int:
            return result
        left, right = (other, self) if swapped else (self, other)
        return Number.of(result, Result(sign, expression_of(left), expression_of(right)))

    return apply


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//"), ("mod", "%")):
    setattr(Number, f"__{_name}__", _arithmetic(f"__{_name}__", _sign, swapped=False))
    setattr(Number, f"__r{_name}__", _arithmetic(f"__r{_name}__", _sign, swapped=True))


@attrs.frozen(eq=False)
class Call:
    """A call of a torch function in the user's code.

    Attributes:
        name: the name of the function, such as "view".
        args: its arguments, with tensors.
        kwargs: its keyword arguments.
        line: the file and the line of the user's code.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    line: str

    def integers(self) -> list[int]:
        """Return the integers among the arguments, in order, without those of slices."""
        return list(_integers((self.args, list(self.kwargs.values()))))

    def slices(self) -> list[slice]:
        """Return the slices of an index such as x[:, :n]."""
        index = self.args[1] if len(self.args) > 1 else ()
        return [i for i in (index if isinstance(index, tuple) else (index,)) if isinstance(i, slice)]


def _integers(tree: Any) -> Iterator[int]:
    if isinstance(tree, tuple | list):
        for item in tree:
            yield from _integers(item)
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield tree


#: what torch calls thousands of times in a trace to describe tensors; none of it makes a node of the graph
_DESCRIBING = frozenset(
    {"_is_view", "dim", "is_conj", "is_inference", "is_neg", "numel", "storage_offset", "stride", "sym_max", "untyped_storage"}
)


class Listener(TorchFunctionMode):
    """Note the calls of torch functions, mark the nodes of the graph that each makes, and make all shapes numbers.

    Attributes:
        calls: the calls, by the number with which their nodes are marked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, Call] = {}
        # by id; the tensors are kept, so that no id is used twice
        self._returned: dict[int, tuple[Tensor, int, int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call a torch function."""
        kwargs = kwargs or {}
        # Compared by value: each access makes another object of the same method.
        if func == Tensor.shape.__get__:  # type: ignore[attr-defined]
            return self._shape(args[0], func(args[0]))
        if func is Tensor.size:
            shape = self._shape(args[0], args[0].shape)
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            return shape if dim is None else shape[dim]
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__") or name in _DESCRIBING:  # the former are properties, such as dtype or device
            return func(*args, **kwargs)
        # The number is written into the nodes that the call makes, by which the graph is joined with the user's code.
        number, line = len(self.calls), _user_line()
        self.calls[number] = Call(name, args, kwargs, line)
        with annotate({"call": number, "line": line}):
            returned = func(*args, **kwargs)
        for k, tensor in enumerate(t for t in tree_leaves(returned) if isinstance(t, Tensor)):
            # The first call counts: an operation in place returns a tensor whose sizes are known already.
            self._returned.setdefault(id(tensor), (tensor, number, k))
        return returned

    def _shape(self, tensor: Tensor, shape: Sequence[int]) -> torch.Size:
        if id(tensor) not in self._returned:  # an input, a parameter: its size is a constant of the code
            return torch.Size(shape)
        _, call, output = self._returned[id(tensor)]
        return torch.Size([Number.of(size, Size(call, output, dim, size)) for dim, size in enumerate(shape)])


def users(file: str) -> bool:
    """Return whether a file is neither torch's nor of this folder."""
    return "/torch/" not in file and not file.startswith(_HERE)


def _user_line() -> str:
    """Return the innermost line of the user's code."""
    # Above this function and `__torch_function__`, which called it.
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if users(file):
            return f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextmanager
def remembered(model: nn.Module) -> Iterator[None]:
    """Make the numbers that users' classes keep remember where they come from, until the context ends."""
    kept: dict[nn.Module, dict[str, Any]] = {}
    # By the id of the object, so that modules that share a configuration share its copy as well.
    copies: dict[int, Any] = {}
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") and not isinstance(module, nn.Unflatten):
            continue  # what these keep is known (`ModuleNumber`)
        for attribute, value in list(vars(module).items()):
            new = _remembering(value, Attribute(name, attribute), copies)
            if new is not value:
                kept.setdefault(module, {})[attribute] = value
                vars(module)[attribute] = new
    try:
        yield
    finally:
        for module, attributes in kept.items():
            vars(module).update(attributes)


def _remembering(value: Any, attribute: Attribute, copies: dict[int, Any]) -> Any:
    # The type itself, because a bool is an int and no size.
    if type(value) is int:
        return Number.of(value, attribute)
    if type(value) in (tuple, list) and value and all(type(entry) is int for entry in value):
        return type(value)(Number.of(entry, attrs.evolve(attribute, entry=k)) for k, entry in enumerate(value))
    plain = type(value).__module__.partition(".")[0] not in ("torch", "builtins")
    # One level deep only: "config.n_head", and not what an object of an object keeps.
    if plain and not isinstance(value, type | nn.Module) and not callable(value) and "." not in attribute.name:
        if id(value) not in copies:  # an object such as a configuration, which several modules may share
            copies[id(value)] = _remembering_object(value, attribute)
        return copies[id(value)]
    return value


def _remembering_object(value: Any, attribute: Attribute) -> Any:
    """Return a copy of an object whose numbers are remembered, or the object itself if it has none or cannot be copied."""
    numbers = {k: v for k, v in getattr(value, "__dict__", {}).items() if type(v) is int}
    try:
        # The user's object is not modified, as other models may refer to it.
        copied = copy.copy(value) if numbers else value
    except Exception:  # a lock, a connection, or whatever a user keeps
        return value
    if copied is value or vars(copied) is vars(value):  # a logger, a member of an enumeration
        return value
    for name, number in numbers.items():
        vars(copied)[name] = Number.of(number, attrs.evolve(attribute, name=f"{attribute.name}.{name}"))
    return copied


def with_axes(expression: Expression, axis_of: Callable[[Size], Axis | None]) -> Expression:
    """Return an expression with an axis in the place of each size, or its value if no axis is known."""
    if isinstance(expression, Size):
        axis = axis_of(expression)
        return expression.value if axis is None else axis
    if isinstance(expression, Result):
        return Result(expression.sign, with_axes(expression.left, axis_of), with_axes(expression.right, axis_of))
    return expression


def attributes_of(expression: Expression) -> list[Attribute]:
    """Return the attributes in an expression, each once, in order."""
    if isinstance(expression, Result):
        return list(dict.fromkeys([*attributes_of(expression.left), *attributes_of(expression.right)]))
    return [expression] if isinstance(expression, Attribute) else []
