"""Zero-cost scores: architectures are compared by numbers of their untrained networks."""

from __future__ import annotations

import nasframe
from nasframe_zero_cost.evaluator import ZeroCost
from nasframe_zero_cost.scores import linear_regions, naswot, ntk_condition, synflow

__all__ = ["ZeroCost", "linear_regions", "naswot", "ntk_condition", "synflow"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the evaluator."""
    return [ZeroCost]
