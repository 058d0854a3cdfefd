"""Criteria are pure, compose, and give the reason of the side that decided."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given, strategies as st
from nasframe_growing import Epochs, MaxNodes, MaxParameters, MaxSeconds, MaxUpdates, NoBetter, Patience
from toy import toy_strategy

from nasframe import Decision, Proposal, Search
from nasframe.interfaces.criterion import ABSTAIN, ACTIONS
from nasframe.records import EpochEnded, StageEnded
from nasframe.search.loop import Loop
from nasframe.search.state import initial

LOSSES = st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=12)


def epochs(losses: list[float], stage: int = 0, phase: str = "search") -> list[EpochEnded]:
    common = {"stage": stage, "phase": phase, "nodes": {"layer0": 1}, "parameters": 10, "train": 0.0}
    return [EpochEnded(**common, epoch=i, updates=i, valid=loss) for i, loss in enumerate(losses)]


def stages(losses: list[float], nodes: int = 1) -> list[StageEnded]:
    common = {"phase": "judge", "epoch": 0, "updates": 5, "nodes": {"layer0": nodes, "layer1": nodes + 1}, "parameters": 10}
    return [StageEnded(**common, stage=i, valid=loss) for i, loss in enumerate(losses)]


def said(criterion, history, proposals=()) -> Decision:
    return criterion.decide(None, history, proposals)[1]


@given(LOSSES, st.integers(1, 5))
def test_patience_counts_epochs_since_the_best(losses: list[float], patience: int) -> None:
    """It grows when, and only when, the least loss of this phase lies `patience` epochs back; other phases do not count."""
    history = [*epochs([0.0] * 7, stage=0), *epochs(losses, stage=1)]
    expected = "grow" if len(losses) - 1 - losses.index(min(losses)) >= patience else "wait"

    assert said(Patience(patience), history).action == expected


@given(LOSSES)
def test_no_better_compares_a_stage_with_all_before(losses: list[float]) -> None:
    """It stops when, and only when, the last stage is not better than every one before it."""
    better = len(losses) == 1 or losses[-1] < min(losses[:-1])

    assert said(NoBetter(), stages(losses)).action == ("grow" if better else "stop")


DECISIONS = st.sampled_from([ABSTAIN, *(Decision(a, f"because {a}") for a in ACTIONS)])


class Says(Patience):
    """Says what it is told to."""

    def __init__(self, decision: Decision) -> None:
        object.__setattr__(self, "decision", decision)

    def decide(self, state, history, proposals):
        return (state or 0) + 1, self.decision


@given(st.lists(DECISIONS, min_size=1, max_size=4))
def test_any_takes_the_strongest_and_all_the_weakest(decisions: list[Decision]) -> None:
    """The reason is that of a part that said it; parts that abstain are not asked; each part keeps its own state."""
    parts = [Says(d) for d in decisions]
    either, both = parts[0], parts[0]
    for part in parts[1:]:
        either, both = either | part, both & part
    spoken = [ACTIONS.index(d.action) for d in decisions if d != ABSTAIN]
    for criterion, choose in ((either, max), (both, min)):
        decision = said(criterion, epochs([1.0]))

        assert decision == (Decision(a := ACTIONS[choose(spoken)], f"because {a}") if spoken else ABSTAIN)
    if len(parts) > 1:
        state, _ = either.decide(None, epochs([1.0]), ())
        state, _ = either.decide(json.loads(json.dumps(state)), epochs([1.0]), ())
        assert state[-1] == 2


def test_the_limits_say_which_one_decided() -> None:
    """Nodes, parameters, updates and seconds each stop with a reason that names the limit."""
    small, large = Proposal({"cell": "a"}, gain=1.0, cost=5), Proposal({"cell": "b"}, gain=2.0, cost=50)

    assert said(MaxNodes(2), stages([1.0], nodes=1)) == ABSTAIN
    assert said(MaxNodes(2), stages([1.0], nodes=2)) == Decision("stop", "every cell has 2 nodes or more")
    assert said(MaxParameters(100), stages([1.0]), [small, large]) == ABSTAIN
    assert said(MaxParameters(20), stages([1.0]), [large, small]) == Decision("grow", "the best growth within 20 parameters", 1)
    assert said(MaxParameters(12), stages([1.0]), [small]) == Decision("stop", "every growth would exceed 12 parameters")
    assert said(MaxUpdates(3), epochs([1.0] * 3)) == ABSTAIN
    assert said(MaxUpdates(3), epochs([1.0] * 4)) == Decision("stop", "the weights have been updated 3 times")
    tuning = [*epochs([1.0] * 4), *epochs([1.0] * 6, phase="retune")]
    assert said(MaxUpdates(3), tuning) == ABSTAIN
    assert said(MaxUpdates(2), tuning) == Decision("stop", "the weights have been updated 2 times")
    assert said(MaxUpdates(3), [*tuning, *stages([1.0])]).action == "stop"
    late = [attrs.evolve(epochs([1.0])[0], seconds=61.2)]
    assert said(MaxSeconds(60), late) == Decision("stop", "the search has run for 61 seconds")
    assert said(MaxSeconds(62), late) == ABSTAIN


@pytest.mark.parametrize("prune", ["stage", "end"])
def test_a_limit_in_the_midst_of_a_stage_ends_with_that_stage(prune: str) -> None:
    """A search that is told to stop while it trains still prunes, tunes and gives an architecture."""
    search = Search(toy_strategy(prune=prune, criterion=Patience(1) | MaxUpdates(4)))
    network = search.run()

    assert network.structure.decided
    assert search.state.stage == 0
    (judged,) = [r for r in search.state.history if isinstance(r, StageEnded)]
    assert judged.reason.startswith("the weights have been updated ")


def test_a_growth_that_nobody_stops_has_the_reason_of_the_epoch() -> None:
    """That is why it comes now."""
    search = Search(toy_strategy(criterion=Epochs(2) | MaxNodes(2)))
    search.run()
    judged = [r.reason for r in search.state.history if isinstance(r, StageEnded)]

    assert judged == ["2 epochs are over, and no criterion says stop", "every cell has 2 nodes or more"]


def test_a_clock_is_read_only_for_a_criterion_that_asks() -> None:
    """The reading is in the record, so that the decision can be replayed; the time goes on where a run was taken up."""
    strategy = toy_strategy(criterion=Patience(1) | MaxSeconds(1e6))
    ticks = iter(range(0, 10000, 10))
    search = Search(strategy)
    state = initial(strategy, search.data)
    for _ in Loop(strategy, search.data, clock=lambda: float(next(ticks))).run(state):
        if len(state.history) == 2:
            break
    seconds = [r.seconds for r in state.history if isinstance(r, EpochEnded)]
    assert seconds == sorted(seconds)
    for _ in Loop(strategy, search.data, clock=lambda: float(next(ticks))).run(state):
        if len(state.history) == 4:
            break
    later = [r.seconds for r in state.history if isinstance(r, EpochEnded)]

    assert later == sorted(later)
    assert later[len(seconds)] > seconds[-1]

    def forbidden() -> float:
        raise AssertionError("the clock was read")

    plain = toy_strategy()
    for _ in Loop(plain, search.data, clock=forbidden).run(initial(plain, search.data)):
        pass
