"""Refuse a network that the machine cannot hold, before anything of it is allocated."""

from __future__ import annotations

import os

import torch

from nasframe.errors import StrategyError
from nasframe.interfaces.part import short_name
from nasframe.network.network import count_parameters
from nasframe.search.strategy import Strategy
from nasframe.structure.structure import Structure

#: numbers that training holds for each parameter: its value, its gradient, and the two moments of Adam
# SGD without momentum holds two; the estimate is meant to catch typing errors of several orders of magnitude.
HELD = 4


def check_memory(structure: Structure, strategy: Strategy) -> None:
    """Refuse a structure whose parameters, gradients and moments exceed the memory of the strategy's device.

    Raises:
        StrategyError: it says how many parameters there would be, and how much memory they need and the device has.
    """
    try:
        parameters = count_parameters(structure, strategy.relaxation)
    except Exception as error:  # an operation's code is a stranger's
        if "overflow" not in str(error).lower():
            return  # it cannot be built without values, so that there is no estimate
        needs = "more than a computer can count"
    else:
        # a lower limit: activations and the snapshots of a run need memory, too
        needed, available = parameters * HELD * strategy.torch_dtype.itemsize, memory(strategy.device)
        if available is None or needed <= available:
            return
        needs = f"{needed / 2**30:.3g} GiB for {parameters:,} parameters, and {strategy.device} has {available / 2**30:.3g} GiB"
    raise StrategyError(
        f"the network of {short_name(strategy.backbone)} cannot be held in memory: it needs {needs}; choose smaller sizes"
    )


def memory(device: str) -> int | None:
    """Return the bytes that the device has in all; None where that cannot be found out."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
