"""The laws of growth criteria: tried on histories as a search writes them, in some epochs of which the training diverges."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar
from unittest.mock import patch

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Decision, GrowthCriterion, NasframeError, Proposal, Strategy
from nasframe.interfaces.criterion import FLAGS, NEXT, AllOf, AnyOf
from nasframe.records import EpochEnded, Record, StageEnded, from_json, to_json
from nasframe.testing.cases import Case as AnyCase
from nasframe.testing.compare import require, same
from nasframe.testing.fakes import AdamDescent, Chain, Endless, Keep, Noise
from nasframe.testing.histories import Moment, histories, history_at
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.saved import saved
from nasframe.testing.strategies import cached
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """A criterion and a history."""

    moments: tuple[Moment, ...]

    def __str__(self) -> str:
        return f"{super().__str__()} after {'; '.join(map(str, self.moments))}"


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the criterion on any history, whose records have the readings that it measures."""
    assert subject.parts is not None
    of = st.just(subject)

    def search(part: GrowthCriterion) -> SearchStrategy[Case]:
        return st.builds(Case, subject=of, part=st.just(part), moments=histories(readings(part)), data=st.data())

    return subject.parts.flatmap(search)


@cached
def _searched() -> TrainedNetwork:
    """Return a network in a small search, on which criteria measure."""
    return TrainedNetwork.of(
        Strategy(
            task=Noise((("inputs", 3), ("outputs", 2)), (-1, 3), (-1, 2)),
            backbone=Chain(),
            architect=AdamDescent(),
            criterion=Endless(),
            pruner=Keep(),
            nodes=2,
            batch=4,
            dtype="float64",
        ),
        steps=5,
    )


@cached
def readings(criterion: GrowthCriterion) -> tuple[str, ...]:
    """Return the names of what a criterion measures."""
    return (*_searched().copy().measured(criterion.measure)[0],)


def steps(criterion: GrowthCriterion, moments: Sequence[Moment]) -> Iterator[tuple[Any, Decision]]:
    """Yield the state and the decision of a criterion at each moment."""
    state = None
    for n, moment in enumerate(moments):
        state, decision = criterion.decide(state, history_at(moments, n), list(moment.proposals))
        yield state, decision


def decisions(criterion: GrowthCriterion, moments: Sequence[Moment]) -> list[Decision]:
    """Return the decision of a criterion at each moment."""
    return [decision for _, decision in steps(criterion, moments)]


def with_records(moments: Sequence[Moment], change: Callable[[Any], Any]) -> list[Moment]:
    """Return the moments with changed records."""
    return [attrs.evolve(m, record=change(m.record)) for m in moments]


def exercise(case: Case) -> dict[str, Any]:
    """Return what it measures, and all states and decisions."""
    found = enumerate(steps(case.part, case.moments))
    measured = {"the readings": dict(_searched().copy().measured(case.part.measure)[0])}
    return measured | {f"the decision at record {n}": copy.deepcopy([state, attrs.astuple(d)]) for n, (state, d) in found}


def require_equal(first: Sequence[Decision], again: Sequence[Decision], where: str) -> None:
    """Raise an AssertionError unless the decisions are the same."""
    for n, (one, other) in enumerate(zip(first, again, strict=True)):
        require(one == other, f"at record {n} it decides {one}, but {where} {other}")


@law("criterion.legal", "it gives no reason, ends a phase at the end of a stage, or counts the proposals from one")
def legal(case: Case) -> None:
    """A decision is one that the search can carry out.

    Its `next` is None, "continue", "end" or "stop"; after a stage it is not "end", and "continue" may choose a proposal by its
    position. It changes the network after an epoch only. Whatever ends or changes something has a reason.
    """
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        known = (None, "continue", "stop") if moment.ends_stage else (None, *NEXT)
        where = f"after {'a stage' if moment.ends_stage else 'an epoch'} it decides {decision}"
        require(decision.next in known, f"{where}, which is none of {', '.join(map(str, known))}")
        require(decision.change is None or not moment.ends_stage, f"{where}, where no change of a phase can be made")
        given = decision.next in ("end", "stop") or decision.change or (moment.ends_stage and decision.next is not None)
        require(bool(decision.reason) or not given, f"{where} without a reason")
        choices = range(len(moment.proposals)) if decision.next == "continue" else range(0)
        require(decision.what is None or decision.what in choices, f"{where}, but there are {len(choices)} proposals to grow")


