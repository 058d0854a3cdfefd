"""Examples of the parts of this plugin for the conformance kit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Operation, Part, Strategy
from nasframe.testing.examples import Examples, Habitat
from nasframe.testing.fakes import Noise
from nasframe.testing.strategies import searches, sizes
from nasframe_convolutional.backbone import DartsConvolutional
from nasframe_convolutional.morphism import ConvolutionMorphism
from nasframe_convolutional.nas_bench_201 import NasBench201
from nasframe_convolutional.nas_bench_201_table import NasBench201Table
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
from nasframe_convolutional.progressive import LimitedIdentities, StrongestOfSite

KERNELS = st.sampled_from([1, 3, 5])
SEPARABLE = st.builds(SeparableConvolution, KERNELS, st.integers(1, 2), st.lists(st.integers(1, 2), max_size=2).map(tuple))
#: cells halve images twice, and BatchNorm cannot train on a single value
SIDES = st.integers(5, 8)
POOLINGS = [st.builds(MaxPool, KERNELS), st.builds(AvgPool, KERNELS, st.booleans())]


def examples() -> Examples:
    """Return examples with few channels and cells, and small images of odd and even sides."""
    parts: dict[type[Part], SearchStrategy[Any]] = {
        SeparableConvolution: SEPARABLE,
        DenseConvolution: st.builds(DenseConvolution, KERNELS),
        Asymmetric: st.builds(Asymmetric, KERNELS),
        RelaxedKernel: st.builds(RelaxedKernel, st.sampled_from([3, 5])),
        # there is no such file: the published table is not shipped
        NasBench201Table: st.builds(
            NasBench201Table, st.just("nasbench201.csv"), st.sampled_from(["cifar10_val_e12", "cifar100_val_e12"])
        ),
        StrongestOfSite: st.builds(StrongestOfSite, st.integers(1, 3)),
        LimitedIdentities: st.builds(LimitedIdentities, st.integers(0, 2), st.sampled_from(["normal", "reduction"])),
        ConvolutionMorphism: st.builds(ConvolutionMorphism, depth=st.integers(1, 2)),
        **dict(zip((MaxPool, AvgPool), POOLINGS, strict=True)),
    }
    habitats = (
        Habitat(DartsConvolutional, convolutional),
        Habitat(PartialChannels, partial_channels),
        Habitat(NasBench201, nas_bench_201),
    )
    return Examples(parts=parts, habitats=habitats)


@st.composite
def noise(draw: st.DrawFn) -> Noise:
    """Draw a task with images of noise."""
    channels, classes, height, width = draw(sizes(2)), draw(sizes(3)), draw(SIDES), draw(SIDES)
    known = (("channels", channels), ("classes", classes), ("height", height), ("width", width))
    return Noise(known, (-1, channels, height, width), (-1, classes))


@st.composite
def convolutional(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a strategy whose cells can grow, of one type or both, with each output that can grow."""
    others = st.one_of(SEPARABLE, *POOLINGS)
    chosen = operations or (draw(SEPARABLE), *draw(st.lists(others, max_size=1)))
    backbone = DartsConvolutional(
        channels=draw(sizes(3)),
        cells=draw(sizes(3)),
        output=draw(st.sampled_from(["concatenation", "mean"])),
        affine=draw(st.booleans()),
        operations=tuple(dict.fromkeys((Identity(), *chosen, Zero()))),
    )
    return draw(searches(backbone, draw(noise()), most=2))


@st.composite
def partial_channels(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a strategy with one cell and one channel for each part, and dropout on identities."""
    chosen = operations or (SeparableConvolution(1),)
    parts = draw(st.sampled_from([2, 3]))
    backbone = PartialChannels(
        channels=parts,
        cells=1,
        identity_dropout=draw(st.sampled_from([0.0, 0.3])),
        operations=tuple(dict.fromkeys((Identity(), *chosen, Zero()))),
        parts=parts,
    )
    return draw(searches(backbone, draw(noise()), most=2))


@st.composite
def nas_bench_201(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a strategy whose cells can grow, with one cell in each stage."""
    others = [DenseConvolution(1), DenseConvolution(3), AvgPool(3, normalised=False)]
    chosen = operations or (draw(st.sampled_from(others)),)
    candidates = tuple(dict.fromkeys((Zero(), Identity(), *chosen)))
    backbone = NasBench201(channels=draw(sizes(2)), cells=1, affine=draw(st.booleans()), operations=candidates)
    return draw(searches(backbone, draw(noise()), most=2))
