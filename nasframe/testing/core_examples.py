"""Examples of the parts that come with the core."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe.search.evaluators import Table
from nasframe.testing.examples import Examples

PICKS = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)
VALID = st.none() | st.floats(0, 10)


def examples() -> Examples:
    """Return tables of a few architectures."""
    outcomes: SearchStrategy[dict[Any, float | None]] = st.dictionaries(PICKS, VALID, min_size=1, max_size=3)
    return Examples(parts={Table: outcomes.map(Table.of)})
