"""Recurrent backbones and their operations."""

import nasframe
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh
from nasframe_recurrent.two_to_one import TwoToOne

__all__ = ["Prod", "Relu", "Sigmoid", "Sum", "Tanh", "TwoToOne"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The backbones and operations."""
    return [TwoToOne, Sigmoid, Tanh, Relu, Sum, Prod]
