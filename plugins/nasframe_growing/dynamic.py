"""The plan of a search in which operations grow and are pruned while it trains (Jie & Gao 2021, 3.3 and Algorithm 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from nasframe import Morphism, Pruner
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import nested
from nasframe.search.plan import END, Change, Judge, Plan, Repeat, Train
from nasframe_growing.combination import Combine
from nasframe_growing.operators import OperatorGrowth
from nasframe_growing.threshold import Threshold


def _morphisms(instance: Any, attribute: Any, value: Any) -> None:
    if not value or not all(isinstance(part, Morphism) for part in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be one or more morphisms, such as operator")


@attrs.frozen
class Dynamic(PlanRecipe):
    """Prune and grow operations after each epoch of the search; in the end, each site keeps all operations that are not too weak.

    It is the third plan beside `stage` and `end` (3.3). As in `end`, supernets are judged and grown by the morphisms of the strategy, such
    as `node`, when their phase is over. Within a phase, the pruner removes candidates and the morphisms of the plan add to each site
    (Algorithm 4), in one change after each epoch in which there is something to do. The best supernet is pruned once more, its sites are
    decided by `combine`, without choosing one operation, and the model is tuned.

    The criterion of the strategy may say when changes are made (`grow_operator`, `prune_operator`); otherwise the thresholds of pruner and
    morphisms alone decide.

    Args:
        growth: what adds to a site within a phase.
        pruner: what removes candidates; `Threshold(below=0.0)` removes none.
    """

    name: ClassVar[str] = "dynamic"
    growth: tuple[Morphism, ...] = nested(
        "morphism", default=(OperatorGrowth(threshold=1.5, relative=True),), validator=_morphisms
    )
    pruner: Pruner = nested(
        "pruner", default=Threshold(0.25, 1.5, relative=True), validator=attrs.validators.instance_of(Pruner)
    )

    def __attrs_post_init__(self) -> None:
        for part in self.growth:
            if isinstance(part, OperatorGrowth) and part.form == "fresh" and isinstance(self.pruner, Threshold):
                # With relative thresholds a site of two candidates has the largest one.
                least = self.pruner.below / 2 if self.pruner.relative else self.pruner.below
                if part.share < least:
                    raise ValueError(
                        f"a fresh copy has the mixing weight {part.share:g} and would be removed after the next epoch, because the pruner "
                        f"removes what is below {least:g}: give it a larger share, or the pruner a smaller threshold"
                    )

    def steps(self) -> Plan:
        """Return a repeat of searching with changes after each epoch and judging, then the decision of all sites, and a tuning."""
        change = Change(prune=True, pruner=self.pruner, grow=True, growth=self.growth, per="site")
        search = Train(phase="search", parameters=("weights", "alphas"), competes=True, during=(change,))
        combine = Change(prune=True, pruner=self.pruner, grow=True, growth=(Combine(),), per="site")
        # What follows a plan "end" returns to the best network, decides what is undecided, which is nothing here, and folds gates.
        restore, *rest = END[1:]
        return (
            Repeat(steps=(search, Judge(phase="search"))),
            restore,
            combine,
            Train(phase="tune", competes=True),
            restore,
            *rest,
        )
