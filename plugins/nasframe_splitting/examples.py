"""The options that the conformance kit draws for the morphism."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_splitting.morphism import Split


def examples() -> Examples:
    """Return splits with exact and approximate eigenvectors."""
    return Examples(
        parts={Split: st.builds(Split, exact=st.booleans(), steps=st.sampled_from([2, 32]), batches=st.integers(1, 2))}
    )
