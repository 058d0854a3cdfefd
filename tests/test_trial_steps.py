"""Trials are a step of a plan like any other: other steps come before and after them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from asking import asking, check_resumes_everywhere, run, shuffle
from click.testing import CliRunner
from nasframe_bilevel import FirstOrder
from nasframe_growing import MaxSeconds, MaxUpdates, NodeGrowth, Patience
from nasframe_pruning import Strongest
from nasframe_sampling import Finals, RandomSearch, RegularisedEvolution, SuccessiveHalving
from series_files import small_series
from test_resume import digest
from toy import PLUGINS, toy_strategy

from nasframe import Search, Seed, Strategy, Structure, installed
from nasframe.cli.flags import strategy_values
from nasframe.cli.main import cli
from nasframe.errors import NonFiniteError, StrategyError
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe.network.network import tensors
from nasframe.plugins import Plugin, Plugins
from nasframe.records import Changed, EpochEnded, Evaluated, Record, TrialEnded
from nasframe.run.folder import Folder
from nasframe.run.summary import cut_after, remarks
from nasframe.search.evaluators import Table
from nasframe.search.loop import Loop
from nasframe.search.optimiser import Optimiser
from nasframe.search.plan import END, TRIALS, Change, Fold, Plan, Repeat, Restore, Step, Train, Trials
from nasframe.search.state import State
from nasframe.search.suggestions import MOST
from nasframe.structure.space import Space
from nasframe.testing.check import check
from nasframe.testing.fakes import Chain, Scripted
from nasframe.testing.saved import revived, saved

EVOLUTION = RegularisedEvolution(population=2, sample=2, trials=4, updates=3, inherit=True)
SUPERNET = Train(phase="search", parameters=("weights", "alphas"), epochs=2, competes=True)
RETUNE: Plan = (Train(phase="retune", epochs=2, competes=True), Restore(), Fold())


@attrs.frozen
class Shared(Evaluator):
    """Measures an architecture with the weights of the supernet, without training."""

    name: ClassVar[str] = "shared"
    seen: ClassVar[list[Trained | None]] = []

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        network = bench.build(structure, seed, parent)
        self.seen.append(parent)
        loss = bench.data.mean_loss(network.eval(), bench.data.validation)
        return Outcome(loss, tensors={name: tensor.detach().clone() for name, tensor in tensors(network).items()})


@attrs.frozen
class Hopeless(Evaluator):
    """Lets every training diverge."""

    name: ClassVar[str] = "hopeless"

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        return Outcome(None)


FOUND = Plugins((*PLUGINS.found, Plugin("evaluators", "tests", "0", (Shared, Hopeless))))
ONE_SHOT = Trials(architect=RandomSearch(5, 1), evaluator=Shared(), in_flight=2, inherit=True)


def supernets(*plan: Step, **changes: Any) -> Strategy:
    """A strategy whose architect moves alphas."""
    return toy_strategy(plan=plan, growth=(), nodes=2, criterion=Scripted(epochs=9), **changes)


PLANS: dict[str, Strategy] = {
    "trials, retune": asking(EVOLUTION, plan=(Trials(), *RETUNE), criterion=Scripted(epochs=9)),
    "supernet, trials in it": supernets(SUPERNET, ONE_SHOT),
    "supernet, trials, retune": supernets(SUPERNET, ONE_SHOT, *RETUNE),
    "pruned supernet, trials": supernets(
        SUPERNET, Change(prune=True, pruner=Strongest(keep=2)), Trials(architect=RandomSearch(6, 1))
    ),
    "trials twice": supernets(Trials(architect=RandomSearch(3, 2)), Trials(architect=EVOLUTION), *RETUNE),
    "finals": toy_strategy(
        plan=Finals(architect=SuccessiveHalving(7, suggested=3, updates=1)).steps(),
        growth=(NodeGrowth("gate"),),
        nodes=2,
        criterion=Scripted(growths=1),
    ),
    "trials in turns": supernets(Repeat(steps=(Trials(architect=RandomSearch(2, 2)),), until="times", times=2)),
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_with_trials_resumes_at_every_event(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It survives TOML, ends with an architecture, and in the same bytes from any event and in any order of results."""
    strategy = PLANS[plan]
    assert Strategy.from_toml(strategy.to_toml(), FOUND) == strategy

    shuffle(monkeypatch)
    check_resumes_everywhere(strategy, FOUND)
    search = Search(strategy)
    run(search)
    trials = search.state.trials

    assert search.network.structure.decided
    assert search.state.asking is None
    # a stage, a phase and a number name one trial of the run
    assert len({(trial.stage, trial.phase, trial.number) for trial in trials}) == len(trials)


