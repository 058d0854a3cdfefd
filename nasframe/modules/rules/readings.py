"""Which integers of a call are the sizes of which axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nasframe.modules.axes import Axis, divide, flattened, total
from nasframe.modules.provenance import Attribute, Call, Expression, Number, Result


class Reading(NamedTuple):
    """A place where the code gives the size of an axis as a number.

    Attributes:
        expression: where the number comes from.
        axis: the axis.
        where: the module and the line.
    """

    expression: Expression
    axis: Axis
    where: str


class Equal(NamedTuple):
    """Two axes whose sizes a module ties beyond their units."""

    first: Axis
    second: Axis
    reason: str


#: the operations to which the code gives the sizes of all axes of their output
SHAPES = frozenset(
    (
        *(
            "view",
            "reshape",
            "unflatten",
            "expand",
            "broadcast_to",
            "zeros",
            "ones",
            "empty",
            "full",
            "rand",
            "randn",
            "arange",
        ),
        *("new_zeros", "new_ones", "new_empty", "new_full"),
    )
)


def sizes_given(
    operation: str, call: Call, given: dict[str, Any], before: tuple[Axis, ...], after: Any
) -> Iterator[tuple[int, Axis]]:
    """Yield the integers of a call that are the size of an axis, with the axis; many of them only where some come from attributes.

    Args:
        operation: the name of the ATen operation that the call makes.
        call: the call.
        given: the arguments of the operation by name.
        before: the axes of its first input.
        after: the axes of its output; a list of them for several outputs.
    """
    integers = call.integers()
    if operation in SHAPES and call.name not in ("flatten", "view_as", "expand_as"):
        # `unflatten(dim, sizes)` has the number of an axis before the sizes.
        sizes = integers[1:] if call.name == "unflatten" else integers
        if len(sizes) >= len(after) or call.name == "unflatten":
            start = given["dim"] % len(before) if call.name == "unflatten" else 0
            yield from zip(sizes, after[start:], strict=False)
    # The operations below take many plain numbers, which say nothing of attributes.
    elif not any(isinstance(i, Number) for i in integers) and not call.slices():
        return
    elif operation in ("split", "split_with_sizes"):
        dim = given.get("dim", 0)
        pieces = [axes[dim] for axes in after]
        if operation == "split":
            # The last piece may be smaller than the given size.
            yield from ((integers[0], piece) for piece in pieces if piece.size == integers[0])
        else:
            yield from zip(integers, pieces, strict=False)
    elif operation == "slice" and call.name == "__getitem__":
        dim, first = given["dim"], given.get("start") or 0
        # By value: the graph has the start and the end of a slice as plain numbers.
        ends = {int(i): i for s in call.slices() for i in (s.start, s.stop) if isinstance(i, Number)}
        for end in (first, first + after[dim].size):
            # An end is the size of what comes before it.
            if end in ends and 0 < end < before[dim].size:
                yield ends[end], _prefix(before[dim], end)
    elif operation == "narrow":
        yield integers[-1], after[given["dim"]]
    elif operation == "repeat_interleave" and given.get("dim") is not None:
        dim = given["dim"]
        yield integers[0], divide(after[dim], before[dim].size, call.line)[1]
    elif operation == "repeat":
        # `repeat` may add axes in front, whose size before was 1.
        new = len(after) - len(before)
        sizes = [*[1] * new, *(axis.size for axis in before)]
        if [count * size for count, size in zip(integers, sizes, strict=False)] == [axis.size for axis in after]:
            for count, axis in zip(integers, after, strict=True):
                yield count, divide(axis, count, call.line)[0]
    elif operation == "group_norm":
        yield integers[0], divide(before[1], integers[0], call.line)[0]
    elif operation in ("layer_norm", "rms_norm"):
        yield from zip(integers, before[len(before) - len(integers) :], strict=False)


def _prefix(axis: Axis, size: int) -> Axis:
    """Return the first summands of an axis that has been split at `size`."""
    taken = list[Axis]()
    for summand in axis.summands():
        if sum(a.size for a in taken) < size:
            taken.append(summand)
    return total(taken)


def ties(readings: Sequence[Reading]) -> Iterator[Equal]:
    """Yield the axes that have the same size because the code computes both from the same number.

    In `x.view(B, T, self.n_head, C // self.n_head)` the heads and their size multiply to C.
    """
    # The axis by which an attribute is represented in what the code computes: the first that it is the size of.
    first: dict[Attribute, Axis] = {}
    for reading in readings:
        if isinstance(reading.expression, Attribute):
            first.setdefault(reading.expression, reading.axis)

    def axis_of(expression: Expression) -> Axis | None:
        if isinstance(expression, Result) and expression.sign in ("*", "+"):
            left, right = axis_of(expression.left), axis_of(expression.right)
            return None if left is None or right is None else (flattened if expression.sign == "*" else total)((left, right))
        if isinstance(expression, int):
            return Axis(expression, frozen="it is a number in the code") if expression > 0 else None
        return (
            first.get(expression) if isinstance(expression, Attribute) else expression if isinstance(expression, Axis) else None
        )

    for expression, axis, where in readings:
        whole, given = axis_of(expression), axis
        # A quotient or a difference is moved to the other side: from axis = whole // other to whole = other * axis.
        if isinstance(expression, Result) and expression.sign in ("//", "-"):
            whole, other = axis_of(expression.left), axis_of(expression.right)
            if other is None:
                continue
            given = flattened((other, axis)) if expression.sign == "//" else total((other, axis))
        # A division with a rest does not tie anything, and neither do two expressions of the same units.
        if whole is None or whole.size != given.size or whole.atoms() == given.atoms() or (whole.frozen and given.frozen):
            continue
        if isinstance(expression, Attribute):
            reason = f"both have the size {expression}"
        elif isinstance(expression, Axis):
            reason = "the code gives one the size that it reads from the other,"
        else:
            reason = f"the code computes one size as {expression},"
        yield Equal(whole, given, f"{reason} at {where}")
