"""When to grow and when to stop (Jie & Gao 2021, 3.2.5), and limits on nodes, parameters, updates and time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe import Context, Decision, GrowthCriterion, Proposal
from nasframe.errors import StrategyError
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.options import number
from nasframe.records import EpochEnded, Record, StageEnded

History = Sequence[Record]


@attrs.frozen
class Patience(GrowthCriterion):
    """End a phase of training when the validation loss has not improved for some epochs.

    This is the first level of early stopping in Jie & Gao (2021), 3.2.5. The paper gives no number of epochs.

    Args:
        epochs: the number of epochs without improvement.
    """

    name: ClassVar[str] = "patience"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    cooldown: ClassVar[str] = "epochs"
    epochs: int = number(3, low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "continue" or "end" after an epoch."""
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, ABSTAIN
        # None means either that there is no validation split or that the network diverged
        if last.valid is None and not last.diverged:
            raise StrategyError(
                "the criterion 'patience' needs a validation loss, but the task has no validation split: use 'epochs' instead"
            )
        losses = [_loss(r) for r in _epochs(history) if _same_phase(r, last)]
        # index() finds the first of equal losses, so that an equal loss is no improvement
        since = len(losses) - 1 - losses.index(min(losses))
        if since < self.epochs:
            return state, Decision("continue")
        return state, Decision("end", reason=f"the validation loss has not fallen below {min(losses):.6g} for {since} epochs")


@attrs.frozen
class Epochs(GrowthCriterion):
    """End a phase of training after a fixed number of epochs.

    Args:
        epochs: the number of epochs.
    """

    name: ClassVar[str] = "epochs"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    cooldown: ClassVar[str] = "epochs"
    flags: ClassVar[Mapping[str, str]] = {"epochs": "epochs"}
    epochs: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "continue" or "end" after an epoch."""
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, ABSTAIN
        if last.epoch + 1 < self.epochs:
            return state, Decision("continue")
        return state, Decision("end", reason=f"the phase has trained for {self.epochs} epochs")


@attrs.frozen
class NoBetter(GrowthCriterion):
    """Stop when a grown network is no better than the best one before it.

    This is the second level of early stopping in Jie & Gao (2021), 3.2.5 and Algorithm 2, lines 10 to 16. Stages are compared
    by their least validation loss.
    """

    name: ClassVar[str] = "no_better"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "continue" or "stop" after a stage."""
        if not isinstance(history[-1], StageEnded):
            return state, ABSTAIN
        *before, now = (_loss(r) for r in history if isinstance(r, StageEnded))
        if not before:
            return state, Decision("continue", reason="the first stage is over")
        # compared with all stages before it, and not with the last one only
        if now < min(before):
            return state, Decision("continue", reason=f"the grown network is better: {now:.6g} after {min(before):.6g}")
        return state, Decision("stop", reason=f"the grown network is no better: {now:.6g} after {min(before):.6g}")


@attrs.frozen
class MaxNodes(GrowthCriterion):
    """Stop when every cell has some number of nodes.

    Args:
        nodes: the number of nodes.
    """

    name: ClassVar[str] = "max_nodes"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})
    limits: ClassVar[Mapping[str, str]] = {"nodes": "nodes"}
    nodes: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "stop" after a stage, or abstain."""
        last = history[-1]
        if not isinstance(last, StageEnded) or min(last.nodes.values()) < self.nodes:
            return state, ABSTAIN
        return state, Decision("stop", reason=f"every cell has {self.nodes} nodes or more")


@attrs.frozen
class MaxParameters(GrowthCriterion):
    """Limit the number of parameters of the supernet: make the best growth that fits, and stop when none does.

    Args:
        parameters: the largest number of parameters.
    """

    name: ClassVar[str] = "max_parameters"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})
    budget: ClassVar[str] = "parameters"
    parameters: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "stop" after a stage if no proposal fits, and "continue" if the best one does not fit but another one does."""
        last = history[-1]
        if not isinstance(last, StageEnded) or not proposals:
            return state, ABSTAIN
        # the proposals are sorted: without an objection the first one is made
        fitting = [i for i, proposal in enumerate(proposals) if last.parameters + proposal.cost <= self.parameters]
        if not fitting:
            return state, Decision("stop", reason=f"every growth would exceed {self.parameters} parameters")
        if fitting[0] == 0:
            return state, ABSTAIN
        return state, Decision("continue", reason=f"the best growth within {self.parameters} parameters", what=fitting[0])


