"""The plans of searches by trials, under their names."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import AskTellArchitect, nested
from nasframe.interfaces.plan import PlanRecipe
from nasframe.search.plan import END, RETRAIN, TRIALS, Plan, Trials as TrialSteps
from nasframe_sampling.halving import SuccessiveHalving


@attrs.frozen
class Trials(PlanRecipe):
    """Evaluate the architectures that the strategy's architect proposes, and keep the best one with its weights."""

    name: ClassVar[str] = "trials"

    def steps(self) -> Plan:
        """Return the one step of the plan: trials of the architect that the strategy names."""
        return TRIALS


@attrs.frozen
class Finals(PlanRecipe):
    """Judge and grow supernets, and let architectures that the best one suggests compete with random ones, trained from scratch.

    The largest mixing weights alone decide nothing: in some tasks they choose an architecture that is worse than a random one. Here the
    architecture that they choose is one of the finalists, and the validation loss after a training decides.

    Args:
        architect: proposes the finalists.
    """

    name: ClassVar[str] = "finals"
    architect: AskTellArchitect = nested(
        "architect", default=SuccessiveHalving(), validator=attrs.validators.instance_of(AskTellArchitect)
    )

    def steps(self) -> Plan:
        """Return steps that judge and grow supernets, then trials among the architectures of the best one, and a training of the best."""
        supernets, restore, *_ = END
        return (supernets, restore, TrialSteps(architect=self.architect), *RETRAIN)
