"""The interface of growth criteria, which decide when to train on, change or stop. They are combined with `|` and `&`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.morphism import Proposal
from nasframe.interfaces.part import Part
from nasframe.options import nested
from nasframe.records import Record
from nasframe.search.context import Context

#: the values of `Decision.next`, from the weakest to the strongest
NEXT = ("continue", "end", "stop")


@attrs.frozen
class Decision:
    """Two independent answers, what comes next and whether the network changes now, and the reason for them.

    An answer that is None leaves the decision to other criteria.

    Attributes:
        next: after an epoch, "continue" trains on, "end" ends the phase, and "stop" ends the phase and the search. After a stage,
            "continue" carries out a proposal, and "stop" ends the search. If no criterion answers, the phase continues after an
            epoch, and the network grows after a stage.
        change: after an epoch, whether the changes that the phase makes during its training are made now. If no criterion
            answers, they are.
        reason: a sentence for the user.
        what: after a stage, the position of the proposal to carry out; None for the first one.

    Example:
        >>> Decision("end", reason="the loss has not improved for 5 epochs").next
        'end'
    """

    next: str | None = None
    change: bool | None = None
    reason: str = ""
    what: int | None = None


#: the flags of the command line that set an option of a criterion (`GrowthCriterion.flags`)
FLAGS = ("epochs", "budget")
#: leaves both decisions to other criteria
ABSTAIN = Decision()


class GrowthCriterion(Part):
    """Decide, from the history alone, when to train on, change or stop.

    `decide` is a pure function of its state, the history and the proposals. What else it depends on is measured by `measure`.

    Required: `name` and `decide`. Optional: `measure`; `ends`, with which a search that would never end is refused before it
    trains; `limits`, `budget` and `cooldown`; `affords`, which limits trials; `flags`, by which the command line sets its options.
    `nasframe check` verifies them.

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

    #: optional: the options that flags of the command line set, by flag. "epochs" is the number of epochs of a phase: without such a
    #: criterion in the strategy, `--epochs` puts this one in the place of the strategy's. "budget" is the number of updates of the
    #: whole search: `--budget` adds this one to the others
    flags: ClassVar[Mapping[str, str]] = {}

    #: optional: what its decisions can end: "phase" (by "end" or "stop" after an epoch) or "search" (by "stop"). A strategy in
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
        sorted: the largest gain, or gain per cost, first; among equal ones the morphism that made the fewest growths so far, then
        the one that comes first in the strategy.

        Args:
            state: None at first, then what the last call returned; it consists of JSON values.
            history: the records of the run so far.
            proposals: the changes that the morphisms propose; empty after an epoch.
        """

    def affords(self, updates: int, clock: Callable[[], float]) -> bool:
        """Return whether a search may begin another trial. Optional.

        By default it may. A step of trials begins at least one. What the architects and evaluators of trials spend is limited by nothing
        else.

        Args:
            updates: the updates that the search has made, those of the trials in flight included.
            clock: returns the seconds of the run so far. A reading is kept in the record of the last trial.
        """
        return True

    def __or__(self, other: GrowthCriterion) -> AnyOf:
        return AnyOf((self, other))

    def __and__(self, other: GrowthCriterion) -> AllOf:
        return AllOf((self, other))


class _Composed(GrowthCriterion):
    """A criterion that evaluates every part, each with its state, and chooses among their answers."""

    parts: tuple[GrowthCriterion, ...]

    @property
    def ends(self) -> frozenset[str]:  # type: ignore[override]
        """Return what any of the parts can end; a part that cannot end it abstains and leaves it to the others."""
        return frozenset().union(*(part.ends for part in self.parts))

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the readings of all parts."""
        return {name: value for part in self.parts for name, value in part.measure(context).items()}

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return the states of the parts, and for each question the chosen answer of those that answer it."""
        states, decisions = [], []
        # Every part is called in any case, as its state follows the history.
        for part, old in zip(self.parts, state or [None] * len(self.parts), strict=True):
            new, decision = part.decide(old, history, proposals)
            states.append(new)
            decisions.append(decision)
        # of equal answers, `max` and `min` choose the first one
        next = self.choose((d for d in decisions if d.next is not None), key=_strength, default=ABSTAIN)
        change = self.choose((d for d in decisions if d.change is not None), key=lambda d: d.change, default=ABSTAIN)
        # one reason is given: why the network changes, unless the phase ends
        reason = change.reason if change.change and next.next in (None, "continue") else next.reason
        return states, attrs.evolve(next, change=change.change, reason=reason)

    def affords(self, updates: int, clock: Callable[[], float]) -> bool:
        """Return the parts' answer, of which False is the stronger one, as "stop" is."""
        return not self.choose(not part.affords(updates, clock) for part in self.parts)

    # A built-in function is no method: `self.choose(...)` does not pass `self` to it.
    #: chooses one of the decisions that answer a question: `max` or `min`
    choose: ClassVar[Callable[..., Decision]]


def _strength(decision: Decision) -> int:
    assert decision.next is not None
    return NEXT.index(decision.next)


def _check_parts(instance: Any, attribute: Any, value: Any) -> None:
    if not value or not all(isinstance(v, GrowthCriterion) for v in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be one or more growth criteria")


@attrs.frozen
class AnyOf(_Composed):
    """The strongest answers of its parts: stop before end before continue, and a change if any part wants one.

    The first of equal answers gives the reason.
    """

    name: ClassVar[str] = "any_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_check_parts)
    choose: ClassVar[Callable[..., Decision]] = max


@attrs.frozen
class AllOf(_Composed):
    """The weakest answers of its parts: continue before end before stop, and a change if all parts that answer want one.

    The first of equal answers gives the reason.
    """

    name: ClassVar[str] = "all_of"
    parts: tuple[GrowthCriterion, ...] = nested("criterion", validator=_check_parts)
    choose: ClassVar[Callable[..., Decision]] = min
