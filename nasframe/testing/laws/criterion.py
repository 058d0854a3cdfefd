"""The laws of growth criteria: tried on histories as the search writes them, of losses that are no numbers, too."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Decision, GrowthCriterion, NasframeError, Proposal
from nasframe.interfaces.criterion import ACTIONS, AllOf, AnyOf
from nasframe.records import EpochEnded, Record, StageEnded, from_json, to_json
from nasframe.testing.assertions import demand
from nasframe.testing.case import Case as AnyCase, same
from nasframe.testing.histories import Moment, histories, past
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """A criterion and a history."""

    moments: tuple[Moment, ...]

    def __str__(self) -> str:
        return f"{super().__str__()} after {'; '.join(map(str, self.moments))}"


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The criterion on any history, with the clock's reading in it where it is declared."""
    assert subject.parts is not None
    of = st.just(subject)

    def search(part: GrowthCriterion) -> SearchStrategy[Case]:
        return st.builds(Case, subject=of, part=st.just(part), moments=histories("clock" in part.reads), data=st.data())

    return subject.parts.flatmap(search)


def said(criterion: GrowthCriterion, moments: Sequence[Moment]) -> Iterator[tuple[Any, Decision]]:
    """The state and the decision after each moment."""
    state = None
    for n, moment in enumerate(moments):
        state, decision = criterion.decide(state, past(moments, n), list(moment.proposals))
        yield state, decision


def decisions(criterion: GrowthCriterion, moments: Sequence[Moment]) -> list[Decision]:
    """The decision after each moment."""
    return [decision for _, decision in said(criterion, moments)]


def rewritten(moments: Sequence[Moment], change: Callable[[Any], Any]) -> list[Moment]:
    """The moments with other records."""
    return [attrs.evolve(m, record=change(m.record)) for m in moments]


def exercise(case: Case) -> dict[str, Any]:
    """All states and decisions."""
    told = enumerate(said(case.part, case.moments))
    return {f"what it said after record {n}": copy.deepcopy([state, attrs.astuple(d)]) for n, (state, d) in told}


def agree(law: str, first: Sequence[Decision], again: Sequence[Decision], where: str) -> None:
    """Raise unless the decisions are the same."""
    for n, (one, other) in enumerate(zip(first, again, strict=True)):
        demand(law, one == other, f"after record {n} it says {one}, but {where} {other}")


@law("criterion.legal", "it gives no reason, waits after a stage, or counts the proposals from one")
def legal(case: Case) -> None:
    """A decision is one that the search can carry out: to wait only after an epoch, to grow or to stop for a reason, and to grow
    one of the proposals, by its position, only after a stage.
    """
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        known = ("abstain", "grow", "stop") if moment.staged else ("abstain", *ACTIONS)
        where = f"after {'a stage' if moment.staged else 'an epoch'} it says {decision}"
        demand("legal", decision.action in known, f"{where}, which is none of {', '.join(known)}")
        demand("legal", bool(decision.reason) or decision.action not in ("grow", "stop"), f"{where}, and no reason")
        choices = range(len(moment.proposals)) if decision.action == "grow" else range(0)
        what = decision.what
        demand("legal", what is None or what in choices, f"{where}, of {len(choices)} proposals that it can grow")


@law("criterion.pure", "it appends to its state, or sorts the proposals, in place")
def pure(case: Case) -> None:
    """To ask a criterion changes nothing that it was given: neither its last state, nor the history, nor the proposals."""
    state = None
    for n, moment in enumerate(case.moments):
        history, proposals = past(case.moments, n), list(moment.proposals)
        before = copy.deepcopy([state, history, [p.request for p in proposals]])
        given = state
        state, _ = case.part.decide(given, history, proposals)
        after = [given, history, [p.request for p in proposals]]
        for what, then, now in zip(("its last state", "the history", "a proposal"), before, after, strict=True):
            demand("pure", same(then, now), f"asked after record {n}, it changed {what}")
        moved = any(a is not b for a, b in zip(proposals, moment.proposals, strict=True))
        demand("pure", not moved, f"asked after record {n}, it moved the proposals")


