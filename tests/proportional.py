"""An assertion about what is proportional to the size of a noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from nasframe.testing.compare import require_at_most


def assert_proportional(what: str, values: Mapping[float, float], curvature: float = 20.0) -> None:
    """Assert that values are proportional to the sizes that they belong to.

    In log-log coordinates the slope between neighbouring sizes, of which s is the larger, is one up to 0.01 + curvature * s,
    and that between the first and the last one up to 0.15.
    """
    sizes = sorted(values, reverse=True)
    neighbours = [(s, t, curvature * s + 0.01) for s, t in itertools.pairwise(sizes)]
    for s, t, within in [*neighbours, (sizes[0], sizes[-1], 0.15)]:
        v, w = values[s], values[t]
        slope = math.log(v / w) / math.log(s / t) if v > 0 and w > 0 else math.inf
        require_at_most(f"the distance from one of the slope of {what} from {s:g} to {t:g}", abs(slope - 1), within)
