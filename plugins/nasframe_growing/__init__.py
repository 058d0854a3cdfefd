"""Growth: the morphisms that make networks larger, and the criteria that say when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.node import NodeGrowth

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Epochs", "MaxNodes", "MaxParameters", "MaxSeconds", "MaxUpdates", "NoBetter", "NodeGrowth", "Patience"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The morphisms and criteria."""
    composed: list[type[nasframe.Part]] = [AnyOf, AllOf]
    return [NodeGrowth, Patience, Epochs, NoBetter, MaxNodes, MaxParameters, MaxUpdates, MaxSeconds, *composed]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Options to draw from."""
    from nasframe_growing.examples import examples

    return examples()