@law("criterion.pure", "it appends to its state, or sorts the proposals, in place")
def pure(case: Case) -> None:
    """A criterion does not change its last state, the history or the proposals."""
    state = None
    for n, moment in enumerate(case.moments):
        history, proposals = history_at(case.moments, n), list(moment.proposals)
        before = copy.deepcopy([state, history, [p.request for p in proposals]])
        given = state
        state, _ = case.part.decide(given, history, proposals)
        after = [given, history, [p.request for p in proposals]]
        for what, then, now in zip(("its last state", "the history", "a proposal"), before, after, strict=True):
            require(same(then, now), f"at record {n} it changes {what}")
        moved = any(a is not b for a, b in zip(proposals, moment.proposals, strict=True))
        require(not moved, f"at record {n} it changes the order of the proposals")


@law("criterion.state", "the state holds a tuple, a set, or whole numbers as keys, or something is kept in the object")
def state(case: Case) -> None:
    """The state consists of JSON values, and a criterion that continues from the JSON decides as before."""
    found, resumed = None, []
    for n, moment in enumerate(case.moments):
        # At each record everything is written and read back, and the part is made anew, as if the run were resumed there.
        history = [from_json(to_json(record)) for record in history_at(case.moments, n)]
        new, decision = attrs.evolve(case.part).decide(found, history, list(moment.proposals))
        resumed.append(decision)
        try:
            found = json.loads(json.dumps(new, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"at record {n} the state is {new!r}: {error}") from error
    require_equal(decisions(case.part, case.moments), resumed, "if it is resumed at each record")


@law("criterion.history", "what it has seen is kept in the class or the module, not in the state")
def history(case: Case) -> None:
    """A decision follows from state, history and proposals alone, not from another search or from what comes later."""
    # another search whose records come between those of the first
    other = case.data.draw(histories(readings(case.part)))
    pairs = itertools.zip_longest(steps(case.part, case.moments), steps(case.part, other))
    alternating = [pair[0][1] for pair in pairs if pair[0] is not None]
    require_equal(decisions(case.part, case.moments), alternating, "with another search in between")


@law("criterion.reads", "`decide` reads the clock, or readings that `measure` does not return")
def reads(case: Case) -> None:
    """A criterion decides by what it measured and by the records, not by a clock or by what other criteria measure."""
    names = readings(case.part)

    def with_others(record: Any) -> Any:
        # Criteria that are combined share their readings, so that a criterion sees those of the others.
        others = {name: 7.0 + record.updates for name in ("seconds", "another") if name not in names}
        return attrs.evolve(record, readings={**record.readings, **others})

    with _no_clock():
        plain = decisions(case.part, case.moments)
        require_equal(plain, decisions(case.part, with_records(case.moments, with_others)), "with readings of other criteria")


@law("criterion.measured", "`measure` returns tensors or names that change, or it trains the network of the search")
def measured(case: Case) -> None:
    """A criterion measures numbers, always of the same names; measuring changes nothing and does not read the test split."""
    search = _searched().copy().without_test_split()
    before = saved(search.state)
    found, _ = search.measured(case.part.measure)
    wrong = {name: value for name, value in found.items() if type(value) not in (int, float)}
    require(not wrong, f"it returns {wrong}; only numbers (int or float) can be written to the record")
    require([*found] == [*readings(case.part)], f"it returns {', '.join(found)}, and before {', '.join(readings(case.part))}")
    require(same(before, saved(search.state)), "measuring changes the search")


@contextlib.contextmanager
def _no_clock() -> Iterator[None]:
    def forbidden() -> float:
        raise AssertionError("it reads the clock in `decide`; let `measure` return context.clock(), and decide by the reading")

    # Whoever reads one of these decides otherwise in a replay. A criterion that needs the time measures it, so that it is
    # stored.
    clocks = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "process_time")
    with contextlib.ExitStack() as stack:
        for name in clocks:
            stack.enter_context(patch.object(time, name, forbidden))
        yield


