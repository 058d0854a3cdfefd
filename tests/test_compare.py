"""The comparison at the end of a run, and the network that the run hands over."""

from __future__ import annotations

import math
import multiprocessing
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import forked
import pytest
import torch
from convolutional import Blobs, image_strategy
from full import FULL
from hypothesis import given, settings, strategies as st
from nasframe_growing import Epochs, MaxNodes
from nasframe_recurrent import TwoToOne
from toy import PLUGINS, toy_strategy

from nasframe import Search, Seed, Strategy, installed
from nasframe.errors import NonFiniteError, RunError, StrategyError
from nasframe.records import Changed, EpochEnded, Evaluated, Finished, from_json, to_json
from nasframe.run.rows import Row, handed_over, rows_of
from nasframe.run.summary import _table, remarks, stopped_early, verdict, written
from nasframe.search import compare, evaluate
from nasframe.search.compare import FOUND, INHERITED, RANDOM
from nasframe.search.evaluate import Evaluation, Reference, Trial
from nasframe.search.pool import evaluations
from nasframe.testing.saved import revived, saved

SHORT: dict[str, Any] = {"seeds": 2, "criterion": Epochs(1) | MaxNodes(1), "growth": ()}


def finished(strategy: Strategy) -> Search:
    search = Search(strategy)
    for _ in search:
        pass
    return search


def compared(strategy: Strategy) -> Search:
    search = finished(strategy)
    for _ in search.compare(plugins=PLUGINS):
        pass
    return search


@pytest.mark.parametrize("strategy", [toy_strategy(**SHORT), image_strategy(task=Blobs(6), **SHORT)], ids=["toy", "images"])
def test_the_best_network_of_the_space_is_handed_over(strategy: Strategy) -> None:
    """It has the least validation loss of all that were trained in the space, and its weights have that loss."""
    search = compared(strategy)
    evaluations = search.state.evaluations
    best = handed_over(evaluations)
    inside = [e for e in evaluations if e.structure is not None and e.valid is not None]

    assert [row.name for row in rows_of(evaluations)][:3] == [INHERITED, FOUND, RANDOM]
    assert best.valid == min(e.valid for e in inside)
    assert search.network.structure.to_dict() == best.structure
    loss = search.data.mean_loss(search.network.eval(), search.data.validation)
    assert loss == pytest.approx(best.valid, rel=1e-12)
    assert search.state.phase == "handed over"
    assert search.state.lineage[-1].change == "hand over"
    assert all(len(row.evaluations) == 2 for row in rows_of(evaluations) if row.name in (FOUND, RANDOM))


def test_the_comparison_resumes_at_every_evaluation() -> None:
    """Whatever has been evaluated is not evaluated again, and the run ends in the same bytes."""
    search = finished(toy_strategy(**SHORT))
    dumps = [saved(search.state), *(saved(search.state) for _ in search.compare(plugins=PLUGINS))]
    for text, tensors in dumps if FULL else dumps[::2]:
        again = Search(search.strategy, state=revived(text, tensors, search.strategy, PLUGINS))
        for _ in again.compare(plugins=PLUGINS):
            pass
        assert saved(again.state)[0] == dumps[-1][0]
        assert all(torch.equal(t, dumps[-1][1][n]) for n, t in saved(again.state)[1].items())


def test_outcomes_do_not_depend_on_the_number_of_workers() -> None:
    """Two processes give the outcomes of one, to the bit, in the order of the trials."""
    strategy = Strategy.from_dict(
        {
            "task": {"name": "forecasting"},
            "backbone": {"name": "two_to_one", "hidden": 2},
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": 1},
            "pruner": {"name": "strongest"},
        }
    )
    search = Search(strategy)
    structure = search.network.structure
    found = attrs.evolve(
        structure,
        cells=tuple(
            (t, attrs.evolve(c, sites=tuple(attrs.evolve(s, candidates=s.candidates[:1]) for s in c.sites)))
            for t, c in structure.cells
        ),
    )
    trials = [
        Trial(found, 20, Seed((0, "one"))),
        Trial(Reference("GRU", 100), 20, Seed((0, "two"))),
        Trial(Reference("mean", 100), 20, Seed((0, "three"))),
    ]
    one, two = (list(evaluations(trials, strategy, search.data, workers=workers, plugins=installed())) for workers in (1, 2))

    for a, b in zip(one, two, strict=True):
        assert attrs.asdict(attrs.evolve(a, tensors={})) == attrs.asdict(attrs.evolve(b, tensors={}))
        assert all(torch.equal(t, b.tensors[n]) for n, t in a.tensors.items())


