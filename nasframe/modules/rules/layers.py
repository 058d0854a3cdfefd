"""Operations with weights: linear maps, convolutions, embeddings, matrix products, einsum."""

from __future__ import annotations

from typing import Any

from nasframe.modules.axes import Axis, product
from nasframe.modules.rules.trace import Trace, Value, register_rule


@register_rule("linear")
def linear(trace: Trace, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """Couple x W^T + b."""
    trace.consume(input.axes[-1], weight, -1)
    # A weight of shape (in,) gives a number for each entry: the last axis is gone.
    if len(weight.axes) == 1:
        return input.moved(range(len(input.axes) - 1))
    if bias is not None:
        trace.unify(weight.axes[0], trace.produce(bias, 0))
    return Value([*input.axes[:-1], trace.produce(weight, 0)])


@register_rule("bilinear")
def bilinear(trace: Trace, input1: Value, input2: Value, weight: Value, bias: Value | None) -> Value:
    """Couple x1 W x2 + b, whose weight has the axes (output, first input, second input)."""
    trace.consume(input1.axes[-1], weight, 1)
    trace.consume(input2.axes[-1], weight, 2)
    if bias is not None:
        trace.unify(weight.axes[0], trace.produce(bias, 0))
    return Value([*input1.axes[:-1], trace.produce(weight, 0)])


@register_rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(
    trace: Trace, input: Value, other: Value | None = None, mat2: Value | None = None, vec: Value | None = None
) -> Value:
    """Couple a matrix product; either factor may be a parameter."""
    right = next(value for value in (other, mat2, vec) if value is not None)
    inner = -2 if len(right.axes) > 1 else -1
    # A parameter on the left, as in W x, is consumed by what is on the right.
    if input.stored and not right.stored:
        trace.consume(right.axes[inner], input, -1)
    else:
        trace.consume(input.axes[-1], right, inner)
    # The axis of a parameter that is not summed over is that of its output units.
    for value, outer in ((input, -2), (right, -1)):
        if value.stored and len(value.axes) > 1:
            trace.produce(value, outer)
    batch = trace.broadcast([Value(input.axes[:-2]), Value(right.axes[:-2])], _batch(input, right))
    return Value([*batch.axes, *input.axes[-2:-1], *(right.axes[-1:] if len(right.axes) > 1 else ())])


def _batch(left: Value, right: Value) -> tuple[int, ...]:
    """Return the shape of the leading axes of a matrix product."""
    longest = max(left.shape[:-2], right.shape[:-2], key=len)
    padded = [(1,) * (len(longest) - len(shape)) + shape for shape in (left.shape[:-2], right.shape[:-2])]
    # Sizes are equal, or one of them is 1 and is broadcast.
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


@register_rule("addmm")
def addmm(trace: Trace, input: Value, mat1: Value, mat2: Value) -> Value:
    """Couple b + x W."""
    out = matmul(trace, mat1, mat2)
    return trace.broadcast([out, input], out.shape)


@register_rule("baddbmm")
def baddbmm(trace: Trace, input: Value, batch1: Value, batch2: Value) -> Value:
    """Couple b + x y for each entry of a batch."""
    return addmm(trace, input, batch1, batch2)


@register_rule("einsum")
def einsum(trace: Trace, equation: str, tensors: list[Value]) -> Any:
    """Couple a sum of products. A letter that the output lacks is summed over: between two activations it is contracted."""
    terms, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:  # by convention the letters that occur once, in the order of the alphabet
        once = sorted(letter for letter in set(terms) - {",", "."} if terms.count(letter) == 1)
        output = "".join(["..." if "..." in terms else "", *once])
    letters = [_letters(term, tensor) for term, tensor in zip(terms.split(","), tensors, strict=True)]
    # `like` is called for the number of the output's axes, by which an ellipsis is resolved.
    result = _letters(output, trace.like())
    if any(len(set(term)) < len(term) for term in letters):
        return trace.opaque(tensors, "einsum takes a diagonal")
    axes: dict[str, Axis] = {}
    for letter in dict.fromkeys(letter for term in letters for letter in term):
        found = [(tensor, term.index(letter)) for term, tensor in zip(letters, tensors, strict=True) if letter in term]
        # A letter that no activation has is an axis of parameters alone, such as the rank of a factorised weight.
        activations = [tensor.axes[k] for tensor, k in found if not tensor.derived]
        axes[letter] = activations[0] if activations else found[0][0].axes[found[0][1]]
        for tensor, k in found:
            # Kept letters are produced, and letters that are summed over are consumed, where a parameter has them.
            if letter in result or not activations:
                trace.unify(axes[letter], trace.produce(tensor, k))
            elif tensor.derived:
                trace.consume(activations[0], tensor, k)
            else:
                trace.unify(axes[letter], tensor.axes[k])
        if letter not in result and len(activations) > 1:
            trace.contract(axes[letter])
        elif letter not in result and len(found) == 1:
            trace.freeze(axes[letter], "einsum sums over it")
    return Value([axes[letter] for letter in result])


def _letters(term: str, value: Value) -> list[str]:
    """Return one letter for each axis; those of an ellipsis are numbered from the right."""
    head, dots, tail = term.partition("...")
    rest = len(value.axes) - len(head) - len(tail)
    return [*head, *(str(rest - k) for k in range(rest if dots else 0)), *tail]


@register_rule("embedding")
def embedding(trace: Trace, weight: Value, indices: Value) -> Value:
    """Couple the rows that are looked up."""
    trace.freeze(weight.axes[0], "it is the range of an index")
    return Value([*indices.axes, trace.produce(weight, 1)])


@register_rule("embedding_bag")
def embedding_bag(trace: Trace, weight: Value) -> list[Value]:
    """Couple the rows of which each bag is the sum, the mean or the largest entries."""
    trace.freeze(weight.axes[0], "it is the range of an index")
    bags, *others = trace.like(frozen=f"it is an axis of bags at {trace.where}")
    return [Value([bags.axes[0], trace.produce(weight, 1)]), *others]


@register_rule("outer", "ger")
def outer(trace: Trace, input: Value, vec2: Value) -> Value:
    """Combine the axes of two vectors."""
    return Value([*input.axes, *vec2.axes])


@register_rule("conv1d", "conv2d", "conv3d")
def convolution(trace: Trace, input: Value, weight: Value, bias: Value | None, groups: int = 1) -> Value:
    """Couple a convolution, whose weight has the axes (output, input of one group, kernel)."""
    spatial = len(weight.axes) - 2
    channels = input.axes[-spatial - 1]
    if groups == 1:
        trace.consume(channels, weight, 1)
    else:
        # Both channels are (group * channels of one group), with the same groups: these can grow together.
        group, width = Axis(groups), Axis(weight.axes[0].size // groups)
        trace.unify(weight.axes[0], product([group, width]))
        trace.unify(channels, product([group, weight.axes[1]]))
        if weight.axes[1].size > 1:  # depthwise: nothing is summed over
            trace.consume(weight.axes[1], weight, 1)
        _note_groups(trace, weight, group)
    return _with_channels(trace, input, weight, bias, 0)


@register_rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(trace: Trace, input: Value, weight: Value, bias: Value | None, groups: int = 1) -> Value:
    """Couple a transposed convolution, whose weight has the axes (input, output of one group, kernel)."""
    # Counted from the end, as a batch may be missing: before the axes of the kernel.
    channels = input.axes[1 - len(weight.axes)]
    if groups == 1:
        trace.consume(channels, weight, 0)
        return _with_channels(trace, input, weight, bias, 1)
    group, width = Axis(groups), Axis(weight.axes[0].size // groups)
    trace.unify(channels, product([group, width]))
    trace.consume(channels, weight, 0)
    _note_groups(trace, weight, group)
    rows = product([group, weight.axes[1]])
    if bias is not None:
        trace.unify(rows, trace.produce(bias, 0))
    # Axis 1 of the weight has the outputs of one group, and the output all groups one after the other.
    return _with_channels(trace, input, weight, None, 1).replace(1 - len(weight.axes), rows)


def _with_channels(trace: Trace, input: Value, weight: Value, bias: Value | None, dim: int) -> Value:
    if bias is not None:
        trace.unify(weight.axes[dim], trace.produce(bias, 0))
    spatial = len(weight.axes) - 2
    for axis in weight.axes[2:]:
        trace.freeze(axis, "it is an axis of a kernel")
    space = trace.like(frozen=f"it is space at {trace.where}").axes[-spatial:]
    return Value([*input.axes[: -spatial - 1], trace.produce(weight, dim), *space])


def _note_groups(trace: Trace, weight: Value, group: Axis) -> None:
    if weight.source[0] is not None:
        trace.number("groups", group)


@register_rule("prelu")
def prelu(trace: Trace, input: Value, weight: Value) -> Value:
    """Couple a slope for each channel, or one for all of them."""
    # One slope for all channels says nothing of them, and stays one.
    if weight.axes and weight.axes[0].size > 1:
        trace.unify(input.axes[1 if len(input.axes) > 1 else 0], trace.produce(weight, 0))
    return input
