"""The interface of growth criteria: when to go on, when to grow, when to stop. They compose with `|` and `&`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.morphism import Proposal
from nasframe.interfaces.part import Part, nested
from nasframe.records import Record

#: from the weakest to the strongest; a criterion that has no opinion abstains
ACTIONS = ("wait", "grow", "stop")


@attrs.frozen
class Decision:
    """What a criterion says, and why.

    After an epoch: "wait" trains on, "grow" ends the stage's training, "stop" ends the search. After a stage: "grow" grows
    the proposal at position `what` (None: the first one), "stop" ends the search. "abstain" leaves it to others;
    if all abstain, an epoch waits and a stage grows.
    """

    action: str
    reason: str = ""
    what: int | None = None


ABSTAIN = Decision("abstain")


class GrowthCriterion(Part):
    """A pure function of its state, the history and the proposals."""

    kind: ClassVar[str] = "criterion"

    #: MAY: what it reads beyond the history ("clock"): the loop then puts the reading into each record ("seconds"),
    #: so that a decision is replayed from the journal; a fresh run may decide otherwise
    reads: ClassVar[frozenset[str]] = frozenset()

    #: MAY: by option, what of the records it bounds: once that has come so far (in every cell type, where there is one number
    #: for each), it says "stop" after a stage
    limits: ClassVar[Mapping[str, str]] = {}

    #: MAY: the option beyond which no growth that it admits takes the number of parameters
    budget: ClassVar[str | None] = None

    #: MAY: the option that tells how many epochs a phase trains at least: before these are over, it does not end the phase
    cooldown: ClassVar[str | None] = None

    #: MAY: what its decisions can end: "phase" (it says "grow" or "stop" after an epoch), "search" (it says "stop" at all). A
    #: strategy in which nothing can end a phase, or a search that grows, is refused before it trains
    ends: ClassVar[frozenset[str]] = frozenset({"phase", "search"})

    @abstractmethod
    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """The next state and the decision, after the last record of the history.

        The last record is an `EpochEnded`, or a `StageEnded` that comes with proposals (see `nasframe.records`). Proposals are
        sorted: the largest gain first; among equal gains the morphism that made the fewest growths so far, then the one that
        comes first in the strategy.

        Args:
            state: None at first, then what the last call returned; JSON's values only.
        """

    def __or__(self, other: GrowthCriterion) -> AnyOf:
        return AnyOf((self, other))

    def __and__(self, other: GrowthCriterion) -> AllOf:
        return AllOf((self, other))


class _Composed(GrowthCriterion):
    """Asks every part, each with its own state, and takes one part's decision whole, with its reason."""

    parts: tuple[GrowthCriterion, ...]

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]
        """What any of the parts reads."""
        return frozenset().union(*(part.reads for part in self.parts))

    @property
    def ends(self) -> frozenset[str]:  # type: ignore[override]
        """What any of the parts can end: a part that cannot end it abstains, and leaves it to the others."""
        return frozenset().union(*(part.ends for part in self.parts))

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """The states of the parts, and the decision of the part that decided."""
        states, said = [], []
        for part, old in zip(self.parts, state or [None] * len(self.parts), strict=True):
            new, decision = part.decide(old, history, proposals)
            states.append(new)
            if decision.action != "abstain":
                said.append(decision)
        return states, self.choose(said) if said else ABSTAIN

    @staticmethod
    @abstractmethod
    def choose(said: Sequence[Decision]) -> Decision:
        """One of the decisions."""


def _strength(decision: Decision) -> int:
    return ACTIONS.index(decision.action)


def _some(instance: Any, attribute: Any, value: Any) -> None:
    if not value or not all(isinstance(v, GrowthCriterion) for v in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be one or more growth criteria")


@attrs.frozen
class AnyOf(_Composed):
    """The strongest of what its parts say: stop before grow before wait; the first of equals gives the reason."""

    name: ClassVar[str] = "any_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_some)

    @staticmethod
    def choose(said: Sequence[Decision]) -> Decision:
        """The strongest."""
        return max(said, key=_strength)


@attrs.frozen
class AllOf(_Composed):
    """The weakest of what its parts say: wait before grow before stop; the first of equals gives the reason."""

    name: ClassVar[str] = "all_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_some)

    @staticmethod
    def choose(said: Sequence[Decision]) -> Decision:
        """The weakest."""
        return min(said, key=_strength)
