"""The options that the conformance kit draws for the pruners."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_pruning.strongest import Strongest


def examples() -> Examples:
    """Return pruners that keep one to four operations of a node."""
    return Examples(parts={Strongest: st.builds(Strongest, st.integers(1, 4))})
