"""An optimiser follows a change by the parameters' names, through the same map as the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nasframe.change.map import Map, Take
from nasframe.errors import ChangeError

#: the entries of an optimiser's state that have their parameter's shape, and the power of the gradient that they follow
POWERS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}

NamedParameters = Iterable[tuple[str, nn.Parameter]]
Factory = Callable[[NamedParameters], Optimizer]


def named_state(optimiser: Optimizer, named: NamedParameters) -> dict[str, dict[str, Any]]:
    """The optimiser's state by parameter name."""
    return {name: optimiser.state[p] for name, p in named if p in optimiser.state}


def carry(old: Optimizer, old_named: NamedParameters, new: Optimizer, new_named: NamedParameters, full: Map) -> None:
    """Fill a new optimiser's state from the old one's through the map by which the child was filled.

    A parameter that is taken from another takes its moments; one that is set, or that has the child's own
    initialisation, starts without state.
    """
    source = named_state(old, old_named)
    for name, parameter in new_named:
        entry = full.get(name)
        if isinstance(entry, Take) and entry.source in source:
            new.state[parameter] = {key: _carried(key, value, entry, name) for key, value in source[entry.source].items()}


def _carried(key: str, value: Any, entry: Take, name: str) -> Any:
    if not torch.is_tensor(value):
        return value
    if key in POWERS:
        return entry.moment(value, POWERS[key]).clone()
    if value.dim() == 0:
        return value.clone()
    raise ChangeError(
        f"the optimiser keeps {key!r} for {name}, and it is not known how that follows the gradient: use SGD, Adam or AdamW"
    )
