"""The options that the conformance kit draws for the morphism."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_splitting.morphism import Split


def examples() -> Examples:
    """Return splits that are measured on one batch or two."""
    # Matrices of small networks are always decomposed, whatever the number of steps. Few different options, because the kit looks for
    # networks that can be split for each.
    return Examples(parts={Split: st.sampled_from([Split(proposals=1), Split(batches=2, proposals=2)])})