@law("criterion.state", "the state holds a tuple, a set, or whole numbers as keys, or something is kept in the object")
def state(case: Case) -> None:
    """A search can be taken up wherever it was left: a state is JSON's values, and an equal criterion goes on from them, and from
    the history as it was written, as this one would have.
    """
    found, taken = None, []
    for n, moment in enumerate(case.moments):
        history = [from_json(to_json(record)) for record in past(case.moments, n)]
        new, decision = attrs.evolve(case.part).decide(found, history, list(moment.proposals))
        taken.append(decision)
        try:
            found = json.loads(json.dumps(new))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"state: after record {n} the state is {new!r}: {error}") from error
    agree("state", decisions(case.part, case.moments), taken, "if it is taken up each time")


@law("criterion.history", "what it has seen is kept in the class or the module, not in the state")
def history(case: Case) -> None:
    """A decision follows from state, history and proposals alone: not from another search that is decided by the same criterion in
    between, nor from what comes later.
    """
    other = case.data.draw(histories("clock" in case.part.reads))
    pairs = itertools.zip_longest(said(case.part, case.moments), said(case.part, other))
    between = [mine[1] for mine, _ in pairs if mine is not None]
    agree("history", decisions(case.part, case.moments), between, "with another search in between")


@law("criterion.reads", "it reads the clock itself, or `seconds`, without `reads`")
def reads(case: Case) -> str | None:
    """The reading of the clock is all that a criterion knows of time, and only where it declares that it reads the clock."""
    unknown = set(case.part.reads) - {"clock"}
    demand("reads", not unknown, f"it reads {', '.join(sorted(unknown))}; the search gives the reading of the clock alone")
    with _no_clock():
        plain = decisions(case.part, case.moments)
        later = decisions(
            case.part,
            rewritten(case.moments, lambda r: attrs.evolve(r, seconds=7.0 + r.updates) if isinstance(r, EpochEnded) else r),
        )
    if "clock" in case.part.reads:
        return "it need not declare the clock: nothing depended on it" if plain == later else None
    agree("reads", plain, later, "with other `seconds`")
    return None


@contextlib.contextmanager
def _no_clock() -> Iterator[None]:
    def forbidden() -> float:
        raise AssertionError("reads: it reads the clock, not `seconds` in the records")

    clocks = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "process_time")
    with contextlib.ExitStack() as stack:
        for name in clocks:
            stack.enter_context(patch.object(time, name, forbidden))
        yield


@law("criterion.nonfinite", "the least of losses is taken with min(), which keeps a NaN that comes first")
def nonfinite(case: Case) -> None:
    """A validation loss that is NaN or infinite is no improvement: it is decided as after one that is worse than all others; or
    the search is stopped.
    """
    worst = 2 * max((m.record.valid for m in case.moments if m.record.valid is not None), default=1.0)

    def tamed(record: Any) -> Any:
        finite = {"diverged": False} if isinstance(record, EpochEnded) else {}
        return attrs.evolve(record, valid=worst, **finite) if record.valid is None else record

    tame = rewritten(case.moments, tamed)
    pairs = zip(decisions(case.part, case.moments), decisions(case.part, tame), strict=True)
    for n, (found, honest) in enumerate(pairs):
        if found.action != honest.action:
            demand("nonfinite", found.action == "stop", f"after record {n} it says {found}; with {worst} for each, {honest}")
            break


@law("criterion.unvalidated", "it reads `valid` of every epoch, which is not there where nothing is held out")
def unvalidated(case: Case) -> None:
    """Where the task holds nothing out, a criterion decides by what there is, or raises a NasframeError that says what it lacks."""
    epochs = [m.record for m in case.moments if isinstance(m.record, EpochEnded)]
    place: dict[str, Any] = {"stage": 0, "phase": "retune", "valid": None, "scores": {}, "diverged": False}
    bare = [attrs.evolve(record, epoch=n, **place) for n, record in enumerate(epochs)]
    try:
        decisions(case.part, [Moment(record) for record in bare])
    except NasframeError as error:
        demand("unvalidated", bool(str(error)), "its error says nothing")
    except Exception as error:
        raise AssertionError(f"unvalidated: it fails with {type(error).__name__}: {error}") from error


