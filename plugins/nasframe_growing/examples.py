"""The options that the conformance kit draws for the parts of this package."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Operation, Part, installed
from nasframe.interfaces.criterion import AllOf, AnyOf
from nasframe.testing.examples import Examples
from nasframe_growing.combination import Combination
from nasframe_growing.criteria import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from nasframe_growing.depth import DepthGrowth
from nasframe_growing.node import NodeGrowth
from nasframe_growing.operators import OperatorGrowth
from nasframe_growing.resampling import Resampling
from nasframe_growing.threshold import GrowOperator, PruneOperator, Threshold
from nasframe_growing.width import WidthGrowth

CRITERIA: dict[type[Part], SearchStrategy[Any]] = {
    Patience: st.builds(Patience, st.integers(1, 4)),
    Epochs: st.builds(Epochs, st.integers(1, 4)),
    MaxNodes: st.builds(MaxNodes, st.integers(1, 3)),
    MaxParameters: st.builds(MaxParameters, st.integers(20, 60)),
    MaxUpdates: st.builds(MaxUpdates, st.integers(1, 20)),
    MaxSeconds: st.builds(MaxSeconds, st.floats(0, 10)),
    GrowOperator: st.builds(GrowOperator, st.floats(0.2, 0.9), st.booleans(), st.integers(1, 3)),
    PruneOperator: st.builds(PruneOperator, st.floats(0.0, 0.4), st.floats(0.3, 1), st.booleans(), st.integers(1, 3)),
}
DELTA = st.sampled_from([0.03, 0.01, 0.001])
GROWTH = st.builds(NodeGrowth, st.sampled_from(["noise", "noise", "gate"]), DELTA, st.sampled_from([None, 0.0, 0.01]))
#: forms that differ in kind: a law trains networks for each of them
OPERATORS = st.sampled_from(
    [
        OperatorGrowth(sigma=0.0),
        OperatorGrowth(which="drawn"),
        OperatorGrowth("fresh"),
        OperatorGrowth("fresh", "drawn", threshold=0.1, most=3, replace=True),
    ]
)
WIDTH = st.sampled_from([WidthGrowth(), WidthGrowth(form="replicate", skew=0.2)])
THRESHOLDS = st.builds(Threshold, st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.4, 1.0]), st.booleans())
#: operations of other plugins, of two inputs and of one, of which combinations consist where these plugins are installed
FAMILIES = (("tanh", "sigmoid", "relu", "sum"), ("tanh_edge", "relu_edge", "identity_edge"))
SEVERAL = st.lists(st.one_of(st.just(NoBetter()), *CRITERIA.values()), min_size=1, max_size=3).map(tuple)


@st.composite
def combinations(draw: st.DrawFn) -> Combination:
    """Draw combinations of up to three operations, some of which may be equal."""
    known = installed().names("operation")
    families = [[name for name in family if name in known] for family in FAMILIES]
    names = draw(st.lists(st.sampled_from(draw(st.sampled_from([f for f in families if f]))), min_size=1, max_size=3))
    operations: list[Operation] = [installed().make("operation", name) for name in names]
    return Combination(tuple(operations))


def examples() -> Examples:
    """Return small limits, which short searches reach, alone and composed."""
    return Examples(
        parts={
            NodeGrowth: GROWTH,
            OperatorGrowth: OPERATORS,
            DepthGrowth: st.just(DepthGrowth()),
            WidthGrowth: WIDTH,
            Resampling: st.sampled_from([Resampling(), Resampling(4, sigma=0.0)]),
            Threshold: THRESHOLDS,
            Combination: combinations(),
            **CRITERIA,
            AnyOf: st.builds(AnyOf, SEVERAL),
            AllOf: st.builds(AllOf, SEVERAL),
        }
    )
