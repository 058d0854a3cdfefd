"""Normalisation: which statistics are taken along which units."""

from __future__ import annotations

from nasframe.modules.axes import Axis, product
from nasframe.modules.rules.trace import Trace, Value, register_rule


def _per_channel(trace: Trace, channels: Axis, *held: Value | None) -> None:
    for value in held:
        if value is not None:
            trace.unify(channels, trace.produce(value, 0))


@register_rule("batch_norm", "instance_norm")
def batch_norm(
    trace: Trace,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
) -> Value:
    """Couple statistics and affine parameters of each channel; no statistic is taken across channels."""
    _per_channel(trace, input.axes[1], weight, bias, running_mean, running_var)
    return input.moved(range(len(input.axes)))


@register_rule("layer_norm", "rms_norm")
def layer_norm(
    trace: Trace, input: Value, normalized_shape: list[int], weight: Value | None, bias: Value | None = None
) -> Value:
    """Couple affine parameters of the last axes, along which statistics are taken."""
    for k in range(-len(normalized_shape), 0):
        trace.normalise(input.axes[k])
        for value in (weight, bias):
            if value is not None:
                trace.unify(input.axes[k], trace.produce(value, k))
    return input


@register_rule("group_norm")
def group_norm(trace: Trace, input: Value, num_groups: int, weight: Value | None, bias: Value | None) -> Value:
    """Couple channels in groups; statistics are taken within each group."""
    group, width = Axis(num_groups), Axis(input.axes[1].size // num_groups)
    trace.unify(input.axes[1], product([group, width]))
    # With several groups the width is what is normalised, and their number may grow.
    if num_groups > 1:
        trace.number("num_groups", group)
        trace.normalise(width)
    else:
        trace.normalise(input.axes[1])  # also a single channel: all that come are in the one group
    _per_channel(trace, input.axes[1], weight, bias)
    return input
