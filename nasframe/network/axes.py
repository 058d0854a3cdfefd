"""The labels of a tensor's axes: which units its entries belong to."""

from __future__ import annotations

from typing import Any

import attrs
from torch import nn


@attrs.frozen
class Axis:
    """Which units an axis of a tensor carries, in order, and what a newcomer among them starts as.

    An axis that produces its units leaves a newcomer at the child's own initialisation; one that consumes them starts
    it at zero, so that whatever the new unit carries changes nothing at first.
    """

    units: tuple[Any, ...]
    consumes: bool = False


def produces(*units: Any) -> Axis:
    """The axis along which a tensor makes these units: a weight's rows, a bias, a running mean, the alphas of a site."""
    return Axis(units)


def consumes(*units: Any) -> Axis:
    """The axis along which a tensor takes these units in: the columns of a weight behind a concatenation."""
    return Axis(units, consumes=True)


def axes_of(network: nn.Module) -> dict[str, tuple[Axis | None, ...]]:
    """What the axes of each tensor carry, as the modules of the network tell.

    A module tells by a method `axes()`: from a tensor's name below it to one Axis or None per axis. None is an axis
    whose length never changes.
    """
    found: dict[str, tuple[Axis | None, ...]] = {}
    for prefix, module in network.named_modules():
        tell = getattr(module, "axes", None)
        if tell is not None:
            found |= {f"{prefix}.{name}" if prefix else name: axes for name, axes in tell().items()}
    return found
