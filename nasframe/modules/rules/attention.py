"""Attention and softmax."""

from __future__ import annotations

from nasframe.modules.axes import Axis, flattened
from nasframe.modules.rules.trace import Trace, Value, register_rule


@register_rule("scaled_dot_product_attention")
def scaled_dot_product_attention(
    trace: Trace,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Couple softmax(q k^T / sqrt(d)) v with the axes (..., heads, position, d)."""
    trace.unify(query.axes[-1], key.axes[-1])
    trace.contract(query.axes[-1], scaled=scale is None)
    # Batch and heads are the same in all three.
    for other in (key, value):
        for k in range(-len(other.axes), -2):
            # With grouped queries each head of the keys serves several consecutive heads of the queries.
            grouped = enable_gqa and k == -3 and query.axes[k].size != other.axes[k].size
            axis = flattened([other.axes[k], Axis(query.axes[k].size // other.axes[k].size)]) if grouped else other.axes[k]
            trace.unify(query.axes[k], axis)
    trace.unify(key.axes[-2], value.axes[-2])
    trace.freeze(key.axes[-2], "softmax over it")
    if attn_mask is not None:
        # The mask is added to the scores, of shape (..., heads, position of the query, position of the key).
        scores = Value([*query.axes[:-1], key.axes[-2]])
        trace.broadcast([scores, attn_mask], scores.shape)
    return Value([*query.axes[:-1], value.axes[-1]])


@register_rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(trace: Trace, input: Value, dim: int) -> Value:
    """Freeze the axis that is normalised."""
    trace.freeze(input.axes[dim], "softmax over it")
    return input