@law("criterion.nonfinite", "a missing validation loss is taken for a number, for example for 0 or for the best one so far")
def nonfinite(case: Case) -> None:
    """An epoch or stage in which the training diverged is never an improvement.

    After it the criterion may decide as it likes, but not grow a stage that it would not grow if its loss were the worst of
    all. Later records are judged as if the diverged ones had been the worst of all, had not happened, or had ended everything
    before them: so a criterion that needs several losses in a row may wait until it has them.
    """
    # worse than any finite loss of the history
    worst = 2 * max((m.record.valid for m in case.moments if m.record.valid is not None), default=1.0)

    def bad(record: Any) -> Any:
        finite = {"diverged": False} if isinstance(record, EpochEnded) else {}
        return attrs.evolve(record, valid=worst, **finite) if record.valid is None else record

    as_worst = decisions(case.part, with_records(case.moments, bad))
    for n, found in enumerate(decisions(case.part, case.moments)):
        # A history with a diverged record is compared with others that a user would take for equal: with the worst loss in
        # its place, without it, and beginning behind it.
        wanted = {as_worst[n].next}
        if case.moments[n].record.valid is None:
            wanted |= {"stop", None} if case.moments[n].ends_stage else {None, *NEXT}
        elif found.next not in wanted:
            finite = [k for k in range(n) if case.moments[k].record.valid is not None]
            last = max((k for k in range(n) if case.moments[k].record.valid is None), default=-1)
            for kept in (finite, range(last + 1, n)):
                rest = [*(case.moments[k] for k in kept), case.moments[n]]
                wanted.add(decisions(case.part, rest)[-1].next)
        if found.next == "stop" and as_worst[n].next != "stop":
            return  # it ends the search because the training diverged
        message = f"at record {n} it decides {found}, where it should decide one of {', '.join(sorted(map(str, wanted)))}"
        require(found.next in wanted, message)


@law("criterion.unvalidated", "it reads `valid` of every epoch, which is None if there is no validation split")
def unvalidated(case: Case) -> None:
    """Without a validation split a criterion decides by the other fields, or raises a NasframeError with a message."""
    # As in a retraining on all examples, which has one phase and no validation split.
    epochs = [m.record for m in case.moments if isinstance(m.record, EpochEnded)]
    place: dict[str, Any] = {"stage": 0, "phase": "retune", "valid": None, "scores": {}, "diverged": False}
    bare = [attrs.evolve(record, epoch=n, **place) for n, record in enumerate(epochs)]
    try:
        decisions(case.part, [Moment(record) for record in bare])
    except NasframeError as error:
        require(bool(str(error)), "its error has no message")
    except Exception as error:
        raise AssertionError(f"it fails with {type(error).__name__}: {error}") from error


@law("criterion.ends", "`ends` lacks what it can end, which is what a search is refused by")
def ends(case: Case) -> None:
    """A criterion ends only what it declares in `ends`: a phase, the search, or neither."""
    unknown = {*case.part.ends} - {"phase", "search"}
    require(not unknown, f"`ends` has {', '.join(sorted(unknown))}; it may have 'phase' and 'search'")
    for n, (moment, decision) in enumerate(zip(case.moments, decisions(case.part, case.moments), strict=True)):
        # A "stop" after an epoch ends the phase as well.
        now = {"search"} if decision.next == "stop" else set()
        now |= {"phase"} if decision.next in ("end", "stop") and not moment.ends_stage else set()
        require(now <= {*case.part.ends}, f"at record {n} it decides {decision}; `ends` is {sorted(case.part.ends)}")


