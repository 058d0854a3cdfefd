"""The examples on which `nasframe check` tries these parts."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe import Operation, Strategy
from nasframe.testing.examples import Examples, Habitat
from nasframe.testing.fakes import Noise
from nasframe.testing.strategies import searches, sizes
from stranger_cells.backbone import FeedForward
from stranger_cells.criterion import Uphill
from stranger_cells.morphism import Widen
from stranger_cells.operations import Bottleneck
from stranger_cells.pruner import NearStrongest


def examples() -> Examples:
    """Return the options to try, and feed-forward networks of one unit or more."""
    return Examples(
        parts={
            Bottleneck: st.builds(Bottleneck, sizes(3)),
            Widen: st.builds(Widen, st.integers(3, 5), st.sampled_from([0.0, 0.01])),
            NearStrongest: st.builds(NearStrongest, st.sampled_from([0.0, 0.5, 1.0])),
            Uphill: st.builds(Uphill, sizes(3), st.integers(0, 2)),
        },
        habitats=(Habitat(FeedForward, feed_forward),),
    )


@st.composite
def feed_forward(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    """Return a search of networks with two bottlenecks, or with other operations next to a bottleneck, so that they can grow."""
    inputs, outputs = draw(sizes()), draw(sizes(3))
    task = Noise((("inputs", inputs), ("outputs", outputs)), (-1, inputs), (-1, outputs))
    chosen = tuple(dict.fromkeys((Bottleneck(1), *(operations or (Bottleneck(2),)))))
    return draw(searches(FeedForward(draw(sizes()), chosen), task))
