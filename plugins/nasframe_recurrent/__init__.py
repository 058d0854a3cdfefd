"""Recurrent backbones and their operations."""

import nasframe
from nasframe_recurrent.darts import Darts
from nasframe_recurrent.edges import IdentityEdge, ReluEdge, SigmoidEdge, TanhEdge, ZeroEdge
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh
from nasframe_recurrent.two_to_one import TwoToOne

__all__ = [
    "Darts",
    "IdentityEdge",
    "Prod",
    "Relu",
    "ReluEdge",
    "Sigmoid",
    "SigmoidEdge",
    "Sum",
    "Tanh",
    "TanhEdge",
    "TwoToOne",
    "ZeroEdge",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The backbones and operations."""
    two_input = [Sigmoid, Tanh, Relu, Sum, Prod]
    return [TwoToOne, *two_input, Darts, SigmoidEdge, TanhEdge, ReluEdge, IdentityEdge, ZeroEdge]
