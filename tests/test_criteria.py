"""Criteria decide by the history alone, compose, and give the reason of the part that decided."""

from __future__ import annotations

import json
from functools import partial

import attrs
import pytest
from hypothesis import given, strategies as st
from nasframe_growing import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from toy import toy_strategy

from nasframe import Decision, GrowthCriterion, Proposal, Search
from nasframe.interfaces.criterion import ABSTAIN, NEXT
from nasframe.records import EpochEnded, StageEnded
from nasframe.search.loop import Loop
from nasframe.search.state import initial
from nasframe.testing.fakes import Endless

LOSSES = st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=12)


def epochs(losses: list[float], stage: int = 0, phase: str = "search") -> list[EpochEnded]:
    common = {"stage": stage, "phase": phase, "nodes": {"layer0": 1}, "parameters": 10, "train": 0.0}
    common |= {"moves_alphas": phase == "search"}
    return [EpochEnded(**common, epoch=i, updates=i + 1, valid=loss) for i, loss in enumerate(losses)]


def stages(losses: list[float], nodes: int = 1) -> list[StageEnded]:
    common = {"phase": "judge", "epoch": 0, "updates": 5, "nodes": {"layer0": nodes, "layer1": nodes + 1}, "parameters": 10}
    return [StageEnded(**common, stage=i, valid=loss) for i, loss in enumerate(losses)]


def decided(criterion, history, proposals=()) -> Decision:
    return criterion.decide(None, history, proposals)[1]


@given(LOSSES, st.integers(1, 5))
def test_patience_counts_epochs_since_the_best(losses: list[float], patience: int) -> None:
    """Patience ends a phase exactly when the least loss of this phase is `patience` epochs back; other phases do not count."""
    history = [*epochs([0.0] * 7, stage=0), *epochs(losses, stage=1)]
    expected = "end" if len(losses) - 1 - losses.index(min(losses)) >= patience else "continue"

    assert decided(Patience(patience), history).next == expected


@given(LOSSES)
def test_no_better_compares_a_stage_with_all_before(losses: list[float]) -> None:
    """The criterion stops exactly when the last stage is not better than every stage before it."""
    better = len(losses) == 1 or losses[-1] < min(losses[:-1])

    assert decided(NoBetter(), stages(losses)).next == ("continue" if better else "stop")


@given(LOSSES, st.integers(1, 3))
def test_a_criterion_ends_what_it_declares(losses: list[float], limit: int) -> None:
    """Outside of what it declares in `ends`, no shipped criterion ends anything; combined, they can end what any of them can."""
    shipped = [Patience(limit), Epochs(limit), NoBetter(), MaxNodes(limit), MaxParameters(5), MaxUpdates(limit)]
    for criterion in shipped:
        after_epoch = decided(criterion, epochs(losses)).next
        assert after_epoch not in ("end", "stop") or "phase" in criterion.ends
        assert after_epoch != "stop" or "search" in criterion.ends
        assert decided(criterion, [*epochs(losses), *stages(losses)]).next != "stop" or "search" in criterion.ends

    assert (Patience() | NoBetter()).ends == (Patience() & NoBetter()).ends == {"phase", "search"}
    assert (MaxNodes(1) | NoBetter()).ends == {"search"}


DECISIONS = st.builds(
    lambda next, change: Decision(next, change, f"because {next} {change}"),
    st.sampled_from([None, *NEXT]),
    st.sampled_from([None, False, True]),
)


class Fixed(Patience):
    """A criterion with a fixed decision, whose state counts its calls."""

    def __init__(self, decision: Decision) -> None:
        object.__setattr__(self, "decision", decision)

    def decide(self, state, history, proposals):
        return (state or 0) + 1, self.decision


@given(st.lists(DECISIONS, min_size=1, max_size=4))
def test_any_takes_the_strongest_and_all_the_weakest(decisions: list[Decision]) -> None:
    """Both answers are chosen apart among the parts that give one, and each part has its state."""
    parts = [Fixed(d) for d in decisions]
    either, both = parts[0], parts[0]
    for part in parts[1:]:
        either, both = either | part, both & part
    nexts = [NEXT.index(d.next) for d in decisions if d.next is not None]
    changes = [d.change for d in decisions if d.change is not None]
    for criterion, choose in ((either, max), (both, min)):
        decision = decided(criterion, epochs([1.0]))

        assert decision.next == (NEXT[choose(nexts)] if nexts else None)
        assert decision.change == (choose(changes) if changes else None)
        assert decision.reason in {"", *(d.reason for d in decisions)}
    if len(parts) > 1:
        state, _ = either.decide(None, epochs([1.0]), ())
        state, _ = either.decide(json.loads(json.dumps(state)), epochs([1.0]), ())
        assert state[-1] == 2


def test_any_limit_ends_trials_and_all_must() -> None:
    """Trials begin while the share for tuning is left; of criteria that are joined by `|` one ends them, by `&` all must."""
    updates, seconds = MaxUpdates(40, tuning=0.25), MaxSeconds(40, tuning=0.25)

    def afforded(criterion: GrowthCriterion) -> list[tuple[int, float]]:
        return [(u, s) for u in (0, 30, 31) for s in (0.0, 30.0, 30.5) if criterion.affords(u, partial(float, s))]

    assert afforded(updates) == [(u, s) for u in (0, 30) for s in (0.0, 30.0, 30.5)]
    assert afforded(seconds) == [(u, s) for u in (0, 30, 31) for s in (0.0, 30.0)]
    assert afforded(updates | seconds) == [(u, s) for u in (0, 30) for s in (0.0, 30.0)]
    assert afforded(Patience() | updates) == afforded(updates)
    assert len(afforded(Patience() & updates)) == 9


