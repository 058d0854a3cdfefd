"""The options that the conformance kit draws for the morphisms."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_splitting.morphism import Split
from nasframe_splitting.units import MergeUnits, SplitUnits


def examples() -> Examples:
    """Return one split of operations, since the kit looks long for networks that can be split for each of different options."""
    return Examples(
        parts={
            Split: st.just(Split(proposals=2)),
            SplitUnits: st.builds(SplitUnits, st.sampled_from([0.0, 0.1, 0.5])),
            # the first layer of a model of nasframe, which has three units
            MergeUnits: st.just(MergeUnits((("0", (0,)),))),
        }
    )
