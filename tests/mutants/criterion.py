"""Criteria with one fault each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from mutants.system import mutant, overriding
from nasframe import Context, Decision, Proposal
from nasframe.interfaces.criterion import AnyOf
from nasframe.records import StageEnded
from nasframe.testing.subject import Subject

#: a criterion's `decide`, and what calls it with other arguments or makes something else of its answer
Decide = Callable[[Any, Sequence[Any], Sequence[Proposal]], tuple[Any, Decision]]
PATIENCE = ("criterion", "patience")


def deciding(of: Subject, change: Callable[..., tuple[Any, Decision]], **members: Any) -> Subject:
    """The criterion that decides as `change(criterion, decide, state, history, proposals)` does."""

    def decide(self: Any, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        return change(self, lambda *given: of.cls.decide(self, *given), state, history, proposals)  # type: ignore[attr-defined]

    return overriding(of, decide=decide, **members)


@mutant("criterion.legal", *PATIENCE)
def silent(of: Subject) -> Subject:
    """Its decisions have no reason."""

    def change(self: Any, decide: Decide, *given: Any) -> tuple[Any, Decision]:
        state, decision = decide(*given)
        return state, attrs.evolve(decision, reason="")

    return deciding(of, change)


@mutant("criterion.legal", "criterion", "no_better")
def waiting(of: Subject) -> Subject:
    """It ends a phase where it should abstain or continue."""

    def change(self: Any, decide: Decide, *given: Any) -> tuple[Any, Decision]:
        state, decision = decide(*given)
        return state, decision if decision.next == "stop" else Decision("end", reason="the stage is over")

    return deciding(of, change)


@mutant("criterion.pure", *PATIENCE)
def marking(of: Subject) -> Subject:
    """It appends to the history that it is given."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        history.append(history[-1])
        return decide(state, history, proposals)

    return deciding(of, change)


@mutant("criterion.pure", "criterion", "no_better")
def appending(of: Subject) -> Subject:
    """It appends to the list that is its state."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        state = [] if state is None else state
        state.append(len(history))
        return state, decide(None, history, proposals)[1]

    return deciding(of, change)


@mutant("criterion.state", *PATIENCE)
def keyed(of: Subject) -> Subject:
    """Its state counts the epochs of each stage by the stage's number, and JSON makes strings of the keys."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        stage = history[-1].stage
        state = {**(state or {}), stage: (state or {}).get(stage, 0) + 1}
        _, decision = decide(None, history, proposals)
        return state, attrs.evolve(decision, reason=f"{decision.reason} of {state[stage]}")

    return deciding(of, change)


@mutant("criterion.history", *PATIENCE)
def gathering(of: Subject) -> Subject:
    """It gathers the records of a search in the class, until another search begins."""
    gathered: list[Any] = []

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        if len(history) == 1:
            gathered.clear()
        gathered.append(history[-1])
        return decide(state, gathered, proposals)

    return deciding(of, change)


@mutant("criterion.reads", *PATIENCE)
def hurried(of: Subject) -> Subject:
    """It ends the search by seconds, which it does not measure."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        if history[-1].readings.get("seconds", 0) > 5:
            return state, Decision("stop", reason="it takes too long")
        return decide(state, history, proposals)

    return deciding(of, change)


@mutant("criterion.reads", *PATIENCE)
def looking(of: Subject) -> Subject:
    """It looks at the clock itself."""

    def change(self: Any, decide: Decide, state: Any, *given: Any) -> tuple[Any, Decision]:
        return decide(state, *given) if time.monotonic() > 0 else (state, Decision("stop", reason="it takes too long"))

    return deciding(of, change)


def measuring(of: Subject, change: Callable[[Context], Any]) -> Subject:
    """The criterion that measures as `change` does, and decides without the readings."""
    return overriding(of, measure=lambda self, context: change(context))


@mutant("criterion.measured", *PATIENCE)
def unconverted(of: Subject) -> Subject:
    """It returns a measured value as a tensor and not as a number."""
    return measuring(of, lambda context: {"loss": context.losses().mean().detach()})


@mutant("criterion.measured", *PATIENCE)
def training(of: Subject) -> Subject:
    """It trains the network of the search in place of the private copy."""

    def change(context: Context) -> Any:
        for parameter in context._training.network.parameters():
            parameter.data.mul_(0.9)
        return {"loss": 1.0}

    return measuring(of, change)


@mutant("criterion.measured", *PATIENCE)
def marked(of: Subject) -> Subject:
    """It names what it measures by the number of the measurement."""
    numbers = itertools.count()
    return measuring(of, lambda context: {f"loss {next(numbers)}": 1.0})


@mutant("criterion.nonfinite", *PATIENCE)
def deceived(of: Subject) -> Subject:
    """It takes a loss that is not finite for the best of losses."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        history = [attrs.evolve(r, valid=-1.0) if r.valid is None else r for r in history]
        return decide(state, history, proposals)

    return deciding(of, change)