def test_limits_stop_with_their_reason() -> None:
    """Limits on nodes, parameters, updates and seconds stop with a reason that names the limit."""
    small, large = Proposal({"cell": "a"}, gain=1.0, cost=5), Proposal({"cell": "b"}, gain=2.0, cost=50)

    assert decided(MaxNodes(2), stages([1.0], nodes=1)) == ABSTAIN
    assert decided(MaxNodes(2), stages([1.0], nodes=2)) == Decision("stop", reason="every cell has 2 nodes or more")
    assert decided(MaxParameters(100), stages([1.0]), [large, small]) == ABSTAIN
    assert decided(MaxParameters(20), stages([1.0]), [large, small]) == Decision(
        "continue", reason="the best growth within 20 parameters", what=1
    )
    assert decided(MaxParameters(12), stages([1.0]), [small]) == Decision(
        "stop", reason="every growth would exceed 12 parameters"
    )
    assert decided(MaxUpdates(4), epochs([1.0] * 2)) == ABSTAIN
    assert decided(MaxUpdates(4), epochs([1.0] * 3)) == Decision(
        "stop", reason="3 of 4 updates have been made; one more epoch would leave less than 1 for tuning"
    )
    tuning = [*epochs([1.0] * 3), *epochs([1.0] * 5, phase="retune")]
    assert decided(MaxUpdates(6), tuning) == ABSTAIN
    assert decided(MaxUpdates(5), tuning) == Decision(
        "stop", reason="5 of 5 updates have been made; one more epoch would exceed them"
    )
    assert decided(MaxUpdates(5), [*tuning, *stages([1.0])]).next == "stop"
    (late,) = epochs([1.0])
    assert decided(MaxSeconds(60), [attrs.evolve(late, readings={"seconds": 31.2})]) == Decision(
        "stop", reason="31 of 60 seconds have passed; one more epoch would leave less than 31 for tuning"
    )
    assert decided(MaxSeconds(60), [attrs.evolve(late, readings={"seconds": 19.9})]) == ABSTAIN


@given(st.integers(1, 200), st.integers(1, 9), st.floats(0, 1))
def test_tuning_is_within_the_limit(limit: int, steps: int, share: float) -> None:
    """Searching leaves the share for tuning, and both together stay within the limit if it allows for an epoch of each."""
    criterion = MaxUpdates(limit, tuning=share)
    history: list[EpochEnded] = []
    spent = {}
    for phase in ("search", "retune"):
        while not history or phase != history[-1].phase or decided(criterion, history) == ABSTAIN:
            updates = steps * (len(history) + 1)
            history.append(attrs.evolve(epochs([1.0], phase=phase)[0], updates=updates))
        spent[phase] = history[-1].updates

    assert spent["search"] <= max(steps, (1 - share) * limit)
    assert spent["retune"] <= max(2 * steps, limit)
    assert spent["retune"] > min(2 * steps, limit) - steps  # and the limit is used


@pytest.mark.parametrize("updates", [6, 20])
@pytest.mark.parametrize("plan", ["stage", "end"])
def test_a_search_spends_its_budget_and_no_more(plan: str, updates: int) -> None:
    """If nothing else ends a phase, searching and tuning together make as many updates as the budget allows for."""
    search = Search(toy_strategy(plan=plan, criterion=Endless() | MaxUpdates(updates)))
    search.run()

    assert search.network.structure.decided
    assert search.state.updates == updates // 3 * 3  # in whole epochs
    assert {r.phase for r in search.state.history} == {"search", "judge", "tune" if plan == "stage" else "retune"}


@pytest.mark.parametrize("plan", ["stage", "end"])
def test_a_limit_within_a_stage_ends_the_search_with_this_stage(plan: str) -> None:
    """A search that stops while it trains still prunes and tunes, and returns an architecture."""
    search = Search(toy_strategy(plan=plan, criterion=Patience(1) | MaxUpdates(7)))
    network = search.run()

    assert network.structure.decided
    assert search.state.stage == 0
    (judged,) = [r for r in search.state.history if isinstance(r, StageEnded)]
    assert " of 7 updates have been made; one more epoch would " in judged.reason


def test_a_growth_by_default_has_the_reason_of_the_epoch() -> None:
    """If no criterion decides after a stage, the network grows for the reason that ended the phase."""
    search = Search(toy_strategy(criterion=Epochs(2) | MaxNodes(2)))
    search.run()
    judged = [r.reason for r in search.state.history if isinstance(r, StageEnded)]

    assert judged == ["the phase has trained for 2 epochs, and no criterion says stop", "every cell has 2 nodes or more"]


def test_the_time_goes_on_where_a_run_is_resumed() -> None:
    """The seconds of the run are in each record, and go on from those that an interrupted process had spent."""
    strategy = toy_strategy(criterion=Patience(1) | MaxSeconds(1e6))
    ticks = iter(range(0, 10000, 10))
    search = Search(strategy)
    state = initial(strategy, search.data)
    for records in (2, 4):
        for _ in Loop(strategy, search.data, clock=lambda: float(next(ticks))).run(state):
            if len(state.history) == records:
                break
    seconds = [r.readings["seconds"] for r in state.history]

    assert seconds == sorted(set(seconds))


def test_a_search_without_measuring_criteria_has_no_readings() -> None:
    """No record depends on the clock unless a criterion measures it."""
    search = Search(toy_strategy())
    search.run()

    assert {*map(str, (r.readings for r in search.state.history))} == {"{}"}
