"""Optimiser states follow a change of the network through the same map as its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nasframe.change.map import Map, Take
from nasframe.errors import ChangeError

#: the entries of an optimiser's state that have the shape of their parameter, and the power of the gradient that they average
POWERS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}

NamedParameters = Iterable[tuple[str, nn.Parameter]]
Factory = Callable[[NamedParameters], Optimizer]


def named_state(optimiser: Optimizer, named: NamedParameters) -> dict[str, dict[str, Any]]:
    """Return the state of an optimiser by the names of its parameters."""
    return {name: optimiser.state[p] for name, p in named if p in optimiser.state}


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
        ChangeError: if the state of the optimiser has entries that `POWERS` does not list.
    """
    # an optimiser that has not made a step yet has no state, and neither has its successor
    source = named_state(old, old_named)
    for name, parameter in new_named:
        entry = full.get(name)
        if not isinstance(entry, Take) or entry.source not in source:
            continue
        # Moments are gathered like the parameter, times the power of the factor of its gradient that they average
        # (`Take.moment`).
        state = {}
        for key, value in source[entry.source].items():
            if not torch.is_tensor(value):
                state[key] = value
            elif key in POWERS:
                state[key] = entry.moment(value, POWERS[key])
            elif value.dim() == 0:  # the number of steps
                state[key] = value.clone()
            else:
                raise ChangeError(
                    f"the optimiser keeps {key!r} for {name}, and it is not known which power of the gradient that averages; use "
                    "SGD, Adam or AdamW"
                )
        new.state[parameter] = state
