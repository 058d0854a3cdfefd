"""Growth of a network by nodes, layers and cells, and the criteria that decide when to grow and when to stop (Jie & Gao 2021, 3.2)."""

from __future__ import annotations

import nasframe
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.depth import DepthGrowth
from nasframe_growing.node import NodeGrowth
from nasframe_growing.operators import OperatorGrowth
from nasframe_growing.plans import End, Retrain, Stage

__all__ = [
    "DepthGrowth",
    "Epochs",
    "MaxNodes",
    "MaxParameters",
    "MaxSeconds",
    "MaxUpdates",
    "NoBetter",
    "NodeGrowth",
    "OperatorGrowth",
    "Patience",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the morphism, the criteria and the plans."""
    composed: list[type[nasframe.Part]] = [AnyOf, AllOf]
    return [
        NodeGrowth,
        OperatorGrowth,
        DepthGrowth,
        Patience,
        Epochs,
        NoBetter,
        MaxNodes,
        MaxParameters,
        MaxUpdates,
        MaxSeconds,
        Stage,
        End,
        Retrain,
        *composed,
    ]
