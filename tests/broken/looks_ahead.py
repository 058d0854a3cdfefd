"""A criterion that remembers at the class what it saw: another search, too, and what comes later."""

from typing import ClassVar

import attrs

import nasframe
from nasframe.records import EpochEnded


@attrs.frozen
class Plateau(nasframe.GrowthCriterion):
    """A stage ends with an epoch that is no better than the best that was seen."""

    name: ClassVar[str] = "plateau"
    seen: ClassVar[list[float]] = []

    def decide(self, state, history, proposals):
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, nasframe.Decision()
        best = min(self.seen, default=float("inf"))
        self.seen.append(last.train)
        if last.train < best:
            return state, nasframe.Decision("continue", reason="it is still better")
        return state, nasframe.Decision("end", reason=f"it is no better than {best:.6g}")


@nasframe.hookimpl
def nasframe_parts():
    return [Plateau]
