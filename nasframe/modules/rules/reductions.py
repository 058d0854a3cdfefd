"""Operations that reduce, order or pool entries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nasframe.modules.axes import Axis
from nasframe.modules.rules.trace import Trace, Value, register_rule

#: statistics that do not change if every unit is repeated equally often
STATISTICS = ("mean", "amax", "amin", "aminmax", "var", "std", "var_mean", "std_mean")


@register_rule(
    *STATISTICS, "sum", "nansum", "prod", "prod.dim_int", "max", "min", "max.dim", "min.dim", "linalg_vector_norm", "norm", "any",
    "all", "argmax", "argmin", "logsumexp", "median", "median.dim", "count_nonzero",
)  # fmt: skip
def reduce(
    trace: Trace,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    unbiased: bool = True,
    correction: float | None = 1,
) -> Any:
    """Freeze the axes that are reduced, or note that statistics are taken along them."""
    n = len(input.axes)
    dims = range(n) if dim is None or dim == [] else [k % n for k in ([dim] if isinstance(dim, int) else dim)]
    # dividing by n - 1 instead of n, a variance is another one after units are repeated
    biased = not unbiased or correction == 0 or not trace.operation.startswith(("var", "std"))
    for k in dims:
        if trace.operation in STATISTICS and biased:
            trace.normalise(input.axes[k])
        else:
            trace.freeze(input.axes[k], f"{trace.operation} reduces it")
    kept = f"{trace.operation} leaves the size 1 at {trace.where}"
    axes = [Axis(1, frozen=kept) if k in dims else axis for k, axis in enumerate(input.axes) if keepdim or k not in dims]
    return Value(axes) if isinstance(trace.output, Tensor) else [Value(axes) for _ in trace.output]


# torch tags most operations of this kind as pointwise; these have no such tag
@register_rule(
    "max.other", "min.other", "copy", "masked_fill", "hardswish", "floor_divide", "log_sigmoid", "rsub", "polar", "complex",
)  # fmt: skip
def elementwise(trace: Trace, inputs: list[Value]) -> Value:
    """Couple tensors entry by entry."""
    return trace.broadcast(inputs, trace.output.shape)


@register_rule("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "topk")
def order(trace: Trace, input: Value, dim: int = -1) -> Any:
    """Freeze an axis along which the order of the entries matters."""
    trace.freeze(input.axes[dim], f"{trace.operation} depends on the order of its entries")
    outputs = [trace.output] if isinstance(trace.output, Tensor) else trace.output
    made = f"{trace.operation} made it at {trace.where}"
    values = [Value(input.replace(dim, Axis(output.shape[dim], frozen=made)).axes) for output in outputs]
    return values[0] if isinstance(trace.output, Tensor) else values


@register_rule("tril", "triu")
def triangle(trace: Trace, input: Value) -> Value:
    """Freeze the two axes of a triangle."""
    for axis in input.axes[-2:]:
        trace.freeze(axis, "it is an axis of a triangle")
    return input


@register_rule(
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg", "lp", "fractional_max") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d",
)  # fmt: skip
def pool(trace: Trace, input: Value) -> Any:
    """Keep the leading axes and replace the spatial ones."""
    spatial = int(re.findall(r"(\d)d", trace.operation)[0])
    outputs = [trace.output] if isinstance(trace.output, Tensor) else trace.output
    pooled = [
        Value([*input.axes[:-spatial], *trace.like(output, f"it is space at {trace.where}").axes[-spatial:]])
        for output in outputs
    ]
    return pooled[0] if isinstance(trace.output, Tensor) else pooled


@register_rule("cross_entropy_loss", "nll_loss", "nll_loss_nd", "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss",
               "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")  # fmt: skip
def loss(trace: Trace, input: Value, target: Value) -> Value:
    """Freeze the class scores and targets of a loss that the model computes."""
    return trace.opaque([input, target], "a loss is computed from it")
