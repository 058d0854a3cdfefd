"""Optimiser states follow a change through the same map as the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from nasframe.change.map import Map, Take
from nasframe.errors import ChangeError

#: what becomes of the moments: "carried" through the map; "zeroed", where first moments and momentum start at zero and second moments
#: and step counts are carried; "reset", where the state starts anew as a whole
Moments = Literal["carried", "zeroed", "reset"]

_ADAM = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}
#: by the class of an optimiser, the entries of its state that have the shape of their parameter, and the power of the gradient that each
#: averages. The power belongs to the class: the momentum of RMSprop averages g / sqrt(v), in which a factor of the gradient
#: cancels (0), and that of SGD averages g. The entry of another optimiser is added under its class.
POWERS: dict[type[Optimizer], Mapping[str, int]] = {
    SGD: {"momentum_buffer": 1},
    Adam: _ADAM,
    AdamW: _ADAM,
    NAdam: _ADAM,
    RAdam: _ADAM,
    RMSprop: {"square_avg": 2, "grad_avg": 1, "momentum_buffer": 0},
    Adagrad: {"sum": 2},
}

#: the optimisers whose step count only corrects the bias of their moments. It is lowered where a tensor gets new entries, and the
#: moments are scaled with it, so that the corrected moments of old entries stay.
CORRECTED: tuple[type[Optimizer], ...] = (Adam, AdamW)

NamedParameters = Iterable[tuple[str, nn.Parameter]]
Factory = Callable[[NamedParameters], Optimizer]


def named_state(optimiser: Optimizer, named: NamedParameters) -> dict[str, dict[str, Any]]:
    """Return the state of an optimiser by the names of its parameters."""
    # The state is a defaultdict: looking up a parameter that has none would add an entry.
    return {name: optimiser.state[p] for name, p in named if p in optimiser.state}


def powers_of(optimiser: Optimizer) -> Mapping[str, int] | None:
    """Return the powers in `POWERS` of an optimiser's class or of its nearest base class; None if it has none."""
    return next((POWERS[cls] for cls in type(optimiser).__mro__ if cls in POWERS), None)


def _follows(optimiser: Optimizer, key: str, value: Any) -> bool:
    """Return whether it is known how an entry of a state follows a change: a moment with its power, a step count, or a plain number."""
    powers = powers_of(optimiser)
    return (
        # The last case: a single number concerns all entries of a parameter alike. In a class that `POWERS` does not list, only
        # the step count is known to be one.
        not torch.is_tensor(value)  # a number, or the momentum of an SGD without momentum
        or (powers is not None and key in powers)
        or (value.dim() == 0 and (powers is not None or key == "step"))
    )


def check_state(optimiser: Optimizer) -> None:
    """Check that it is known how the state of an optimiser follows a change.

    Raises:
        ChangeError: if the state has entries that `POWERS` does not list for the class of the optimiser.
    """
    unknown = {
        # of the shape of its parameter, as a moment is: then it is enough to add its power
        key: value.shape == parameter.shape
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
        if not _follows(optimiser, key, value)
    }
    if unknown:
        kind, known = type(optimiser).__name__, ", ".join(cls.__name__ for cls in POWERS)
        powers = ", ".join(f"{key!r}: ..." for key in unknown)
        hint = (
            f", or add to nasframe.change.optimisers which power of the gradient each averages: POWERS[{kind}] = {{{powers}}}, with 1 for "
            "gradients, 2 for their squares, and 0 for ratios of gradients"
        )
        raise ChangeError(
            f"{kind} keeps {', '.join(map(repr, unknown))}, and it is not known how that follows the gradient; let its state start anew "
            f"with follow(optimizer, moments='reset'), use one of {known}{hint if all(unknown.values()) else ''}"
        )