@law("criterion.limits", "it compares with > where >= is right, or reads an older record than the last one")
def limits(case: Case) -> str | None:
    """Once a field or a reading of the records has reached the option that `limits` names for it, a criterion stops after every stage."""
    claimed = dict(case.part.limits)
    for option, field in claimed.items():
        require(hasattr(case.part, option), f"`limits` names {option!r}, which is no option")
        for n, value, bound, decision in _beyond(case, option, field):
            require(decision.next == "stop", f"at record {n}, with {field} {value} of {bound}, it decides {decision}")
    # An option with the name of a field may be a limit that is not declared; it is reported as a remark.
    free = {f.name: [*_beyond(case, f.name, f.name)] for f in attrs.fields(type(case.part)) if f.name not in claimed}
    kept = [name for name, found in free.items() if found and all(d.next == "stop" for *_, d in found)]
    if not claimed and not any(free.values()):
        raise Inapplicable("it declares no `limits`")
    return f"it could declare `limits` of {', '.join(kept)}" if kept else None


def _beyond(case: Case, option: str, field: str) -> Iterator[tuple[int, float, float, Decision]]:
    """Yield the stages at whose end a field has reached an option: record, value, option and decision."""
    bound = getattr(case.part, option)
    for n, decision in enumerate(decisions(case.part, case.moments)):
        records = reversed(history_at(case.moments, n))
        value = next((v for r in records if (v := _field(r, field)) is not None), None)
        # Of numbers by cell type, the smallest: a limit is reached when every type has reached it.
        least = min(value.values()) if isinstance(value, Mapping) else value
        if case.moments[n].ends_stage and isinstance(bound, int | float) and least is not None and least >= bound:
            yield n, least, bound, decision


def _field(record: Any, name: str) -> Any:
    return getattr(record, name, record.readings.get(name))


@law("criterion.budget", "the cost of the proposal that is grown is left out, or that of another one is taken")
def budget(case: Case) -> None:
    """A criterion with a `budget` admits no growth that takes the number of parameters beyond that option."""
    if case.part.budget is None:
        raise Inapplicable("it declares no `budget`")
    bound = getattr(case.part, case.part.budget)
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        if moment.proposals and decision.next != "stop":
            best = max(moment.proposals, key=lambda p: p.gain)
            chosen = best if decision.what is None else moment.proposals[decision.what]
            grown = moment.record.parameters + chosen.cost
            require(grown <= bound, f"{decision} leads to {grown} parameters, of {bound}")


@law("criterion.affords", "it compares in the wrong direction, or counts how often it was called")
def affords(case: Case) -> None:
    """A criterion that affords no trial affords none after more updates or more time, and answers the same question alike."""
    amounts = [0, *(2**n for n in range(24))]
    spent = {"updates": [(n, 0.0) for n in amounts], "seconds": [(0, float(n)) for n in amounts]}

    def answers(unit: str) -> list[bool]:
        return [case.part.affords(updates, partial(float, seconds)) for updates, seconds in spent[unit]]

    limited = {unit: found for unit in spent if not all(found := answers(unit))}
    if not limited:
        raise Inapplicable("it does not limit trials")
    for unit, found in limited.items():
        again, first = answers(unit), found.index(False)
        require(again == found, f"asked twice, it answers {found} and {again} after {amounts} {unit}")
        later = [amount for amount, answer in zip(amounts[first:], found[first:], strict=True) if answer]
        require(not later, f"it affords no trial after {amounts[first]} {unit}, and one after {later}")


@law("criterion.cooldown", "it takes the field `epoch` for a number of epochs, but the first epoch is 0")
def cooldown(case: Case) -> None:
    """A criterion with a `cooldown` does not end a phase before it has had so many epochs."""
    if case.part.cooldown is None:
        raise Inapplicable("it declares no `cooldown`")
    least = getattr(case.part, case.part.cooldown)
    for moment, decision in zip(case.moments, decisions(case.part, case.moments), strict=True):
        if not moment.ends_stage and (epochs := moment.record.epoch + 1) < least:
            require(decision.next in (None, "continue"), f"after {epochs} epochs of {least} it decides {decision}")


