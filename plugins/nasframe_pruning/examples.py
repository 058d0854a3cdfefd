"""What the conformance kit tries the parts of this plugin on."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_pruning.strongest import Strongest


def examples() -> Examples:
    """As many operations as a node may keep."""
    return Examples(parts={Strongest: st.builds(Strongest, st.integers(1, 4))})