def follow_state(
    optimiser: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], entry: Take, moments: Moments = "carried"
) -> dict[str, Any]:
    """Return the state of a parameter of the child.

    Moments follow the gradient by the map (`Take.moment`). New entries of an old tensor share its step count, by which Adam corrects
    the bias of moments that started at zero. Their moments are zero, and the count is lowered (see `CORRECTED`).

    Args:
        optimiser: the optimiser, whose state was checked by `check_state`.
        group: the parameter group, which has the settings of the optimiser.
        state: the state of the parameter from which it was filled.
        entry: the entry of the map by which it was filled.
        moments: what becomes of the moments; "reset" returns an empty state.
    """
    if moments == "reset":
        return {}
    powers = powers_of(optimiser) or {}
    followed: dict[str, Any] = {}
    for key, value in state.items():
        if key in powers and torch.is_tensor(value):
            moment = entry.moment(value, powers[key])
            followed[key] = torch.zeros_like(moment) if moments == "zeroed" and powers[key] < 2 else moment
        else:
            # torch's optimisers add to the step count in place, and several parameters of the child may have one source.
            followed[key] = value.clone() if torch.is_tensor(value) else value
    if entry.has_new and isinstance(optimiser, CORRECTED) and "exp_avg" in followed:
        _lower_count(followed, entry, *map(float, group["betas"]))
    return followed


def _lower_count(state: dict[str, Any], entry: Take, b1: float, b2: float) -> None:
    """Let the new entries of a parameter be normalised by gradients of theirs, by a lower step count, in place.

    Adam divides its moments by 1 - b^t, which corrects their bias after t steps. New entries are not corrected at the count of the old
    ones: with a second moment of zero they make steps of up to 7.3 learning rates, and with that of the old entries their steps are
    short for hundreds of updates, because the gradients of a new unit are small at first: its outgoing weights start at zero. After
    this function the state is that of an Adam which has made only t = 1 / (1 - b1) steps, over as many gradients as the first moment
    averages. In them the new entries had gradients of zero, and the old ones have the same corrected moments as before. If g is the
    constant gradient of a new entry, its k-th step is (1 - b1^k) / (1 - b1^(t + k)) * sqrt((1 - b2^(t + k)) / (1 - b2^k)) learning
    rates, whatever the size of g: between 0.48 and 1.13 for the defaults of Adam.
    """
    old = float(state["step"])
    count = min(old, max(1, round(1 / (1 - b1))))
    if not count:
        return  # no step was made
    fresh, _ = entry.new_entries(state["exp_avg"])
    for key, b in (("exp_avg", b1), ("exp_avg_sq", b2), ("max_exp_avg_sq", b2)):
        if key in state:
            # divided by 1 - b^count, the moment of an old entry is what it was when it was divided by 1 - b^old
            state[key] = (state[key] * ((1 - b**count) / (1 - b**old))).masked_fill(fresh, 0.0)
    state["step"] = torch.full_like(state["step"], count) if torch.is_tensor(state["step"]) else count


def carry(old: Optimizer, old_named: NamedParameters, new: Optimizer, new_named: NamedParameters, full: Map) -> None:
    """Fill the state of a new optimiser from that of an old one.

    A parameter that was filled from another (`Take`) gets its moments, gathered in the same way. A parameter that was set, or has its
    fresh initialisation, starts without state.

    Args:
        old: the optimiser of the parent.
        old_named: the parameters of the parent that it optimises, by name.
        new: the optimiser of the child, which is modified.
        new_named: the parameters of the child that it optimises, by name.
        full: the map by which the child was filled, as `apply` returned it.

    Raises:
        ChangeError: if it is not known how an entry of the state follows the gradient.
    """
    # an optimiser that has not made a step yet has no state, and neither has its successor
    source = named_state(old, old_named)
    group_of = {id(p): group for group in new.param_groups for p in group["params"]}
    check_state(old)
    for name, parameter in new_named:
        entry = full.get(name)
        if isinstance(entry, Take) and entry.source in source:
            new.state[parameter] = follow_state(old, group_of[id(parameter)], source[entry.source], entry)
