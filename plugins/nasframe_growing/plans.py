"""The plans of Jie & Gao (2021), Algorithm 2, and that of a training without a search, under their names."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe.interfaces.plan import PlanRecipe
from nasframe.search.plan import END, RETRAIN, STAGE, Plan


@attrs.frozen
class Stage(PlanRecipe):
    """Prune and tune the network after each stage, before it is judged and grown."""

    name: ClassVar[str] = "stage"

    def steps(self) -> Plan:
        """Return steps that prune and tune after each stage, before the network is judged and grown."""
        return STAGE


@attrs.frozen
class End(PlanRecipe):
    """Judge and grow supernets, and prune and tune the best one when the search is over."""

    name: ClassVar[str] = "end"

    def steps(self) -> Plan:
        """Return steps that judge and grow supernets, and prune and tune the best one at the end."""
        return END


@attrs.frozen
class Retrain(PlanRecipe):
    """Train the network as it is, without alphas: it must be an architecture."""

    name: ClassVar[str] = "retrain"

    def steps(self) -> Plan:
        """Return one step, which trains the weights of the architecture."""
        return RETRAIN
