"""Growth of a cell by a node, and the criteria that decide when to grow and when to stop (Jie & Gao 2021, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.node import NodeGrowth

if TYPE_CHECKING:  # the conformance kit needs hypothesis, which users need not have installed
    from nasframe.testing.examples import Examples

__all__ = ["Epochs", "MaxNodes", "MaxParameters", "MaxSeconds", "MaxUpdates", "NoBetter", "NodeGrowth", "Patience"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the morphism and the criteria."""
    composed: list[type[nasframe.Part]] = [AnyOf, AllOf]
    return [NodeGrowth, Patience, Epochs, NoBetter, MaxNodes, MaxParameters, MaxUpdates, MaxSeconds, *composed]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """Return the version of nasframe's interfaces that this plugin is written for."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Return the options that the conformance kit draws from."""
    from nasframe_growing.examples import examples

    return examples()
