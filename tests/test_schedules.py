"""Cosine learning rates equal torch's, start again in each phase, and depend on the counters of the state only."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, strategies as st
from test_architects import next_case
from test_resume import check_resumes_everywhere
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from toy import toy_strategy

from nasframe import Optimiser, Search, Strategy
from nasframe.records import EpochEnded, Stepped
from nasframe.search.optimiser import rate_of
from nasframe.testing.fakes import Endless, Scripted
from nasframe.testing.trained import TrainedNetwork

Patch = pytest.MonkeyPatch

rates = st.floats(1e-4, 1.0)
annealed = st.builds(
    Optimiser,
    method=st.sampled_from(["adam", "adamw", "sgd"]),
    learning_rate=rates,
    epochs=st.integers(1, 30),
    final=st.just(0.0) | rates,
)
ANNEALED = Optimiser("sgd", learning_rate=0.1, momentum=0.9, epochs=3, final=0.01)


@given(annealed)
def test_rates_equal_torchs(optimiser: Optimiser) -> None:
    """In each epoch the rate is that of CosineAnnealingLR, and after the last epoch it is the final one."""
    check_rates(optimiser)


def check_rates(optimiser: Optimiser) -> None:
    parameters = [("w", nn.Parameter(torch.zeros(1)))]
    ours, torchs = optimiser.build(parameters), optimiser.build(parameters)
    schedule = CosineAnnealingLR(torchs, optimiser.epochs, optimiser.final)
    for epoch in range(optimiser.epochs + 1):
        optimiser.anneal(ours, epoch)
        assert rate_of(ours) == pytest.approx(rate_of(torchs), rel=1e-9, abs=1e-12)
        torchs.step()
        schedule.step()
    optimiser.anneal(ours, 2 * optimiser.epochs)
    assert rate_of(ours) == optimiser.final


def test_without_epochs_the_rate_is_constant() -> None:
    """Without `epochs` the rate is the same in every epoch, and the progress of a phase is always 1."""
    optimiser = Optimiser(learning_rate=0.3)
    built = optimiser.build([("w", nn.Parameter(torch.zeros(1)))])
    optimiser.anneal(built, 7)
    assert (rate_of(built), optimiser.progress(0)) == (0.3, 1.0)


def rates_used(strategy: Strategy) -> list[tuple[int, str, int, float]]:
    """Return stage, phase, epoch and the weights' learning rate of each update of a search."""
    search, found = Search(strategy), []
    for event in search:
        if isinstance(event, Stepped):
            found.append((event.stage, event.phase, event.epoch, rate_of(search.state.optimisers["weights"])))
    return found


@pytest.mark.parametrize("plan", ["stage", "end"])
def test_each_phase_has_all_rates(plan: str) -> None:
    """Every phase of training (search, tuning, tuning at the end) starts again with the first rate."""
    check_phases(plan)


def check_phases(plan: str) -> None:
    strategy = toy_strategy(plan=plan, optimiser=ANNEALED, criterion=Scripted(epochs=3, growths=1))
    expected = []
    for epoch in range(3):
        optimiser = ANNEALED.build([("w", nn.Parameter(torch.zeros(1)))])
        ANNEALED.anneal(optimiser, epoch)
        expected += [rate_of(optimiser)] * 3
    phases: dict[tuple[int, str], list[float]] = {}
    for stage, phase, _, rate in rates_used(strategy):
        phases.setdefault((stage, phase), []).append(rate)
    others = {"stage": [(0, "tune"), (1, "tune")], "end": [(1, "retune")]}[plan]
    assert set(phases) == {(0, "search"), (1, "search"), *others}
    assert all(found == expected for found in phases.values())


def test_the_unrolled_step_is_annealed() -> None:
    """The bilevel problem has the learning rate of the epoch as xi, and its unrolled step is torch's at that rate."""
    parent = TrainedNetwork.of(toy_strategy(optimiser=ANNEALED, criterion=Scripted(epochs=9)), 4)
    case = next_case(parent)
    assert parent.state.epoch == 1
    assert case.problem.xi == pytest.approx(0.01 + 0.09 * 0.75)
    zeros = {name: torch.ones_like(w) for name, w in case.problem.weights.items()}
    found, wanted = case.problem.unroll(zeros), case.optimiser_step(zeros)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_a_search_with_falling_rates_resumes(method: str) -> None:
    """A search whose rate falls ends with the same bytes when it is resumed from any event."""
    optimiser = attrs.evolve(ANNEALED, method=method, momentum=0.0)
    assert check_resumes_everywhere(toy_strategy(optimiser=optimiser, criterion=Scripted(epochs=2, growths=1))) >= 20


def chained(self: Optimiser, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    """Compute the rate from the one before, as torch's schedules do."""
    for group in optimiser.param_groups:
        group["lr"] *= 0.9


def straight(self: Optimiser, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    """Let the rate fall linearly, and to zero."""
    for group in optimiser.param_groups:
        group["lr"] = self.learning_rate * (1 - self.progress(epoch))


class TestMutants:
    """Each is a schedule with one fault, which the tests above notice."""

    def test_another_form(self, monkeypatch: Patch) -> None:
        """A rate that falls linearly is noticed."""
        monkeypatch.setattr(Optimiser, "anneal", straight)
        with pytest.raises(AssertionError):
            check_rates(ANNEALED)

    def test_a_rate_that_is_state(self, monkeypatch: Patch) -> None:
        """A rate that depends on the one before is noticed, by the phases and by resuming."""
        monkeypatch.setattr(Optimiser, "anneal", chained)
        with pytest.raises(AssertionError):
            check_phases("stage")
        with pytest.raises(AssertionError, match="resumed at event"):
            check_resumes_everywhere(toy_strategy(optimiser=ANNEALED))


def test_a_phase_ends_with_its_learning_rate() -> None:
    """A phase ends after the epochs of its learning rate, whatever the criterion decides."""
    optimiser = Optimiser(learning_rate=0.1, epochs=3)
    search = Search(toy_strategy(optimiser=optimiser, criterion=Endless(), growth=()))
    search.run()
    epochs = [record for record in search.state.history if isinstance(record, EpochEnded)]

    assert [(record.phase, record.epoch) for record in epochs] == [(p, e) for p in ("search", "retune") for e in (0, 1, 2)]
    assert epochs[2].reason == "the learning rate has come to its end after 3 epochs"
