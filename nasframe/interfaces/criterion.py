"""The interface of growth criteria, which decide when to train on, grow or stop. They are combined with `|` and `&`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.morphism import Proposal
from nasframe.interfaces.part import Part, nested
from nasframe.records import Record
from nasframe.search.context import Context

#: the actions of a decision, from the weakest to the strongest; beside them there is "abstain"
ACTIONS = ("wait", "grow", "stop")


@attrs.frozen
class Decision:
    """An action and the reason for it.

    Attributes:
        action: after an epoch, "wait" continues the phase, "grow" ends it, and "stop" ends it and the search. After a stage,
            "grow" carries out a proposal and "stop" ends the search. "abstain" leaves the decision to other criteria; if all
            abstain, the phase continues after an epoch, and the network grows after a stage.
        reason: a sentence for the user.
        what: the position of the proposal to carry out; None for the first one.
    """

    action: str
    reason: str = ""
    what: int | None = None


ABSTAIN = Decision("abstain")


class GrowthCriterion(Part):
    """Decide, from the history alone, when to train on, grow or stop.

    `decide` is a pure function of its state, the history and the proposals. What else it depends on is measured by `measure`.

    Required: `name` and `decide`. Optional: `measure`; `ends`, with which a search that would never end is refused before it
    trains; `limits`, `budget` and `cooldown`, which `nasframe check` verifies.

    Example:
        >>> from nasframe_growing import MaxNodes, NoBetter, Patience
        >>> criterion = Patience(3) | NoBetter() | MaxNodes(6)
        >>> sorted(criterion.ends)
        ['phase', 'search']
    """

    kind: ClassVar[str] = "criterion"

    #: optional: for an option, the field or the reading of the records that it limits. When it has reached the option's value (in every
    #: cell type, where there is a number for each), the criterion stops after the stage
    limits: ClassVar[Mapping[str, str]] = {}

    #: optional: the option that limits the number of parameters of every growth that the criterion admits
    budget: ClassVar[str | None] = None

    #: optional: the option that gives the least number of epochs of a phase
    cooldown: ClassVar[str | None] = None

    #: optional: what its decisions can end: "phase" (by "grow" or "stop" after an epoch) or "search" (by "stop"). A strategy in
    #: which nothing can end a phase, or a search that grows, is refused before it trains
    ends: ClassVar[frozenset[str]] = frozenset({"phase", "search"})

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return what is measured for the next decision, as numbers by name; by default nothing. Optional.

        It is called after each epoch and after each stage, before `decide`. The numbers are the `readings` of the record that
        `decide` receives last. Criteria that are combined share the readings, so the same name must mean the same quantity.

        Args:
            context: the search, which cannot be modified. The record of this epoch or stage is not yet in its history.
        """
        return {}

    @abstractmethod
    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return the next state and the decision after the last record of the history.

        The last record is an `EpochEnded`, or a `StageEnded` that comes with proposals (see `nasframe.records`). Proposals are
        sorted: the largest gain first; among equal gains the morphism that made the fewest growths so far, then the one that
        comes first in the strategy.

        Args:
            state: None at first, then what the last call returned; it consists of JSON values.
            history: the records of the run so far.
            proposals: the changes that the morphisms propose; empty after an epoch.
        """

    def __or__(self, other: GrowthCriterion) -> AnyOf:
        return AnyOf((self, other))

    def __and__(self, other: GrowthCriterion) -> AllOf:
        return AllOf((self, other))


class _Composed(GrowthCriterion):
    """A criterion that evaluates every part, each with its state, and returns the decision of one of them."""

    parts: tuple[GrowthCriterion, ...]

    @property
    def ends(self) -> frozenset[str]:  # type: ignore[override]
        """Return what any of the parts can end; a part that cannot end it abstains and leaves it to the others."""
        return frozenset().union(*(part.ends for part in self.parts))

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the readings of all parts."""
        return {name: value for part in self.parts for name, value in part.measure(context).items()}

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return the states of the parts and the chosen decision."""
        states, decisions = [], []
        for part, old in zip(self.parts, state or [None] * len(self.parts), strict=True):
            new, decision = part.decide(old, history, proposals)
            states.append(new)
            if decision.action != "abstain":
                decisions.append(decision)
        return states, self.choose(decisions) if decisions else ABSTAIN

    @staticmethod
    @abstractmethod
    def choose(decisions: Sequence[Decision]) -> Decision:
        """Return one of the decisions."""


def _strength(decision: Decision) -> int:
    return ACTIONS.index(decision.action)


def _check_parts(instance: Any, attribute: Any, value: Any) -> None:
    if not value or not all(isinstance(v, GrowthCriterion) for v in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be one or more growth criteria")


@attrs.frozen
class AnyOf(_Composed):
    """The strongest decision of its parts: stop before grow before wait; the first of equals gives the reason."""

    name: ClassVar[str] = "any_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_check_parts)

    @staticmethod
    def choose(decisions: Sequence[Decision]) -> Decision:
        """Return the strongest decision."""
        return max(decisions, key=_strength)


@attrs.frozen
class AllOf(_Composed):
    """The weakest decision of its parts: wait before grow before stop; the first of equals gives the reason."""

    name: ClassVar[str] = "all_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_check_parts)

    @staticmethod
    def choose(decisions: Sequence[Decision]) -> Decision:
        """Return the weakest decision."""
        return min(decisions, key=_strength)
