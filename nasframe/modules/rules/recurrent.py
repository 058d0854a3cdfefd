"""Recurrent layers."""

from __future__ import annotations

from nasframe.modules.axes import Axis, total
from nasframe.modules.rules.trace import Trace, Value, register_rule

GATES = {
    "lstm": 4,
    "gru": 3,
    "rnn_tanh": 1,
    "rnn_relu": 1,
    "lstm_cell": 4,
    "gru_cell": 3,
    "rnn_tanh_cell": 1,
    "rnn_relu_cell": 1,
}


@register_rule("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def recurrent(
    trace: Trace,
    input: Value,
    hx: Value | list[Value],
    params: list[Value],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> list[Value]:
    """Couple the layers and directions of nn.LSTM, nn.GRU and nn.RNN, whose one `hidden_size` ties them."""
    directions = 2 if bidirectional else 1
    # The parameters of all layers and directions are one list: two weights, and two biases if there are any.
    each = len(params) // (num_layers * directions)
    if each > 2 + 2 * has_biases:
        return trace.opaque([input, hx, params], "a projection of the hidden state has no rule")
    features, hidden = input.axes[-1], list[Axis]()
    for layer in range(num_layers):
        for direction in range(directions):
            first = (layer * directions + direction) * each
            hidden.append(_cell(trace, features, params[first : first + each]))
        # The next layer reads the units of both directions, one after the other.
        features = total(hidden[-directions:])
    for other in hidden[1:]:
        trace.tie(hidden[0], other, "hidden_size")
    for state in hx if isinstance(hx, list) else [hx]:
        for axis in hidden:
            _state(trace, state.axes[-1], axis)
    # The last states have the shape (layers * directions, batch, units).
    counted = f"it counts layers and directions at {trace.where}"
    states = [s.replace(0, Axis(s.shape[0], frozen=counted)) for s in trace.like(list(trace.output[1:]))]
    # Only if the model reads them: otherwise the units of the layers stay independent of each other.
    if len(hidden) > 1 and trace.reads(*range(1, len(trace.output))):
        for other in hidden[1:]:  # the last states of all layers are entries of one tensor
            trace.unify(hidden[0], other)
    return [Value([*input.axes[:-1], features]), *(state.replace(-1, hidden[0]) for state in states)]


@register_rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(
    trace: Trace, input: Value, hx: Value | list[Value], w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None
) -> Value | list[Value]:
    """Couple one step of a recurrent layer."""
    hidden = _cell(trace, input.axes[-1], [v for v in (w_ih, w_hh, b_ih, b_hh) if v is not None])
    for state in hx if isinstance(hx, list) else [hx]:
        _state(trace, state.axes[-1], hidden)
    out = Value([*input.axes[:-1], hidden])
    return [out, out] if isinstance(hx, list) else out


def _cell(trace: Trace, features: Axis, params: list[Value]) -> Axis:
    """Return the hidden units of one layer in one direction. The rows of its weights are (gates * units)."""
    w_ih, w_hh, *_ = params
    hidden = Axis(w_hh.axes[1].size)
    gates = Axis(GATES[trace.operation], frozen=f"it counts the gates at {trace.where}")
    for value in params:
        # not `product`, which leaves out a single hidden unit
        rows = Axis(gates.size * hidden.size)
        rows.become("*", (gates, hidden))
        trace.unify(trace.produce(value, 0), rows)
    trace.consume(features, w_ih, 1)
    trace.consume(hidden, w_hh, 1)
    return hidden


def _state(trace: Trace, state: Axis, hidden: Axis) -> None:
    """Couple an initial state: zeros of the code have no units, so that they only have the size of all layers."""
    if state.find() in trace.made:
        trace.tie(state, hidden, "the initial state")
    else:
        trace.unify(state, hidden)
