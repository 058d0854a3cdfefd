"""A trial that is computed in other processes, which import this module; so it imports next to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def squared(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return the square of the trial's seed; fail for a negative one."""
    return {"square": math.isqrt(trial["seed"]) ** 2}
