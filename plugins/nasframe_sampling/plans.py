"""The plan of a search that consists of trials, under its name."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe.interfaces.plan import PlanRecipe
from nasframe.search.plan import TRIALS, Plan


@attrs.frozen
class Trials(PlanRecipe):
    """Evaluate the architectures that the strategy's architect proposes, and keep the best one with its weights."""

    name: ClassVar[str] = "trials"

    def steps(self) -> Plan:
        """Return the one step of the plan: trials of the architect that the strategy names."""
        return TRIALS