@pytest.mark.parametrize(("budget", "trials", "in_flight"), [(1, 1, 3), (21, 5, 1), (21, 5, 3)])
def test_a_budget_limits_trials(budget: int, trials: int, in_flight: int) -> None:
    """At least one trial begins, and no other one when less than the share for tuning is left; all together stay within the budget.

    It does not matter how many are in flight. The last record says that the architect would have gone on.
    """
    plan = Finals(architect=SuccessiveHalving(12, suggested=1, updates=3)).steps()
    strategy = toy_strategy(plan=plan, growth=(), nodes=2, in_flight=in_flight, criterion=Patience(1) | MaxUpdates(budget))
    search = Search(attrs.evolve(strategy, optimiser=Optimiser(epochs=1)))
    run(search)

    assert search.network.structure.decided
    assert len(search.state.trials) == trials
    assert [trial.cut for trial in search.state.trials] == [False] * (trials - 1) + [True]
    assert [text for text in remarks(search.state) if "trials" in text] == [cut_after(search.state.trials[-1])]
    assert search.state.updates <= max(
        budget, 9
    )  # an epoch of three updates of the supernet, one of a trial, and one of tuning


@pytest.mark.parametrize(("trials", "cut"), [(5, False), (6, True)])
def test_a_limit_that_leaves_out_no_trial_is_not_reported(trials: int, cut: bool) -> None:
    """With a budget for five trials, an architect that proposes five has finished, and one that proposes six has not."""
    plan = Finals(architect=RandomSearch(trials=trials, updates=3)).steps()
    strategy = toy_strategy(plan=plan, growth=(), nodes=2, criterion=Patience(1) | MaxUpdates(21))
    search = Search(attrs.evolve(strategy, optimiser=Optimiser(epochs=1)))
    run(search)

    assert [trial.cut for trial in search.state.trials] == [False] * 4 + [cut]


@pytest.mark.parametrize(("seconds", "trials", "in_flight"), [(1, 1, 3), (40, 3, 1), (40, 5, 3)])
def test_a_limit_on_time_ends_trials(seconds: int, trials: int, in_flight: int) -> None:
    """No trial begins when less than the share for tuning is left; those in flight are finished, and the best network is kept.

    A run that was interrupted goes on from the time of its last trial.
    """
    plan = Finals(architect=SuccessiveHalving(12, suggested=1, updates=3)).steps()
    criterion = Patience(1) | MaxSeconds(seconds)
    strategy = toy_strategy(
        plan=plan, growth=(), nodes=2, in_flight=in_flight, criterion=criterion, optimiser=Optimiser(epochs=1)
    )
    search = Search(strategy)
    data, state = search.data, search.state

    def events(state: State, began: float) -> Iterator[Record]:
        # an epoch of the supernet takes 3 seconds, and a trial 10
        return Loop(strategy, data, lambda: began + state.updates + 7.0 * len(state.trials)).run(state)

    resumed: list[State] = []
    for event in events(state, began=0.0):
        if isinstance(event, TrialEnded):
            resumed.append(revived(*saved(state), strategy, PLUGINS))
    losses = [r.valid for r in (*state.history, *state.trials) if r.phase != "search" and r.valid is not None]

    assert state.network.structure.decided
    assert state.best is not None
    assert state.best.valid == min(losses)
    assert [trial.readings for trial in state.trials] == [{"seconds": 3.0 + 10 * (n + 1)} for n in range(trials)]
    for other in resumed:
        # the clock of another process
        for _ in events(other, began=1e6):
            pass
        assert digest(other) == digest(state)


def test_training_continues_from_the_weights_of_the_best_trial() -> None:
    """The phase after the trials begins with them, and the best network of the run is the best of both."""
    search = Search(PLANS["trials, retune"])
    loss: list[float] = []

    def note(record: Any) -> None:
        if isinstance(record, Changed) and record.change == "trial":
            loss.append(search.data.mean_loss(search.network.eval(), search.data.validation))

    run(search, each_record=note)
    best = [trial for trial in search.state.trials if trial.best][-1]
    epochs = [r.valid for r in search.state.history if isinstance(r, EpochEnded)]

    assert loss == [pytest.approx(best.valid, rel=1e-12)]
    assert search.state.best is not None
    assert search.state.best.valid == min(best.valid, *epochs)
    assert search.state.updates == sum(trial.trained for trial in search.state.trials) + 2 * 3


def test_trials_begin_with_the_weights_of_the_supernet() -> None:
    """With `inherit`, the evaluator receives the trained supernet, and shared tensors have its values."""
    Shared.seen.clear()
    search = Search(supernets(SUPERNET, ONE_SHOT))
    run(search)
    parents = [parent for parent in Shared.seen if parent is not None]
    network = dict(search.network.named_parameters())

    assert len(parents) == 5
    assert not parents[0].structure.decided
    shared = [name for name in network if name in parents[0].tensors]
    assert len(shared) == len(network)
    assert all(torch.equal(network[name], parents[0].tensors[name]) for name in shared)


