"""Growth: the morphisms that make networks larger, and the criteria that say when."""

import nasframe
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.node import NodeGrowth

__all__ = ["Epochs", "MaxNodes", "MaxParameters", "MaxSeconds", "MaxUpdates", "NoBetter", "NodeGrowth", "Patience"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The morphisms and criteria."""
    composed: list[type[nasframe.Part]] = [nasframe.AnyOf, nasframe.AllOf]
    return [NodeGrowth, Patience, Epochs, NoBetter, MaxNodes, MaxParameters, MaxUpdates, MaxSeconds, *composed]