def test_a_script_without_a_guard_compares_in_processes(tmp_path: Path) -> None:
    """Worker processes do not run the caller's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import nasframe
from nasframe.search.evaluate import Reference, Trial
from nasframe.search.pool import evaluations
print("once", flush=True)
strategy = nasframe.Strategy.named("two-to-one-grow-end")
data = nasframe.Search(strategy).data
trials = [Trial(Reference(name, 100), 5, nasframe.Seed((name,))) for name in ("mean", "GRU")]
found = list(evaluations(trials, strategy, data, workers=2, plugins=nasframe.installed()))
print(len(found), flush=True)
"""
    )
    done = subprocess.run(forked.command(str(script)), cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["once", "2"], done.stderr


class StopError(Exception):
    """A request of the user to stop."""


def small_forecasting() -> Strategy:
    """Return a strategy that worker processes can read, too."""
    return Strategy.from_dict(
        {
            "task": {"name": "forecasting"},
            "backbone": {"name": "two_to_one", "hidden": 2},
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": 1},
            "pruner": {"name": "strongest"},
        }
    )


def test_a_worker_that_is_killed_is_our_error() -> None:
    """As the system does when memory is short."""
    strategy = small_forecasting()
    trials = [Trial(Reference("GRU", 100), 10**9, Seed((number,))) for number in range(2)]

    def check() -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    with pytest.raises(RunError, match=r"a worker process ended in the middle of an evaluation; .* --workers 1"):
        list(evaluations(trials, strategy, Search(strategy).data, workers=2, plugins=installed(), check=check))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_stops_when_it_is_asked_to(workers: int) -> None:
    """The exception of `check` ends it within an evaluation, whatever the number of processes."""
    strategy = small_forecasting()
    data = Search(strategy).data
    trials = [Trial(Reference("GRU", 100), 10**9, Seed((i,))) for i in range(3)]
    calls: list[int] = []

    def check() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise StopError

    with pytest.raises(StopError):
        list(evaluations(trials, strategy, data, workers=workers, plugins=installed(), check=check))


def test_a_search_that_is_not_over_is_not_compared() -> None:
    """The error says what to do first."""
    with pytest.raises(StrategyError, match="iterate over it before you compare"):
        next(Search(toy_strategy()).compare())


# ---------------------------------------------------------------------------------------------------------- divergence


def fails(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    """Make the training loss infinite in the steps for which `when(training, search)` holds, and the alphas no numbers."""
    from nasframe.search.trainer import Trainer

    honest = Trainer._step

    def step(self: Any, training: Any, index: Any, held_out: Any, seed: Any) -> float:
        value = honest(self, training, index, held_out, seed)
        if not when(training, held_out is not None):
            return value
        for alpha in getattr(training.network, "alphas", {}).values():
            alpha.data.fill_(math.nan)
        return math.inf

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("plan", ["stage", "end"])
def test_a_phase_that_diverges_ends_with_its_best_network(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes back to the best epoch of the phase, a row says so, and the search comes to its end."""
    fails(monkeypatch, lambda training, search: search and training.epoch == 1)
    search = finished(toy_strategy(plan=plan, criterion=Epochs(3) | MaxNodes(2)))
    lost = [r for r in search.state.history if isinstance(r, EpochEnded) and r.diverged]

    assert lost
    assert all((r.train, r.valid, r.decision) == (None, None, "end") for r in lost)
    assert all(from_json(to_json(r)) == r for r in lost)
    assert all("the best network of the phase is restored" in r.reason for r in lost)
    restored = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "restore" and r.parent == r.child]
    assert len(restored) >= len(lost)
    assert search.network.structure.decided
    assert any("diverged" in remark for remark in remarks(search.state))


def test_a_stage_that_never_has_a_finite_loss_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best network of the run is restored."""
    fails(monkeypatch, lambda training, search: search and training.stage == 1)
    search = finished(toy_strategy(criterion=Epochs(2) | MaxNodes(3)))

    assert search.state.stage == 1
    assert search.network.structure.decided
    assert all(len(cell.nodes) == 1 for _, cell in search.network.structure.cells)
    assert "the best network of the run is restored" in search.state.stopping


def test_a_tuning_that_diverges_is_a_row_and_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pruned network keeps its weights; if its loss is not finite, the row says diverged and another network wins."""
    fails(monkeypatch, lambda training, search: getattr(training, "phase", None) == "retune")
    from nasframe.search.changes import Changer

    monkeypatch.setattr(Changer, "loss", lambda self, network: None)
    search = finished(toy_strategy(**SHORT))
    *_, last = search

    assert isinstance(last, Finished)
    assert (last.valid, last.diverged) == (None, True)
    for _ in search.compare(plugins=PLUGINS):
        pass
    first, best = search.state.evaluations[0], handed_over(search.state.evaluations)
    assert (first.name, first.diverged, first.best, first.valid) == (INHERITED, True, False, None)
    assert best.name in (FOUND, RANDOM)
    assert "diverged" in "\n".join(remarks(search.state))


def test_a_run_whose_networks_all_diverge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to hand over."""
    search = finished(toy_strategy(**SHORT))
    search.state.diverged = True
    lost = Evaluation(1, None, {}, True, (), {}, parameters=1, flops=1, scores={})
    monkeypatch.setattr(compare, "evaluations", lambda trials, *_, **__: (lost for _ in trials))

    with pytest.raises(NonFiniteError, match="every random architecture diverged: lower the learning rate"):
        list(search.compare(plugins=PLUGINS))


def test_an_evaluation_that_diverges_keeps_what_was_good_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome is the best network before; without one it has neither a loss nor scores."""
    search = finished(toy_strategy(**SHORT))
    trial = Trial(search.network.structure, 100, Seed((1,)))
    fails(monkeypatch, lambda training, _: training.epoch == 2)
    good = evaluate.evaluate(trial, search.strategy, search.data)
    monkeypatch.undo()
    fails(monkeypatch, lambda training, _: True)
    lost = evaluate.evaluate(trial, search.strategy, search.data)

    assert len(good.curve) == 2
    assert (good.valid, good.diverged) == (min(v for v in good.curve if v is not None), False)
    assert good.scores
    assert (lost.valid, lost.diverged, lost.scores, lost.curve) == (None, True, {}, ())


# ------------------------------------------------------------------------------------------------------------- summary


def row(name: str, *values: float, inside: bool = True, valid: float = 1.0, best: bool = False) -> list[Evaluated]:
    place: dict[str, Any] = {"stage": 0, "phase": "done", "epoch": 0, "updates": 0}
    structure: Mapping[str, Any] | None = {"cells": name} if inside else None
    return [
        Evaluated(**place, number=i, name=name, structure=structure, valid=valid, scores={"score": v}, best=best and i == 0)
        for i, v in enumerate(values)
    ]


@given(st.lists(st.floats(0, 1), min_size=4, max_size=6), st.booleans(), st.sampled_from([FOUND, RANDOM]))
@settings(max_examples=30)
def test_the_verdict_is_about_the_network_that_is_handed_over(values: list[float], higher: bool, winner: str) -> None:
    """Its test score is set beside the mean of the other kind of cell and the best mean of the baselines; a tie is not better."""
    mine, other, *others = values
    name, rival = (RANDOM, "random architectures") if winner == FOUND else (FOUND, "the found cell")
    baselines = [e for i, v in enumerate(others) for e in row(f"other {i}", v, inside=False)]
    best = (max if higher else min)(others)
    text = verdict([*row(winner, mine, best=True), *row(name, other), *baselines], "score", higher, {"n0": "tanh", "n1": "sum"})
    rivals = {f"{rival} ({written(other)})": other, f"the best baseline (other {others.index(best)}: {written(best)})": best}
    won, lost = (
        [each for each, value in rivals.items() if (mine > value if higher else mine < value) == wins] for wins in (True, False)
    )
    than = [f"better than {' and '.join(won)}"] * bool(won) + [f"not better than {' or '.join(lost)}"] * bool(lost)

    assert text == (
        f"Handed over: the {winner} (tanh, sum), validation loss 1, test score {written(mine)}. From one training of each, which shows "
        f"little, it is {', but '.join(than)}."
    )


def test_the_best_of_a_row_is_not_compared_with_means() -> None:
    """Where a row has several networks, its mean is set beside the other means, and the text says what was chosen."""
    evaluations = [*row(FOUND, 0.5, 0.9, best=True), *row(INHERITED, 0.1), *row(RANDOM, 0.6)]

    assert verdict(evaluations, "score", False, {}) == (
        f"Handed over: the {FOUND}, validation loss 1 (the least of 2), test score 0.5000. The mean of 2 trainings of it, 0.7000 ± "
        "0.2000, is not better than random architectures (0.6000)."
    )


@pytest.mark.parametrize("units", [3, 4])
def test_a_random_architecture_may_be_the_found_cell(units: int) -> None:
    """The verdict says so if operations and widths are the same, whatever the ids of the candidates are."""

    def relu(hidden: int, next_id: int) -> Mapping[str, Any]:
        backbone = TwoToOne(hidden=hidden)
        architecture = backbone.space(backbone.initial({"inputs": 2, "outputs": 2}, 1)).architecture([2])
        return attrs.evolve(architecture, next_id=next_id).to_dict()

    random = attrs.evolve(row(RANDOM, 0.5, best=True)[0], structure=relu(3, 5))
    found = attrs.evolve(row(FOUND, 0.6)[0], structure=relu(units, 9))

    assert ("(relu), which is the found cell again," in verdict([found, random], "score", False, {"n0": "relu"})) == (
        units == 3
    )


@pytest.mark.parametrize(
    ("losses", "decision", "grows", "remark"),
    [
        (
            [3.0, 2.0, 1.0],
            "stop",
            True,
            "stage 0 was ended while the validation loss was still falling (because); nothing was grown",
        ),
        ([3.0, 1.0, 1.5], "stop", False, "stage 0 was ended while the validation loss was still falling (because)"),
        ([1.0, 2.0, 3.0], "stop", True, None),
        ([3.0, 2.0, 1.0], "end", True, None),
        ([], "stop", True, None),
    ],
)
def test_a_search_that_is_stopped_early(losses: list[float], decision: str, grows: bool, remark: str | None) -> None:
    """There is a remark exactly if a criterion stopped the search within a stage whose loss was still falling."""
    place: dict[str, Any] = {"stage": 0, "phase": "search", "updates": 9, "train": 1.0, "moves_alphas": True}
    history = [EpochEnded(**place, epoch=i, valid=loss, decision=decision, reason="because") for i, loss in enumerate(losses)]

    assert [*stopped_early(history, grows)] == [remark] * (remark is not None)


def test_a_row_has_the_mean_and_the_standard_error_of_its_seeds() -> None:
    """A training that diverged has no value, and is counted."""
    lost = attrs.evolve(row("a", 0.0)[0], scores={}, valid=None, diverged=True)
    found = Row("a", (*row("a", 1.0, 3.0), lost))

    assert (found.mean("score"), found.error("score"), found.diverged, found.valid()) == (2.0, 1.0, 1, 1.0)
    assert Row("b", (lost,)).mean("score") is None


def test_only_what_diverged_is_said_to_have_diverged() -> None:
    """In the table of the summary; a network without a validation split has no validation loss."""
    (lost,) = row("a", 0.0)
    lost = attrs.evolve(lost, scores={}, valid=None, diverged=True)
    (unvalidated,) = row("b", 1.0)
    unvalidated = attrs.evolve(unvalidated, valid=None)
    *_, first, second = _table([Row("a", (lost,)), Row("b", (unvalidated,))], ["score"], compared=False)

    assert first == "| a (1 diverged) | 0 | 0 | diverged | diverged |"
    assert second == "| b | 0 | 0 |  | 1.0000 |"


# ------------------------------------------------------------------------------------------------------------- tuning


@pytest.mark.parametrize("spoiled", [False, True])
def test_tuning_begins_with_the_better_weights(spoiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the pruning left or, where an untrained network has a lower validation loss, fresh ones."""
    from nasframe.search.loop import Loop

    honest = Loop._restart

    def restart(self: Any, state: Any) -> Any:
        with torch.no_grad():
            for p in state.network.parameters():
                p.mul_(1e3 if spoiled else 1.0)
        return honest(self, state)

    monkeypatch.setattr(Loop, "_restart", restart)
    search = Search(toy_strategy(criterion=Epochs(30) | MaxNodes(1), growth=()))
    records = []
    for record in search:
        records.append(record)
        if record.phase == "retune":
            break
    restarts = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "restart"]

    assert len(restarts) == spoiled
    assert search.state.fallback is not None
    assert search.state.fallback.valid < (10.0 if spoiled else 1.0)
