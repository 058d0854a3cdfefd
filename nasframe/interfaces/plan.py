"""The interface of plans that a plugin registers under a name."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from nasframe.interfaces.part import Part
from nasframe.search.plan import Plan


class PlanRecipe(Part):
    """A plan with a name, for `plan = "NAME"` in a strategy file and `nasframe search --plan NAME`.

    Required: `name` and `steps`.

    Example:
        Cycles of training and pruning, the number of which is an option::

            @attrs.frozen
            class Cycles(PlanRecipe):
                name: ClassVar[str] = "cycles"
                cycles: int = number(3, low=1, whole=True)

                def steps(self):
                    train = Train(phase="search", parameters=("weights", "alphas"), epochs=10, grace=2)
                    cycle = Repeat(steps=(train, Change(prune=True)), until="times", times=self.cycles)
                    return (cycle, Train(phase="tune", competes=True), Restore())
    """

    kind: ClassVar[str] = "plan"

    @abstractmethod
    def steps(self) -> Plan:
        """Return the steps of the plan."""
