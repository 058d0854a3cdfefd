"""Image cells: the convolutional backbone of DARTS, its operations, and the morphisms of one convolution."""

from __future__ import annotations

import nasframe
from nasframe_convolutional.adjust import Convolution
from nasframe_convolutional.backbone import DartsConvolutional
from nasframe_convolutional.morphism import ConvolutionMorphism
from nasframe_convolutional.operations import Asymmetric, AvgPool, Identity, MaxPool, SeparableConvolution, Zero

__all__ = [
    "Asymmetric",
    "AvgPool",
    "Convolution",
    "ConvolutionMorphism",
    "DartsConvolutional",
    "Identity",
    "MaxPool",
    "SeparableConvolution",
    "Zero",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the backbone, the morphism and the operations."""
    return [DartsConvolutional, ConvolutionMorphism, SeparableConvolution, Asymmetric, MaxPool, AvgPool, Identity, Zero]
