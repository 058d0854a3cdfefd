"""Growth of a network by nodes, operations, width, layers and cells, and the criteria that decide when (Jie & Gao 2021, 3.2)."""

from __future__ import annotations

import nasframe
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe_growing.combination import Combination, Combine
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.depth import DepthGrowth
from nasframe_growing.dynamic import Dynamic
from nasframe_growing.node import NodeGrowth
from nasframe_growing.operators import OperatorGrowth
from nasframe_growing.plans import End, Retrain, Stage
from nasframe_growing.resampling import Resampling
from nasframe_growing.threshold import GrowOperator, PruneOperator, Threshold
from nasframe_growing.width import WidthGrowth

__all__ = [
    "Combination",
    "Combine",
    "DepthGrowth",
    "Dynamic",
    "Epochs",
    "GrowOperator",
    "MaxNodes",
    "MaxParameters",
    "MaxSeconds",
    "MaxUpdates",
    "NoBetter",
    "NodeGrowth",
    "OperatorGrowth",
    "Patience",
    "PruneOperator",
    "Resampling",
    "Threshold",
    "WidthGrowth",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the morphisms, the operation, the pruner, the criteria and the plans."""
    composed: list[type[nasframe.Part]] = [AnyOf, AllOf]
    return [
        NodeGrowth,
        OperatorGrowth,
        DepthGrowth,
        WidthGrowth,
        Resampling,
        Combine,
        Combination,
        Threshold,
        GrowOperator,
        PruneOperator,
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
        Dynamic,
        *composed,
    ]
