"""Operations that move entries: reshapes, permutations, concatenations, splits, slices, indices."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from nasframe.modules.axes import Axis, divide, flattened, product, reshape, total
from nasframe.modules.rules.trace import Source, Trace, Value, register_rule


@register_rule(
    "contiguous", "clone", "to", "_to_copy", "type_as", "detach", "alias", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "requires_grad", "lift_fresh", "lift_fresh_copy", "detach_copy", "bernoulli", "fill", "zero",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "float", "double", "half", "exponential",
    "normal", "uniform", "view.dtype",
)  # fmt: skip
def same(trace: Trace, input: Value) -> Value:
    """Keep all axes."""
    return input


@register_rule("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
def made(trace: Trace, input: Value) -> Value:
    """Make new axes: only the dtype and the device come from the input."""
    value: Value = trace.like()
    trace.made.update(value.axes)
    return value


@register_rule("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "ravel")
def view(trace: Trace, input: Value) -> Value:
    """Couple a reshape. A parameter stays one as long as only axes of size 1 come or go."""
    shape = trace.output.shape
    axes = reshape(input.axes, shape, trace.where)
    # Larger axes were divided or joined, so that none of them is an axis of the parameter any more.
    if [n for n in input.shape if n > 1] != [n for n in shape if n > 1]:
        return Value(axes)
    # Larger axes keep their order. Those of size 1 are found by identity, as `reshape` may have put them elsewhere.
    large = iter(source for source, size in zip(input.source, input.shape, strict=True) if size > 1)
    small = {axis.find(): source for axis, source in zip(input.axes, input.source, strict=True) if axis.size == 1}
    return Value(axes, [next(large) if axis.size > 1 else small.get(axis.find()) for axis in axes])


@register_rule("permute")
def permute(trace: Trace, input: Value, dims: Sequence[int]) -> Value:
    """Move axes."""
    return input.moved(dims)


@register_rule("movedim", "moveaxis")
def movedim(trace: Trace, input: Value, source: int | list[int], destination: int | list[int]) -> Value:
    """Move some axes to other places, the others in order between them."""
    n = len(input.axes)
    pair = [[k % n for k in ([dims] if isinstance(dims, int) else dims)] for dims in (source, destination)]
    moved = dict(zip(pair[1], pair[0], strict=True))
    rest = iter(k for k in range(n) if k not in pair[0])
    return input.moved(moved[k] if k in moved else next(rest) for k in range(n))


@register_rule("transpose", "swapaxes", "swapdims")
def transpose(
    trace: Trace, input: Value, dim0: int | None = None, dim1: int | None = None, axis0: int = 0, axis1: int = 1
) -> Value:
    """Exchange two axes."""
    order = list(range(len(input.axes)))
    i, j = (axis0, axis1) if dim0 is None or dim1 is None else (dim0, dim1)
    order[i], order[j] = order[j], order[i]
    return input.moved(order)


@register_rule("t", "numpy_T")
def reverse(trace: Trace, input: Value) -> Value:
    """Reverse the order of the axes."""
    return input.moved(reversed(range(len(input.axes))))


@register_rule("mT", "mH", "matrix_H", "adjoint")
def matrix_transpose(trace: Trace, input: Value) -> Value:
    """Exchange the last two axes."""
    return transpose(trace, input, -2, -1)


@register_rule("unsqueeze")
def unsqueeze(trace: Trace, input: Value, dim: int) -> Value:
    """Add an axis of size 1."""
    k = dim % (len(input.axes) + 1)
    added = Axis(1, frozen=f"it is added with the size 1 at {trace.where}")
    return Value([*input.axes[:k], added, *input.axes[k:]], [*input.source[:k], None, *input.source[k:]])


@register_rule("squeeze")
def squeeze(trace: Trace, input: Value, dim: int | list[int] | None = None) -> Value:
    """Remove axes of size 1."""
    n = len(input.axes)
    dims = range(n) if dim is None else [k % n for k in ([dim] if isinstance(dim, int) else dim)]
    removed = {k for k in dims if input.axes[k].size == 1}
    for k in removed:
        trace.freeze(input.axes[k], "it has the size 1 and is removed")
    return input.moved(k for k in range(n) if k not in removed)


@register_rule("expand", "expand_as", "broadcast_to")
def expand(trace: Trace, input: Value) -> Value:
    """Repeat axes of size 1."""
    return _expanded(trace, input, trace.output.shape)


@register_rule("broadcast_tensors")
def broadcast_tensors(trace: Trace, tensors: list[Value]) -> list[Value]:
    """Repeat axes of size 1 of several tensors."""
    return [_expanded(trace, value, output.shape) for value, output in zip(tensors, trace.output, strict=True)]


def _expanded(trace: Trace, value: Value, shape: Sequence[int]) -> Value:
    axes, source = list[Axis](), list[Source | None]()
    # Axes are aligned from the last one: a negative k is an axis that is added in front.
    for k, size in enumerate(shape, start=len(value.axes) - len(shape)):
        kept = k >= 0 and value.axes[k].size == size
        if k >= 0 and not kept:
            trace.freeze(value.axes[k], "it has the size 1 and is repeated")
        axes.append(value.axes[k] if kept else Axis(size))
        source.append(value.source[k] if kept else None)
    return Value(axes, source)


@register_rule("repeat", "tile")
def repeat(trace: Trace, input: Value, repeats: Sequence[int] = (), dims: Sequence[int] = ()) -> Value:
    """Repeat axes as a whole: (count * axis)."""
    counts = repeats or dims
    n = max(len(counts), len(input.axes))
    counts = [*[1] * (n - len(counts)), *counts]
    axes = [*[Axis(1) for _ in range(n - len(input.axes))], *input.axes]
    return Value([axis if count == 1 else flattened([Axis(count), axis]) for count, axis in zip(counts, axes, strict=True)])


@register_rule("repeat_interleave.self_int")
def repeat_interleave(trace: Trace, input: Value, repeats: int, dim: int | None) -> Value:
    """Repeat each entry: (axis * count)."""
    counts = [Axis(repeats)] if repeats > 1 else []
    if dim is None:
        return Value([flattened([*input.axes, *counts])])
    return input.replace(dim, flattened([input.axes[dim], *counts]))


@register_rule("cat", "concat", "concatenate")
def cat(trace: Trace, tensors: list[Value], dim: int = 0) -> Value:
    """Couple a concatenation: a sum along one axis, the same units along all others."""
    # torch accepts an empty tensor of one axis beside tensors of any rank.
    tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    dim %= len(tensors[0].axes)
    axes = list(tensors[0].axes)
    for tensor in tensors:
        for k in range(len(axes)):
            trace.produce(tensor, k)
            if k != dim:
                trace.unify(axes[k], tensor.axes[k])
    axes[dim] = total(tensor.axes[dim] for tensor in tensors)
    return Value(axes)


@register_rule("stack")
def stack(trace: Trace, tensors: list[Value], dim: int = 0) -> Value:
    """Couple a stack of tensors with the same units."""
    same = trace.broadcast(tensors, tensors[0].shape)
    stacked = unsqueeze(trace, same, dim)
    return stacked.replace(dim, Axis(len(tensors), frozen=f"it counts what is stacked at {trace.where}"))


def pieces(trace: Trace, input: Value, sizes: Sequence[int], dim: int) -> list[Value]:
    """Return the consecutive pieces of a value along an axis, which becomes their sum."""
    # Nothing is divided, and a sum with one summand would be the axis itself.
    if len(sizes) == 1:
        return [input]
    axis, parts = input.axes[dim], [Axis(size) for size in sizes]
    trace.unify(axis, total(parts))
    pieces = (input.replace(dim, part) for part in parts)
    return [attrs.evolve(piece, source=input.source) for piece in pieces]  # to consume a piece is to consume that axis


@register_rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split")
def split(trace: Trace, input: Value, dim: int = 0) -> list[Value]:
    """Couple a split: the axis is the sum of its pieces."""
    split = pieces(trace, input, [piece.shape[dim] for piece in trace.output], dim)
    if "sizes" not in trace.operation:  # one number, or the count of pieces, gives the size of all of them
        for piece in split[1:]:
            trace.tie(split[0].axes[dim], piece.axes[dim], "equal pieces")
    return split


@register_rule("slice", "narrow")
def slice_(trace: Trace, input: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    """Couple a slice: the axis is the sum of what is before, in and after it; in steps, the product of what is taken and the step."""
    size, before = trace.output.shape[dim], input.axes[dim].size
    if size == before:
        return input
    # As Python does: a negative start is counted from the end, and a start outside of the axis is its nearer end.
    start = start or 0
    first = min(max(start + before, 0) if start < 0 else start, before)
    if step > 1:
        # Only every step-th entry of whole steps, from the first step on, is a factor of the axis.
        if before % step or first >= step or size != before // step:
            trace.freeze(input.axes[dim], "it is taken in steps")
            return input.replace(dim, Axis(size, frozen=f"it is taken in steps at {trace.where}"))
        taken, steps = divide(input.axes[dim], size, trace.where)
        trace.freeze(steps, "it is a step of a slice")
        return input.replace(dim, taken)
    sizes = (first, size, before - first - size)
    if not size:
        trace.freeze(input.axes[dim], "an empty slice is taken")
        return input.replace(dim, Axis(0))
    # The axis becomes the sum of at most three pieces, of which the slice is the one after `first` entries.
    return pieces(trace, input, [n for n in sizes if n], dim)[1 if first else 0]


@register_rule("select")
def select(trace: Trace, input: Value, dim: int) -> Value:
    """Freeze an axis of which one entry is taken."""
    trace.freeze(input.axes[dim], "an entry is selected by its number")
    n = len(input.axes)
    return input.moved(k for k in range(n) if k != dim % n)


@register_rule("unbind")
def unbind(trace: Trace, input: Value, dim: int = 0) -> list[Value]:
    """Freeze an axis whose entries are taken apart."""
    return [select(trace, input, dim) for _ in trace.output]


@register_rule("index")
def index(trace: Trace, input: Value, indices: Sequence[Value | None]) -> Value:
    """Freeze the axes that are indexed by a tensor; the axes of the index take their place."""
    taken = [k for k, i in enumerate(indices) if i is not None]
    for k in taken:
        trace.freeze(input.axes[k], "its entries are taken by an index")
    # From here on as NumPy's advanced indexing: the indices are broadcast, and their axes replace those that they index.
    kept = [k for k in range(len(input.axes)) if k not in taken]
    # Adjacent indices leave their axes in place; others move them to the front.
    front = taken[0] if taken == list(range(taken[0], taken[-1] + 1)) else 0
    width = max(len(i.axes) for i in indices if i is not None)
    shapes = [(1,) * (width - len(i.axes)) + i.shape for i in indices if i is not None]
    given = trace.broadcast(
        [Value(i.axes) for i in indices if i is not None], [max(sizes) for sizes in zip(*shapes, strict=True)]
    )
    rest = input.moved(kept)
    return Value(
        [*rest.axes[:front], *given.axes, *rest.axes[front:]], [*rest.source[:front], *[None] * width, *rest.source[front:]]
    )


@register_rule("index_put")
def index_put(trace: Trace, input: Value, indices: Sequence[Value | None], values: Value) -> Value:
    """Couple the values with the entries that they replace."""
    replaced = index(trace, input, indices)
    trace.broadcast([replaced, values], replaced.shape)
    return input


@register_rule("index_select", "take_along_dim", "gather", "index_fill", "flip", "roll")
def entries(trace: Trace, input: Value, dim: int | None = None, dims: Sequence[int] = (), index: Value | None = None) -> Value:
    """Freeze an axis whose entries are taken or moved by number."""
    frozen = [dim] if dim is not None else dims or range(len(input.axes))
    value = input
    for k in frozen:
        trace.freeze(input.axes[k], f"{trace.operation} takes its entries by number")
        if trace.output.shape[k] != input.axes[k].size:
            value = value.replace(k, trace.like(frozen=f"{trace.operation} takes entries at {trace.where}").axes[k])
    if index is not None and len(index.axes) == len(value.axes):
        return trace.broadcast([Value(value.axes), Value(index.axes)], trace.output.shape)
    return value


@register_rule("glu")
def glu(trace: Trace, input: Value, dim: int = -1) -> Value:
    """Couple the two halves, of which one gates the other."""
    half = input.axes[dim].size // 2
    # The weight before it has rows (value + gate), and both halves get the same units.
    value, gate = pieces(trace, input, (half, half), dim)
    trace.unify(value.axes[dim], gate.axes[dim])
    return value


@register_rule("pad", "constant_pad_nd")
def pad(trace: Trace, input: Value, pad: Sequence[int], mode: str = "constant") -> Value:
    """Couple padding by a constant: an axis is the sum of new entries and the old axis."""
    value = input
    # F.pad lists the last axis first, with the entries before and after it.
    for k, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        if before == after == 0:
            continue
        if mode != "constant" or before < 0 or after < 0:
            return _padded(trace, input)
        ends = (Axis(n, frozen=f"it is added by padding at {trace.where}") for n in (before, after))
        value = value.replace(-k, total([next(ends), input.axes[-k], next(ends)]))
    return value


def _padded(trace: Trace, input: Value) -> Value:
    """Freeze an axis whose entries are repeated at its ends."""
    value = input
    for k, size in enumerate(trace.output.shape):
        if size != input.axes[k].size:
            trace.freeze(input.axes[k], "it is padded")
            value = value.replace(k, Axis(size, frozen=f"it is padded at {trace.where}"))
    return value


@register_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(trace: Trace, input: Value, groups: int) -> Value:
    """Couple (groups * rest) with (rest * groups)."""
    group, rest = divide(input.axes[1], groups, trace.where)
    return input.replace(1, product([rest, group]))


@register_rule("pixel_shuffle")
def pixel_shuffle(trace: Trace, input: Value, upscale_factor: int) -> Value:
    """Couple (channels * r * r, height, width) with (channels, height * r, width * r)."""
    channels, squared = Axis(input.axes[-3].size // upscale_factor**2), Axis(upscale_factor**2)
    trace.unify(input.axes[-3], flattened([channels, squared]))
    trace.freeze(squared, "it becomes space")
    return Value([*input.axes[:-3], channels, *trace.like(frozen=f"it is space at {trace.where}").axes[-2:]])


@register_rule("pixel_unshuffle")
def pixel_unshuffle(trace: Trace, input: Value, downscale_factor: int) -> Value:
    """Couple (channels, height * r, width * r) with (channels * r * r, height, width)."""
    squared = Axis(downscale_factor**2, frozen=f"it was space at {trace.where}")
    return Value(
        [*input.axes[:-3], flattened([input.axes[-3], squared]), *trace.like(frozen=f"it is space at {trace.where}").axes[-2:]]
    )