@law("criterion.limits", "it compares with > where >= is right, or reads what came before the last record")
def limits(case: Case) -> str | None:
    """Once what a criterion declares in `limits` has come as far as its option says, it says stop after every stage."""
    claimed = dict(case.part.limits)
    for option, what in claimed.items():
        demand("limits", hasattr(case.part, option), f"`limits` names {option!r}, which is no option")
        for n, value, bound, decision in _beyond(case, option, what):
            demand("limits", decision.action == "stop", f"after record {n}, with {what} {value} of {bound}, it says {decision}")
    free = {f.name: [*_beyond(case, f.name, f.name)] for f in attrs.fields(type(case.part)) if f.name not in claimed}
    kept = [name for name, found in free.items() if found and all(d.action == "stop" for *_, d in found)]
    if not claimed and not any(free.values()):
        raise Inapplicable("it declares no `limits`")
    return f"it may claim `limits` of {', '.join(kept)}" if kept else None


def _beyond(case: Case, option: str, what: str) -> Iterator[tuple[int, float, float, Decision]]:
    """The stages at whose end so much has been reached, and what was said then."""
    bound = getattr(case.part, option)
    for n, decision in enumerate(decisions(case.part, case.moments)):
        records = reversed(past(case.moments, n))
        told = next((v for r in records if (v := getattr(r, what, None)) is not None), None)
        value = min(told.values()) if isinstance(told, Mapping) else told
        if case.moments[n].staged and isinstance(bound, int | float) and value is not None and value >= bound:
            yield n, value, bound, decision


@law("criterion.budget", "the cost of the proposal that is grown is left out, or that of another one is taken")
def budget(case: Case) -> None:
    """No growth that a criterion with a `budget` lets pass takes the network beyond so many parameters."""
    if case.part.budget is None:
        raise Inapplicable("it declares no `budget`")
    bound = getattr(case.part, case.part.budget)
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        if moment.proposals and decision.action != "stop":
            best = max(moment.proposals, key=lambda p: p.gain)
            chosen = best if decision.what is None else moment.proposals[decision.what]
            grown = moment.record.parameters + chosen.cost
            demand("budget", grown <= bound, f"{decision} makes a network of {grown} parameters, of {bound}")


@law("criterion.cooldown", "epochs are counted from 0 in the records, and not from 1")
def cooldown(case: Case) -> None:
    """A criterion with a `cooldown` does not end a phase before so many epochs of it are over."""
    if case.part.cooldown is None:
        raise Inapplicable("it declares no `cooldown`")
    least = getattr(case.part, case.part.cooldown)
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        if not moment.staged and (over := moment.record.epoch + 1) < least:
            quiet = decision.action in ("wait", "abstain")
            demand("cooldown", quiet, f"after {over} epochs of {least} it says {decision}")


@attrs.frozen
class _Script(GrowthCriterion):
    """Says one thing after the other, over and over: its state is how often it was asked."""

    name: ClassVar[str] = "script"
    actions: tuple[str, ...]

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """The next one; where a stage is over, it has no opinion instead of waiting."""
        asked = state or 0
        action = self.actions[asked % len(self.actions)]
        staged = action == "wait" and isinstance(history[-1], StageEnded)
        return asked + 1, Decision("abstain" if staged else action, "so it is written")


@law("criterion.composed", "it defines `|` or `&` anew, or a composition hands one part's state to another")
def composed(case: Case) -> None:
    """`a | b` says the strongest and `a & b` the weakest of what its parts say, stop before grow before wait, with that part's reason
    and choice; a part that abstains is not asked, each part keeps its own state, and what any part reads is read.
    """
    script = _Script(tuple(case.data.draw(st.lists(st.sampled_from(["abstain", *ACTIONS]), min_size=1, max_size=3))))
    part, other = (case.part, script), (script, case.part)
    found: list[tuple[GrowthCriterion, Any, Sequence[GrowthCriterion]]] = [
        (case.part | script, max, part),
        (case.part & script, min, part),
        (script | case.part, max, other),
        (script & case.part, min, other),
    ]
    if isinstance(case.part, AnyOf | AllOf):
        found.append((case.part, max if isinstance(case.part, AnyOf) else min, case.part.parts))
    for criterion, choose, parts in found:
        demand("composed", criterion.reads == frozenset().union(*(p.reads for p in parts)), f"it reads {set(criterion.reads)}")
        spoken = zip(*(decisions(p, case.moments) for p in parts), strict=True)
        voices = [[d for d in each if d.action != "abstain"] for each in spoken]
        told = [choose(each, key=lambda d: ACTIONS.index(d.action)) if each else Decision("abstain") for each in voices]
        agree("composed", told, decisions(criterion, case.moments), f"as {criterion.name} of its parts it says")
