"""Image cells: the backbones of DARTS, PC-DARTS and NAS-Bench-201, their operations, and the morphisms of one convolution."""

from __future__ import annotations

import nasframe
from nasframe_convolutional.adjust import Convolution
from nasframe_convolutional.backbone import DartsConvolutional
from nasframe_convolutional.morphism import ConvolutionMorphism
from nasframe_convolutional.nas_bench_201 import NasBench201
from nasframe_convolutional.nas_bench_201_table import NasBench201Table, cell_architecture, cell_digits, cell_string
from nasframe_convolutional.operations import (
    Asymmetric,
    AvgPool,
    DenseConvolution,
    Identity,
    MaxPool,
    RelaxedKernel,
    SeparableConvolution,
    Zero,
)
from nasframe_convolutional.partial import PartialChannels
from nasframe_convolutional.progressive import LimitedIdentities, PDarts, StrongestOfSite

__all__ = [
    "Asymmetric",
    "AvgPool",
    "Convolution",
    "ConvolutionMorphism",
    "DartsConvolutional",
    "DenseConvolution",
    "Identity",
    "LimitedIdentities",
    "MaxPool",
    "NasBench201",
    "NasBench201Table",
    "PDarts",
    "PartialChannels",
    "RelaxedKernel",
    "SeparableConvolution",
    "StrongestOfSite",
    "Zero",
    "cell_architecture",
    "cell_digits",
    "cell_string",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the backbones, the evaluator, the morphism, the operations, and the pruners and the plan of P-DARTS."""
    operations: list[type[nasframe.Part]] = [
        SeparableConvolution,
        DenseConvolution,
        Asymmetric,
        RelaxedKernel,
        MaxPool,
        AvgPool,
        Identity,
        Zero,
    ]
    return [
        DartsConvolutional,
        PartialChannels,
        NasBench201,
        NasBench201Table,
        ConvolutionMorphism,
        *operations,
        StrongestOfSite,
        LimitedIdentities,
        PDarts,
    ]