def test_a_supernet_suggests_finalists() -> None:
    """The first finalists are what the mixing weights suggest, and gates of grown nodes are not trained from scratch."""
    search, space, gates = Search(PLANS["finals"]), [Space(Chain().initial({"inputs": 1, "outputs": 1}, 1))], list[int]()

    def note(record: Any) -> None:
        gates.append(len([*search.network.gates()]))
        if isinstance(record, Changed) and record.change == "restore" and not search.network.structure.decided:
            space[0] = search.space

    run(search, each_record=note)

    assert max(gates) == 1
    assert gates[-1] == 0
    assert len(space[0].suggested) == MOST + 1
    assert tuple(trial.picks for trial in search.state.trials[:3]) == space[0].suggested[:3]
    assert [trial.budget for trial in search.state.trials] == [1] * 7 + [2] * 2
    assert not any(trial.cut for trial in search.state.trials)
    inherited = next(record for record in search.compare() if isinstance(record, Evaluated))
    best = next(trial for trial in reversed(search.state.trials) if trial.best)
    # two rungs and the training after them, and neither the supernet nor the other trials
    after = search.state.updates - search.state.trials[-1].updates
    assert best.parent is not None
    assert inherited.trained == best.trained + search.state.trials[best.parent].trained + after


def test_an_evaluator_without_training_fulfils_the_laws() -> None:
    """The conformance kit finds no fault in the evaluator that measures the weights of the supernet."""
    report = check(Shared)

    assert report.ok, report.text()


def test_trials_choose_among_what_the_plan_left() -> None:
    """After a pruning of the supernet, the space has what is left of it."""
    search = Search(PLANS["pruned supernet, trials"])
    run(search)

    assert {pick for trial in search.state.trials for pick in trial.picks} == {0, 1}


def test_a_trained_network_competes_with_trials() -> None:
    """The best network of the run is that of the phase before, if no trial has a smaller loss."""
    good = supernets(Trials(architect=RandomSearch(3, 30)), Trials(architect=RandomSearch(1, 1)), Restore())
    search = Search(good)
    run(search)
    first, second = search.state.trials[:3], search.state.trials[3]

    assert second.valid is not None
    assert search.state.best is not None
    assert search.state.best.valid == min(trial.valid for trial in first if trial.valid is not None) < second.valid


def test_what_was_looked_up_is_replaced_by_what_is_trained() -> None:
    """The value of a table is no loss of a network: the first epoch after the trials has the best network."""
    values = {(a, b, c): -float(a + b + c) for a in range(5) for b in range(5) for c in range(5)}
    search = Search(asking(RandomSearch(3, 1), plan=(Trials(evaluator=Table.of(values)), *RETUNE)))
    run(search)

    assert search.state.best is not None
    assert search.state.best.valid is not None
    assert search.state.best.valid > 0


def test_what_was_found_survives_trials_that_diverge() -> None:
    """If all trials of a step diverge, the best architecture of the steps before is restored, whatever the network is then."""
    good, bad = Trials(architect=RandomSearch(3, 2)), Trials(architect=RandomSearch(2, 1), evaluator=Hopeless())
    strategy = supernets(good, bad, Fold())
    check_resumes_everywhere(strategy, FOUND)
    search = Search(strategy)
    run(search)

    valid = min(trial.valid for trial in search.state.trials if trial.valid is not None)
    assert search.state.best is not None
    assert search.state.best.valid == valid
    assert search.network.structure == search.state.best.structure
    assert "of all 2 architectures diverged" in [r.why for r in search.state.lineage if isinstance(r, Changed)][-1]
    with pytest.raises(NonFiniteError, match="of all 2 architectures diverged"):
        run(Search(attrs.evolve(strategy, plan=(SUPERNET, bad))))


def test_the_comparison_after_several_steps() -> None:
    """The updates of the found network are those of its trial and of the phases, without those of other trials."""
    search = Search(attrs.evolve(PLANS["trials, retune"], seeds=1))
    run(search)
    for _ in search.compare():
        pass
    best = [trial for trial in search.state.trials if trial.best][-1]

    assert search.state.evaluations[0].trained == best.trained + 2 * 3
    assert search.state.phase == "handed over"


def test_the_plan_of_a_strategy_without_one() -> None:
    """It depends on the architect, and has a name."""
    values = {k: v for k, v in toy_strategy(architect=RandomSearch()).to_dict().items() if k != "plan"}

    assert toy_strategy(architect=RandomSearch()).plan == TRIALS
    assert toy_strategy().plan == END
    assert Strategy.from_dict(values, PLUGINS).plan == TRIALS
    assert Strategy.from_dict(values | {"plan": "trials"}, PLUGINS).plan == TRIALS


