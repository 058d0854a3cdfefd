"""The options that the conformance kit draws for the morphism and the criteria."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Part
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe.testing.examples import Examples
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.depth import DepthGrowth
from nasframe_growing.node import NodeGrowth
from nasframe_growing.operators import OperatorGrowth

CRITERIA: dict[type[Part], SearchStrategy[Any]] = {
    Patience: st.builds(Patience, st.integers(1, 4)),
    Epochs: st.builds(Epochs, st.integers(1, 4)),
    MaxNodes: st.builds(MaxNodes, st.integers(1, 3)),
    MaxParameters: st.builds(MaxParameters, st.integers(20, 60)),
    MaxUpdates: st.builds(MaxUpdates, st.integers(1, 20)),
    MaxSeconds: st.builds(MaxSeconds, st.floats(0, 10)),
}
DELTA = st.sampled_from([0.03, 0.01, 0.001])
GROWTH = st.builds(NodeGrowth, st.sampled_from(["noise", "noise", "gate"]), DELTA, st.sampled_from([None, 0.0, 0.01]))
OPERATORS = st.builds(
    OperatorGrowth,
    form=st.sampled_from(["copy", "fresh"]),
    which=st.sampled_from(["strongest", "drawn"]),
    threshold=st.sampled_from([0.0, 0.1]),
    sigma=st.sampled_from([0.0, 0.01]),
    most=st.sampled_from([None, 3]),
).flatmap(lambda part: st.sampled_from([part, attrs.evolve(part, replace=part.most is not None)]))
SEVERAL = st.lists(st.one_of(st.just(NoBetter()), *CRITERIA.values()), min_size=1, max_size=3).map(tuple)


def examples() -> Examples:
    """Return small limits, which short searches reach, alone and composed."""
    return Examples(
        parts={
            NodeGrowth: GROWTH,
            OperatorGrowth: OPERATORS,
            DepthGrowth: st.just(DepthGrowth()),
            **CRITERIA,
            AnyOf: st.builds(AnyOf, SEVERAL),
            AllOf: st.builds(AllOf, SEVERAL),
        }
    )
