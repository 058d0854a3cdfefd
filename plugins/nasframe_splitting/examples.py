"""The options that the conformance kit draws for the morphism."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_splitting.morphism import Split


def examples() -> Examples:
    """Return one split: the kit looks for networks that can be split for each of different options, which takes long."""
    return Examples(parts={Split: st.just(Split(proposals=2))})
