"""The options that the conformance kit draws for the evaluator."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_zero_cost.evaluator import ZeroCost


def examples() -> Examples:
    """Return the scores that need no ReLU, on a few examples."""
    return Examples(parts={ZeroCost: st.builds(ZeroCost, st.sampled_from(["synflow", "ntk"]), st.integers(2, 4))})
