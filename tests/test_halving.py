"""Successive halving: which architectures are trained, for how long, and from which weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given, strategies as st
from nasframe_sampling import SuccessiveHalving

from nasframe import Memory, Request, Seed, Space
from nasframe.records import TrialEnded
from nasframe.testing.fakes import Chain

SEED = Seed(("halving",))
#: 32 architectures
SPACE = Space(Chain().initial({"inputs": 2, "outputs": 1}, nodes=5))
LOSSES = st.one_of(st.none(), st.floats(0, 1, allow_nan=False))


@attrs.frozen
class Trial:
    """A request, and the loss with which its trial ended."""

    request: Request
    picks: tuple[int, ...]
    valid: float | None


def searched(architect: SuccessiveHalving, losses: Mapping[tuple[int, ...], float | None], in_flight: int = 1) -> list[Trial]:
    """Return the trials of a search, whose results arrive one by one with some of them in flight."""
    memory, found, ended, over = architect.start(SPACE, SEED), list[Trial](), 0, False
    while not over or ended < len(found):
        request = None
        if len(found) < ended + in_flight:
            needed = architect.needs(memory)
            memory, request = architect.ask(SPACE, memory, len(found), SEED(len(found)))
        if request is not None:
            assert request.parent is None or request.parent in needed
            picks = SPACE.picks(request.structure)
            found.append(Trial(request, picks, losses[picks]))
        elif ended < len(found):
            memory = architect.tell(SPACE, memory, record(ended, found[ended]), SEED).copy()
            ended += 1
        else:
            over = True
    return found


def record(number: int, trial: Trial) -> TrialEnded:
    position = {"stage": 0, "phase": "trials", "epoch": number, "updates": 0}
    budget, parent = trial.request.budget, trial.request.parent
    return TrialEnded(
        **position, number=number, picks=trial.picks, budget=budget, parent=parent, trained=budget, valid=trial.valid, scores={}
    )


@given(
    candidates=st.integers(1, 40),
    updates=st.integers(1, 9),
    factor=st.integers(2, 5),
    inherit=st.booleans(),
    in_flight=st.integers(1, 5),
    values=st.lists(LOSSES, min_size=SPACE.size, max_size=SPACE.size),
)
def test_the_best_of_each_rung_are_trained_further(
    candidates: int, updates: int, factor: int, inherit: bool, in_flight: int, values: list[float | None]
) -> None:
    """Architectures differ; rung k is the best 1/factor of the rung before, trained for updates * factor^k in all, from its weights."""
    architect = SuccessiveHalving(candidates, updates=updates, factor=factor, inherit=inherit and factor > 2)
    every = [(a, b, c, d, e) for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1) for e in (0, 1)]
    trials = searched(architect, dict(zip(every, values, strict=True)), in_flight)

    start, size, rung, last = 0, min(candidates, SPACE.size), 0, list[Trial]()
    while size >= 2 or rung == 0:
        present = trials[start : start + size]
        assert len({trial.picks for trial in present}) == size
        total = updates * factor**rung
        for trial in present:
            request = trial.request
            if rung == 0 or not architect.inherit:
                assert (request.budget, request.parent) == (total, None)
            else:
                assert request.budget == total - total // factor
                assert request.parent is not None
                assert trials[request.parent].picks == trial.picks
                assert trials[request.parent] in last
        if rung:
            left_out = [loss(trial) for trial in last if trial.picks not in {t.picks for t in present}]
            assert max(map(loss, present)) <= min(left_out)
        start, size, rung, last = start + size, size // factor, rung + 1, present
    assert start == len(trials)


def loss(trial: Trial) -> float:
    return math.inf if trial.valid is None else trial.valid


def test_the_first_rung_is_random() -> None:
    """Another seed draws other architectures, and a space with as many architectures as wanted is tried whole."""
    first = [SuccessiveHalving(10).start(SPACE, SEED(number)).values["first"] for number in range(2)]
    assert first[0] != first[1]
    assert {tuple(picks) for picks in SuccessiveHalving(32).start(SPACE, SEED).values["first"]} == {
        SPACE.picks(SPACE.architecture(SPACE.random(SEED(n)))) for n in range(500)
    }


@pytest.mark.parametrize("candidates", [10, 32])
def test_the_first_trials_are_those_of_the_suggestions(candidates: int) -> None:
    """A limit that ends the trials early leaves out random architectures, also where the space is tried whole, in a random order."""
    suggested = ((1, 1, 1, 1, 0), (0, 1, 0, 1, 0), (0, 0, 0, 0, 1))
    architect = SuccessiveHalving(candidates, suggested=2)
    first = [architect.start(attrs.evolve(SPACE, suggested=suggested), SEED(number)).values["first"] for number in range(2)]

    assert first[0] != first[1]
    for every in first:
        assert [tuple(picks) for picks in every[:2]] == [*suggested[:2]]
        assert len({tuple(picks) for picks in every}) == candidates


def test_budgets_that_do_not_rise_are_refused() -> None:
    """With factor 2, a rung that continues the one before takes as many updates as the first."""
    with pytest.raises(ValueError, match="write factor = 3, or inherit = false"):
        SuccessiveHalving(factor=2)
    assert SuccessiveHalving(factor=2, inherit=False).needs(Memory({"first": [], "results": []})) == frozenset()
