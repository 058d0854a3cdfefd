"""When to grow and when to stop (Jie & Gao 2021, 3.2.5), and the limits that a user sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe import Decision, GrowthCriterion, Proposal, number
from nasframe.errors import StrategyError
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.records import EpochEnded, Record, StageEnded

History = Sequence[Record]


@attrs.frozen
class Patience(GrowthCriterion):
    """The first level of early stopping: training goes on until the validation loss has not improved for some epochs."""

    name: ClassVar[str] = "patience"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    cooldown: ClassVar[str] = "epochs"
    epochs: int = number(3, low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After an epoch, wait or grow."""
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, ABSTAIN
        if last.valid is None and not last.diverged:
            raise StrategyError(
                "the criterion 'patience' waits for a validation loss, and the task holds nothing out: use 'epochs'"
            )
        losses = [_ranked(r.valid) for r in _epochs(history) if _place(r) == _place(last)]
        since = len(losses) - 1 - losses.index(min(losses))
        if since < self.epochs:
            return state, Decision("wait")
        return state, Decision("grow", f"the validation loss has not fallen below {min(losses):.6g} for {since} epochs")


@attrs.frozen
class Epochs(GrowthCriterion):
    """A phase of training takes so many epochs."""

    name: ClassVar[str] = "epochs"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    cooldown: ClassVar[str] = "epochs"
    epochs: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After an epoch, wait or grow."""
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, ABSTAIN
        if last.epoch + 1 < self.epochs:
            return state, Decision("wait")
        return state, Decision("grow", f"{self.epochs} epochs are over")


@attrs.frozen
class NoBetter(GrowthCriterion):
    """The second level of early stopping: the search ends when a grown network is no better than the best before it."""

    name: ClassVar[str] = "no_better"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After a stage, grow or stop."""
        if not isinstance(history[-1], StageEnded):
            return state, ABSTAIN
        *before, now = (_ranked(r.valid) for r in history if isinstance(r, StageEnded))
        if not before:
            return state, Decision("grow", "the first stage is over")
        if now < min(before):
            return state, Decision("grow", f"the grown network is better: {now:.6g} after {min(before):.6g}")
        return state, Decision("stop", f"the grown network is no better: {now:.6g} after {min(before):.6g}")


@attrs.frozen
class MaxNodes(GrowthCriterion):
    """No growth once every cell has so many nodes."""

    name: ClassVar[str] = "max_nodes"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})
    limits: ClassVar[Mapping[str, str]] = {"nodes": "nodes"}
    nodes: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After a stage, stop or abstain."""
        last = history[-1]
        if not isinstance(last, StageEnded) or min(last.nodes.values()) < self.nodes:
            return state, ABSTAIN
        return state, Decision("stop", f"every cell has {self.nodes} nodes or more")


@attrs.frozen
class MaxParameters(GrowthCriterion):
    """No growth beyond so many parameters."""

    name: ClassVar[str] = "max_parameters"
    ends: ClassVar[frozenset[str]] = frozenset({"search"})
    budget: ClassVar[str] = "parameters"
    parameters: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After a stage, stop if no proposal fits; else grow the best that does, if the best of all does not."""
        last = history[-1]
        if not isinstance(last, StageEnded) or not proposals:
            return state, ABSTAIN
        ranked = sorted(range(len(proposals)), key=lambda i: -proposals[i].gain)
        fitting = [i for i in ranked if last.parameters + proposals[i].cost <= self.parameters]
        if not fitting:
            return state, Decision("stop", f"every growth would exceed {self.parameters} parameters")
        if fitting[0] == ranked[0]:
            return state, ABSTAIN
        return state, Decision("grow", f"the best growth within {self.parameters} parameters", fitting[0])


@attrs.frozen
class MaxUpdates(GrowthCriterion):
    """The search ends with the stage in which the weights have been updated so many times.

    What is left to tune then is tuned until it has converged, or for as many updates again.
    """

    name: ClassVar[str] = "max_updates"
    limits: ClassVar[Mapping[str, str]] = {"updates": "updates"}
    updates: int = number(low=1, whole=True)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Stop, or abstain."""
        spent = _spent(history, "updates")
        if spent < self.updates:
            return state, ABSTAIN
        return state, Decision("stop", f"the weights have been updated {spent} times")


@attrs.frozen
class MaxSeconds(GrowthCriterion):
    """The search ends with the stage in which it has run so long. A fresh run may then decide otherwise.

    What is left to tune then is tuned until it has converged, or for as long again.
    """

    name: ClassVar[str] = "max_seconds"
    reads: ClassVar[frozenset[str]] = frozenset({"clock"})
    limits: ClassVar[Mapping[str, str]] = {"seconds": "seconds"}
    seconds: float = number(low=0.0)

    def decide(self, state: Any, history: History, proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Stop, or abstain."""
        elapsed = _spent(history, "seconds")
        if elapsed < self.seconds:
            return state, ABSTAIN
        return state, Decision("stop", f"the search has run for {elapsed:.0f} seconds")


def _spent(history: History, what: str) -> Any:
    """Return the updates or seconds spent in all, or within a phase of tuning since it began."""
    last, epochs = history[-1], _epochs(history)
    tuning = isinstance(last, EpochEnded) and last.phase != "search"
    before = [getattr(r, what) for r in epochs if tuning and _place(r) != _place(last)]
    return getattr(epochs[-1], what) - max(before, default=0)


def _epochs(history: History) -> list[EpochEnded]:
    return [r for r in history if isinstance(r, EpochEnded)]


def _place(record: Record) -> tuple[int, str]:
    return record.stage, record.phase


def _ranked(loss: float | None) -> float:
    # a network that diverged has no loss, and is worse than any other
    return math.inf if loss is None else loss