def test_a_flag_for_the_architect_brings_its_plan() -> None:
    """A plan for the other kind of architect is replaced by the default one; any other plan stays, and a flag wins."""
    proposing = {"name": "random_search"}
    given = strategy_values({"architect": proposing}, installed())
    stage = strategy_values(
        {"architect": {"name": "second_order"}, "strategy": "default", "plan": {"name": "stage"}}, installed()
    )

    assert Strategy.from_dict(given).plan == TRIALS
    assert Strategy.from_dict(stage).plan == Strategy.from_dict({**stage, "plan": "stage"}).plan
    retrain = {"name": "retrain"}
    assert strategy_values({"architect": proposing, "plan": retrain}, installed())["plan"] == retrain


REFUSED = [
    ({"architect": RandomSearch(), "plan": END}, "trains alphas, and the architect 'random_search' proposes architectures"),
    ({"plan": TRIALS}, "a step of trials has no architect, and the strategy's, 'first_order', moves alphas"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_plan_that_does_not_go_with_its_architect_is_refused(changes: dict[str, Any], message: str) -> None:
    """The message says what to write."""
    with pytest.raises(ValueError, match=message):
        toy_strategy(**changes)
    with pytest.raises(ValueError, match="architect has FirstOrder"):
        Trials(architect=FirstOrder())  # type: ignore[arg-type]


def test_trials_need_a_validation_split() -> None:
    """Trials are compared by their validation loss."""
    strategy = PLANS["trials twice"]
    task = strategy.task.load(torch.device("cpu"), torch.float64)
    empty = attrs.evolve(task, validation=attrs.evolve(task.validation, size=0))

    with pytest.raises(StrategyError, match="holds nothing out for validation"):
        Search(strategy, data=empty)


def test_the_evaluators_of_steps_are_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a step is found from any folder, and its digest is part of the strategy."""
    (tmp_path / "table.json").write_text('{"options": [5, 5], "rows": []}')
    monkeypatch.chdir(tmp_path)
    step = Trials(architect=RandomSearch(2, 1), evaluator=Table("table.json"))
    strategy = supernets(Repeat(steps=(step,), until="times", times=1)).pinned()
    (pinned,) = strategy.plan[0].steps  # type: ignore[attr-defined]

    assert pinned.evaluator.digest is not None
    assert pinned.evaluator.file == str(tmp_path / "table.json")


def test_a_trial_is_a_record_of_its_step() -> None:
    """Its phase is that of the step, and its number counts from 0 in each step."""
    search = Search(PLANS["trials in turns"])
    records = [r for r in run(search) if isinstance(r, TrialEnded)]

    assert [(r.stage, r.phase, r.number) for r in records] == [
        (0, "trials", 0),
        (0, "trials", 1),
        (1, "trials", 0),
        (1, "trials", 1),
    ]


def test_one_command_for_plans_with_trials(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A supernet, trials in it and tuning: the run folder resumes within the trials, and has the pictures and summary of both."""
    plan = (
        attrs.evolve(SUPERNET, epochs=1),
        Trials(architect=RandomSearch(3, 1), in_flight=2, inherit=True),
        attrs.evolve(RETUNE[0], epochs=1),  # type: ignore[type-var]
        *RETUNE[1:],
    )
    _, csv, *_ = small_series(tmp_path)
    flags = {
        "strategy": "default",
        "nodes": 2,
        "seeds": 1,
        "options": {"hidden": "2", "equal": "units", "csv": csv, "window": "3"},
    }
    strategy = attrs.evolve(Strategy.from_dict(strategy_values(flags, installed())), plan=plan, growth=())
    (tmp_path / "strategy.toml").write_text(strategy.to_toml())
    out = tmp_path / "run"
    begun = Folder.create(out, strategy, installed())
    search, keeper = begun.search()
    for record in search.records():
        keeper(record)
        if isinstance(record, TrialEnded):
            break
    resumed = CliRunner().invoke(cli, ["resume", str(out), "--workers", "1"], catch_exceptions=False)
    request.getfixturevalue("no_pictures")
    whole = ["search", "--strategy", str(tmp_path / "strategy.toml"), "--workers", "2", "--out", str(tmp_path / "whole")]
    done = CliRunner().invoke(cli, whole, catch_exceptions=False)

    assert (resumed.exit_code, done.exit_code) == (0, 0), (resumed.output, done.output)
    assert "trial    0" not in resumed.output
    assert "trial    0" in done.output
    assert "evaluated 3 architectures in trials" in (out / "summary.md").read_text()
    assert {"trials.png", "learning.png", "mixing.png"} <= {path.name for path in out.iterdir()}
    for name in ("summary.md", "trials.jsonl", "metrics.jsonl", "weights.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
