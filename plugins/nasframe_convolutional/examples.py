"""What the conformance kit tries parts of image cells on."""

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
from nasframe_convolutional.operations import Asymmetric, AvgPool, Identity, MaxPool, SeparableConvolution, Zero

KERNELS = st.sampled_from([1, 3, 5])
SEPARABLE = st.builds(SeparableConvolution, KERNELS, st.integers(1, 2), st.lists(st.integers(1, 2), max_size=2).map(tuple))
#: a BatchNorm does not train on a single number, and cells halve their images twice
SIDES = st.integers(5, 8)
POOLINGS = [st.builds(MaxPool, KERNELS), st.builds(AvgPool, KERNELS)]


def examples() -> Examples:
    """Few channels and cells, small images, with odd sides too."""
    parts: dict[type[Part], SearchStrategy[Any]] = {
        SeparableConvolution: SEPARABLE,
        Asymmetric: st.builds(Asymmetric, KERNELS),
        ConvolutionMorphism: st.builds(ConvolutionMorphism, depth=st.integers(1, 2)),
        **dict(zip((MaxPool, AvgPool), POOLINGS, strict=True)),
    }
    return Examples(parts=parts, habitats=(Habitat(DartsConvolutional, convolutional),))


@st.composite
def noise(draw: st.DrawFn) -> Noise:
    """Images of noise."""
    channels, classes, height, width = draw(sizes(2)), draw(sizes(3)), draw(SIDES), draw(SIDES)
    known = (("channels", channels), ("classes", classes), ("height", height), ("width", width))
    return Noise(known, (-1, channels, height, width), (-1, classes))


@st.composite
def convolutional(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Cells that can grow by the identity, of one type or of both, with all outputs that can grow."""
    others = st.one_of(SEPARABLE, *POOLINGS)
    chosen = operations or (draw(SEPARABLE), *draw(st.lists(others, max_size=2, unique=True)))
    backbone = DartsConvolutional(
        channels=draw(sizes(3)),
        cells=draw(sizes(3)),
        output=draw(st.sampled_from(["concatenation", "mean"])),
        affine=draw(st.booleans()),
        operations=tuple(dict.fromkeys((Identity(), *chosen, Zero()))),
    )
    return draw(searches(backbone, draw(noise())))
