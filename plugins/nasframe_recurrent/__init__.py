"""Recurrent backbones and their operations."""

from __future__ import annotations

import nasframe
from nasframe_recurrent.darts import Darts
from nasframe_recurrent.edges import (
    IdentityEdge,
    IdentityHighway,
    ReluEdge,
    ReluHighway,
    SigmoidEdge,
    SigmoidHighway,
    TanhEdge,
    TanhHighway,
    ZeroEdge,
)
from nasframe_recurrent.gated import GATED, HighwayUnit, MinimalGatedUnit, UpdateGate
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh
from nasframe_recurrent.two_to_one import TwoToOne

__all__ = [
    "GATED",
    "Darts",
    "HighwayUnit",
    "IdentityEdge",
    "IdentityHighway",
    "MinimalGatedUnit",
    "Prod",
    "Relu",
    "ReluEdge",
    "ReluHighway",
    "Sigmoid",
    "SigmoidEdge",
    "SigmoidHighway",
    "Sum",
    "Tanh",
    "TanhEdge",
    "TanhHighway",
    "TwoToOne",
    "UpdateGate",
    "ZeroEdge",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the backbones and the operations."""
    two_input = [Sigmoid, Tanh, Relu, Sum, Prod]
    gated = [HighwayUnit, UpdateGate, MinimalGatedUnit]
    edges = [SigmoidEdge, TanhEdge, ReluEdge, IdentityEdge, ZeroEdge]
    highways = [SigmoidHighway, TanhHighway, ReluHighway, IdentityHighway]
    return [TwoToOne, *two_input, *gated, Darts, *edges, *highways]