@law("criterion.flags", "`flags` has an option and its flag in the wrong order, or the option counts something else")
def flags(case: Case) -> None:
    """An option that a flag of the command line sets does what the flag says.

    With `epochs`, the criterion ends each phase after so many epochs; with `budget`, it stops once so many updates were made.
    """
    if not case.part.flags:
        raise Inapplicable("it declares no `flags`")
    for flag, option in case.part.flags.items():
        require(flag in FLAGS, f"`flags` has {flag!r}; the flags that set a criterion are {' and '.join(FLAGS)}")
        require(hasattr(case.part, option), f"`flags` names {option!r}, which is no option")
        for n, moment in enumerate(case.moments):
            # the flag's number is what has been reached at this moment
            reached = moment.record.epoch + 1 if flag == "epochs" else moment.record.updates
            if flag == "epochs" and moment.ends_stage:
                continue
            decision = decisions(attrs.evolve(case.part, **{option: reached}), case.moments[: n + 1])[-1]
            wanted = ("end", "stop") if flag == "epochs" else ("stop",)
            require(decision.next in wanted, f"at record {n}, with {option} = {reached} reached, it decides {decision}")


@attrs.frozen
class _Script(GrowthCriterion):
    """A criterion with given decisions, which it repeats: its state counts the calls."""

    name: ClassVar[str] = "script"
    answers: tuple[tuple[str | None, bool | None], ...]

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return the next decision; after a stage, where no phase is left to end or to change, it abstains instead."""
        calls = state or 0
        next, change = self.answers[calls % len(self.answers)]
        if isinstance(history[-1], StageEnded):
            next, change = None if next == "end" else next, None
        return calls + 1, Decision(next, change, f"example {calls}")


@law("criterion.composed", "it overrides `|` or `&`, or a composition gives one part the state of another")
def composed(case: Case) -> None:
    """`a | b` decides the strongest and `a & b` the weakest of what its parts decide: stop, then end, then continue.

    In the same way `a | b` changes the network if one of them wants to, and `a & b` if both do. A part that leaves a question open
    does not count for it. The reason and the choice are those of the first part whose answer is taken; the reason is that of a
    change if one is made and the phase goes on. Each part has its state, and the composition measures what any of its parts
    measures.
    """
    answers = st.tuples(st.sampled_from([None, *NEXT]), st.sampled_from([None, False, True]))
    script = _Script(tuple(case.data.draw(st.lists(answers, min_size=1, max_size=3))))
    part, other = (case.part, script), (script, case.part)
    # In both orders, as the first of equal answers gives the reason.
    compositions: list[tuple[GrowthCriterion, Any, Sequence[GrowthCriterion]]] = [
        (case.part | script, max, part),
        (case.part & script, min, part),
        (script | case.part, max, other),
        (script & case.part, min, other),
    ]
    if isinstance(case.part, AnyOf | AllOf):
        compositions.append((case.part, max if isinstance(case.part, AnyOf) else min, case.part.parts))
    for criterion, choose, parts in compositions:
        wanted_readings = {name for p in parts for name in readings(p)}
        require(
            set(readings(criterion)) == wanted_readings, f"it measures {set(readings(criterion))}, its parts {wanted_readings}"
        )
        by_record = zip(*(decisions(p, case.moments) for p in parts), strict=True)
        wanted = [_chosen(each, choose) for each in by_record]
        require_equal(wanted, decisions(criterion, case.moments), f"as {criterion.name} of its parts")


def _chosen(each: Sequence[Decision], choose: Callable[..., Any]) -> Decision:
    """Return the decision of several."""
    nexts = [NEXT.index(d.next) for d in each if d.next is not None]
    changes = [d.change for d in each if d.change is not None]
    next, change = NEXT[choose(nexts)] if nexts else None, choose(changes) if changes else None
    first = [d for d in each if d.next is not None and d.next == next]
    why = [d for d in each if change and d.change] if next in (None, "continue") and change else first
    return Decision(next, change, why[0].reason if why else "", first[0].what if first else None)
