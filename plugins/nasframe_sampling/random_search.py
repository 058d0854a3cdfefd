"""Random search (Li & Talwalkar 2019)."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import number
from nasframe.records import TrialEnded


@attrs.frozen
class RandomSearch(AskTellArchitect):
    """Evaluate random architectures and keep the best one (Li & Talwalkar 2019).

    Every decision of the space is drawn uniformly and independently of all others.

    Args:
        trials: the number of architectures.
        updates: the budget of each, the number of updates of its weights.
    """

    name: ClassVar[str] = "random_search"
    trials: int = number(20, low=1, whole=True)
    updates: int = number(500, low=1, whole=True)

    def start(self, space: Space, seed: Seed) -> Memory:
        """Return an empty memory: random search learns nothing from its trials."""
        return Memory()

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        """Return a request for a random architecture, or none after the last trial."""
        if number == self.trials:
            return memory, None
        return memory, Request(space.architecture(space.random(seed)), self.updates)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        """Return the empty memory: the search learns nothing."""
        return memory