class Limit(GrowthCriterion):
    """A limit on what the whole search may spend, tuning included.

    The search stops so early that a share of the limit is left for tuning the pruned network. Decisions are made at the end
    of an epoch, so a phase ends if one more epoch would exceed its limit. As every phase trains for at least one epoch, a
    search spends more than the limit only if that does not allow for an epoch of searching and one of tuning.
    """

    #: the share of the limit that is kept for tuning
    tuning: float

    def excess(self, last: Record, spent: Sequence[float], limit: float) -> str | None:
        """Return what one more epoch of the phase would exceed, or None if it would exceed nothing.

        Args:
            last: the last record.
            spent: what the search had spent at the end of each epoch.
            limit: the most that it may spend.
        """
        # The next epoch is expected to cost what the last ones did. Trials before the first one of a phase are no part of it.
        epoch = min(after - before for before, after in itertools.pairwise([0, *spent][-3:]))
        tunes = isinstance(last, EpochEnded) and not last.moves_alphas
        # tuning takes at least an epoch, whatever the share
        kept = 0 if tunes else max(self.tuning * limit, epoch)
        if spent[-1] + epoch <= limit - kept:
            return None
        return "one more epoch would exceed them" if tunes else f"one more epoch would leave less than {kept:.0f} for tuning"


@attrs.frozen
class MaxUpdates(Limit):
    """Limit the updates of the weights in the whole search, tuning included.

    The search stops when one more epoch would leave less than the share `tuning` of the updates, and no trial begins when less is
    left; tuning uses the rest. The comparison at the end of a run does not count.

    Args:
        updates: the largest number of updates. It is exceeded only if it does not allow for an epoch of searching, a trial where the
            plan has trials, and an epoch of tuning, by a last trial that takes more than the share for tuning, or by trials in flight
            that take more updates than were requested.
        tuning: the share of the updates that is kept for tuning the pruned network.
    """

    name: ClassVar[str] = "max_updates"
    limits: ClassVar[Mapping[str, str]] = {"updates": "updates"}
    flags: ClassVar[Mapping[str, str]] = {"budget": "updates"}
    updates: int = number(low=1, whole=True)
    tuning: float = number(0.25, low=0.0, high=1.0)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "stop", or abstain."""
        spent = [record.updates for record in _epochs(history)]
        excess = self.excess(history[-1], spent, self.updates)
        if excess is None:
            return state, ABSTAIN
        return state, Decision("stop", reason=f"{spent[-1]} of {self.updates} updates have been made; {excess}")

    def affords(self, updates: int, clock: Callable[[], float]) -> bool:
        """Return whether the share for tuning is left."""
        return updates <= (1 - self.tuning) * self.updates


@attrs.frozen
class MaxSeconds(Limit):
    """Limit the time of the whole search, tuning included.

    The search stops when one more epoch would leave less than the share `tuning` of the time, and no trial begins when less is left;
    tuning uses the rest. Trials in flight are finished. The comparison at the end of a run does not count. Another run of the same
    search may stop elsewhere, because its epochs may take longer or shorter.

    Args:
        seconds: the longest time, in seconds. It is exceeded if it does not allow for an epoch of searching, a trial where the plan has
            trials, and an epoch of tuning, if an epoch takes longer than the one before it, or by a last trial that takes longer than
            the share for tuning.
        tuning: the share of the time that is kept for tuning the pruned network.
    """

    name: ClassVar[str] = "max_seconds"
    limits: ClassVar[Mapping[str, str]] = {"seconds": "seconds"}
    seconds: float = number(low=0.0)
    tuning: float = number(0.25, low=0.0, high=1.0)

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the seconds of the run so far."""
        return {"seconds": context.clock()}

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "stop", or abstain."""
        spent = [record.readings["seconds"] or 0.0 for record in _epochs(history)]
        excess = self.excess(history[-1], spent, self.seconds)
        if excess is None:
            return state, ABSTAIN
        return state, Decision("stop", reason=f"{spent[-1]:.0f} of {self.seconds:g} seconds have passed; {excess}")

    def affords(self, updates: int, clock: Callable[[], float]) -> bool:
        """Return whether the share for tuning is left."""
        return clock() <= (1 - self.tuning) * self.seconds


def _epochs(history: History) -> list[EpochEnded]:
    return [record for record in history if isinstance(record, EpochEnded)]


def _same_phase(one: Record, other: Record) -> bool:
    return (one.stage, one.phase) == (other.stage, other.phase)


def _loss(record: EpochEnded | StageEnded) -> float:
    # a network that diverged has no loss, and is worse than any other
    return math.inf if record.valid is None else record.valid
