"""The plans of searches by trials, under their names."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import AskTellArchitect
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import nested, number
from nasframe.search.plan import RETRAIN, TRIALS, Judge, Plan, Repeat, Restore, Train, Trials as TrialSteps
from nasframe_sampling.halving import SuccessiveHalving
from nasframe_sampling.inherited import Inherited
from nasframe_sampling.random_search import RandomSearch


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
        epochs: the epochs of each stage of the supernet; by default those of the optimiser.
        architect: proposes the finalists.
    """

    name: ClassVar[str] = "finals"
    epochs: int | None = number(None, low=1, whole=True, optional=True)
    architect: AskTellArchitect = nested(
        "architect", default=SuccessiveHalving(), validator=attrs.validators.instance_of(AskTellArchitect)
    )

    def steps(self) -> Plan:
        """Return steps that judge and grow supernets, then trials among the architectures of the best one, and a training of the best."""
        supernet = Train(phase="search", parameters=("weights", "alphas"), epochs=self.epochs, competes=True)
        grown = Repeat(steps=(supernet, Judge(phase="search")))
        return (grown, Restore(), TrialSteps(architect=self.architect), *RETRAIN)


@attrs.frozen
class SinglePath(PlanRecipe):
    """Train the weights of a supernet, rank architectures by the validation loss with these weights, and train the best one on.

    The alphas stay as they are at the beginning. With a relaxation that computes one candidate of each site, such as `hard_gumbel`, each
    update then trains one path, which is drawn uniformly (Guo et al. 2020, SPOS; Li & Talwalkar 2019, random search with weight sharing).

    Args:
        epochs: the epochs of the supernet.
        architect: proposes the architectures that are ranked.
    """

    name: ClassVar[str] = "single_path"
    epochs: int = number(50, low=1, whole=True)
    architect: AskTellArchitect = nested(
        "architect", default=RandomSearch(trials=100, updates=1), validator=attrs.validators.instance_of(AskTellArchitect)
    )

    def steps(self) -> Plan:
        """Return a training of the weights, then trials without training, and a training of the best architecture."""
        supernet = Train(phase="search", epochs=self.epochs)
        return (supernet, TrialSteps(architect=self.architect, evaluator=Inherited(), inherit=True), *RETRAIN)
