"""Examples of the parts that come with the core."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe.search.evaluators import Table
from nasframe.testing.examples import Examples


def examples() -> Examples:
    """Return tables of all architectures of short chains, on which the laws of evaluators are tried."""
    return Examples(parts={Table: st.integers(1, 3).flatmap(_tables)})


def _tables(nodes: int) -> SearchStrategy[Table]:
    # Each node of a chain has two candidates.
    every, valid = [*itertools.product(range(2), repeat=nodes)], st.none() | st.floats(0, 10)
    return st.lists(valid, min_size=len(every), max_size=len(every)).map(
        lambda values: Table.of(dict(zip(every, values, strict=True)))
    )