@mutant("criterion.nonfinite", "criterion", "no_better")
def relieved(of: Subject) -> Subject:
    """It grows where the loss of the stage before was infinite, whatever it is now."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        *before, now = history
        infinite = isinstance(now, StageEnded) and any(r.valid is None for r in before if isinstance(r, StageEnded))
        return (state, Decision("continue", reason="anything is better")) if infinite else decide(state, history, proposals)

    return deciding(of, change)


@mutant("criterion.unvalidated", "criterion", "epochs")
def expectant(of: Subject) -> Subject:
    """It reads the validation loss of every record."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        new, decision = decide(state, history, proposals)
        return new, attrs.evolve(decision, reason=decision.reason and f"{decision.reason}, at {history[-1].valid:.6g}")

    return deciding(of, change)


@mutant("criterion.unvalidated", "criterion", "epochs")
def reporting(of: Subject) -> Subject:
    """It reports the least validation loss of a retraining, which may have none."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        new, decision = decide(state, history, proposals)
        least = min((row.valid for row in history if row.valid is not None), default=None)
        if history[-1].phase == "retune":
            decision = attrs.evolve(decision, reason=decision.reason and f"{decision.reason}, at best {least:.6g}")
        return new, decision

    return deciding(of, change)


@mutant("criterion.ends", "criterion", "epochs")
def undeclared(of: Subject) -> Subject:
    """It does not declare that it ends phases."""
    return overriding(of, ends=frozenset({"search"}))


@mutant("criterion.flags", "criterion", "epochs")
def unknown_flag(of: Subject) -> Subject:
    """It declares a flag that the command line does not have."""
    return overriding(of, flags={"length": "epochs"})


@mutant("criterion.flags", "criterion", "max_updates")
def flag_of_another_option(of: Subject) -> Subject:
    """The number of updates sets the share that is kept for tuning."""
    return overriding(of, flags={"budget": "tuning"})


@mutant("criterion.flags", "criterion", "epochs")
def one_epoch_more(of: Subject) -> Subject:
    """It ends a phase one epoch later than the option says."""
    return deciding(of, lambda self, decide, *given: of.cls.decide(attrs.evolve(self, epochs=self.epochs + 1), *given))  # type: ignore[attr-defined]


@mutant("criterion.limits", "criterion", "max_nodes")
def late(of: Subject) -> Subject:
    """It stops where a cell has more nodes than allowed, and not yet where it has as many."""
    return deciding(of, lambda self, decide, *given: of.cls.decide(attrs.evolve(self, nodes=self.nodes + 1), *given))  # type: ignore[attr-defined]


@mutant("criterion.limits", "criterion", "max_updates")
def forgetful(of: Subject) -> Subject:
    """It counts the updates of the last stage alone."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        before = max((r.updates for r in history if r.stage < history[-1].stage), default=0)
        return decide(state, [attrs.evolve(r, updates=r.updates - before) for r in history], proposals)

    return deciding(of, change)


@mutant("criterion.budget", "criterion", "max_parameters")
def generous(of: Subject) -> Subject:
    """It leaves the cost of the growth out of account."""
    return deciding(
        of, lambda self, decide, state, history, proposals: decide(state, history, [attrs.evolve(p, cost=0) for p in proposals])
    )


@mutant("criterion.affords", "criterion", "max_updates")
def reversed_limit(of: Subject) -> Subject:
    """It affords trials when its updates are spent, and none before."""
    return overriding(of, affords=lambda self, updates, clock: not of.cls.affords(self, updates, clock))  # type: ignore[attr-defined]


@mutant("criterion.affords", "criterion", "max_seconds")
def time_left(of: Subject) -> Subject:
    """It takes the clock for one that counts down, and affords trials when its time has passed."""
    return overriding(of, affords=lambda self, updates, clock: clock() >= self.tuning * self.seconds)


@mutant("criterion.cooldown", "criterion", "epochs")
def early(of: Subject) -> Subject:
    """It counts the epochs from 1, where the records count from 0."""

    def change(self: Any, decide: Decide, state: Any, history: Any, proposals: Any) -> tuple[Any, Decision]:
        return decide(state, [attrs.evolve(r, epoch=r.epoch + 1) for r in history], proposals)

    return deciding(of, change)


@mutant("criterion.composed", "criterion", "any_of")
def weakest(of: Subject) -> Subject:
    """It takes the weakest of what its parts say."""
    return overriding(of, choose=min)


@attrs.frozen
class _Unchanging(AnyOf):
    """A composition that never changes the network."""

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        state, decision = AnyOf.decide(self, state, history, proposals)
        return state, attrs.evolve(decision, change=None)


@mutant("criterion.composed", *PATIENCE)
def unchanging(of: Subject) -> Subject:
    """`|` with another forgets whether the network changes."""
    return overriding(of, __or__=lambda self, other: _Unchanging((self, other)))


@mutant("criterion.composed", *PATIENCE)
def alone(of: Subject) -> Subject:
    """`|` with another leaves the other out."""
    return overriding(of, __or__=lambda self, other: attrs.evolve(self))
