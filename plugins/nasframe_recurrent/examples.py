"""The examples that the conformance kit tries recurrent parts on."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe import Operation, Strategy
from nasframe.testing.examples import Examples, Habitat
from nasframe.testing.fakes import Noise
from nasframe.testing.strategies import searches, sizes
from nasframe_recurrent.darts import Darts
from nasframe_recurrent.edges import IdentityEdge, IdentityHighway, ReluEdge, SigmoidHighway, TanhEdge, ZeroEdge
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh
from nasframe_recurrent.two_to_one import TwoToOne

DROPOUT = st.sampled_from([0.0, 0.4])


def examples() -> Examples:
    """Return both backbones, with sizes down to one."""
    return Examples(habitats=(Habitat(TwoToOne, two_to_one), Habitat(Darts, darts)))


@st.composite
def noise(draw: st.DrawFn) -> Noise:
    """Draw a task of noise in time series."""
    time, inputs, outputs = draw(sizes(3)), draw(sizes()), draw(sizes(2))
    return Noise((("inputs", inputs), ("outputs", outputs)), (time, -1, inputs), (time, -1, outputs))


@st.composite
def two_to_one(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a search for Two-to-One cells, stacked or not, which can grow because `sum` is among the candidates."""
    chosen = operations or tuple(draw(st.lists(st.sampled_from([Sigmoid(), Tanh(), Relu(), Prod()]), min_size=1, unique=True)))
    backbone = TwoToOne(draw(sizes()), draw(sizes(2)), draw(DROPOUT), operations=tuple(dict.fromkeys((Sum(), *chosen))))
    return draw(searches(backbone, draw(noise())))


@st.composite
def darts(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Draw a search for DARTS cells with any output, which can grow because identity and zero are among the candidates."""
    others = [TanhEdge(), ReluEdge(), SigmoidHighway(), IdentityHighway()]
    chosen = operations or tuple(draw(st.lists(st.sampled_from(others), min_size=1, unique=True)))
    output = draw(st.sampled_from(["last", "mean", "later"]))
    every = tuple(dict.fromkeys((IdentityEdge(), *chosen, TanhEdge(), ZeroEdge())))
    backbone = Darts(draw(sizes()), draw(sizes(2)), draw(DROPOUT), output=output, operations=every)
    return draw(searches(backbone, draw(noise())))
