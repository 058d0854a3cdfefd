"""Ask/tell searches: which results an architect knows at each request, and the same bytes whatever interrupts or reorders them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Set
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from asking import asking, check_resumes_everywhere, command, forked, run, shuffle, waited
from click.testing import CliRunner
from full import FULL
from nasframe_sampling import RandomSearch, RegularisedEvolution, SuccessiveHalving
from series_files import small_series
from test_resume import digest
from toy import PLUGINS

from nasframe import (
    AskTellArchitect,
    Memory,
    Optimiser,
    Request,
    Search,
    Seed,
    Space,
    Strategy,
    Structure,
    installed,
    load_model,
)
from nasframe.cli.main import cli
from nasframe.errors import NonFiniteError, StrategyError
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe.records import Changed, Finished, TrialArrived, TrialEnded
from nasframe.run.folder import Folder
from nasframe.run.journal import from_line
from nasframe.search.evaluators import Table
from nasframe.search.replay import replay
from nasframe.search.state import trial_weights

EVOLUTION = RegularisedEvolution(population=3, sample=2, trials=8, updates=3, inherit=True)


@attrs.frozen
class Noted(AskTellArchitect):
    """Notes what was known at each request, and waits at some numbers."""

    name: ClassVar[str] = "noted"
    trials: int = 7
    budgets: tuple[int, ...] = (1,)
    waits: tuple[int, ...] = ()

    def start(self, space: Space, seed: Seed) -> Memory:
        return Memory({"received": [], "known": [], "waited": 0})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        values = dict(memory.values)
        if number == self.trials or (number in self.waits and len(values["received"]) < number):
            return Memory(values | {"waited": values["waited"] + 1}), None
        values["known"] = [*values["known"], [number, values["received"]]]
        return Memory(values), Request(space.architecture(space.random(seed)), self.budgets[number % len(self.budgets)])

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        return Memory({**memory.values, "received": [*memory.values["received"], trial.number]})


def memories(architect: Noted) -> dict[str, Any]:
    """The memory after the last trial."""
    search, seen = Search(asking(architect)), [{}]
    run(search, lambda: seen.append(dict(search.state.asking.memory.values)) if search.state.asking else None)
    return seen[-1]


def test_what_is_known_at_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three trials in flight, the architect makes request n when it has received exactly the results 0 to n - 3, in their order."""
    shuffle(monkeypatch)
    known = memories(Noted())["known"]

    assert known == [[n, [*range(max(0, n - 2))]] for n in range(7)]


def test_an_architect_that_waits_is_asked_again_after_the_next_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers once for each result, and the search is over when it waits without a trial in flight."""
    shuffle(monkeypatch)
    memory = memories(Noted(waits=(4,)))

    assert memory["known"] == [[n, [*range(known)]] for n, known in enumerate([0, 0, 0, 1, 4, 4, 4])]
    # request 4 after the results 1 to 3 (that after 0 is request 3), and the end after the results 4 to 6
    assert memory["waited"] == 2 + 3


@pytest.mark.parametrize(
    "architect",
    [
        RandomSearch(5, 2),
        EVOLUTION,
        attrs.evolve(EVOLUTION, inherit=False),
        SuccessiveHalving(6, updates=1),
        Noted(waits=(2, 4)),
    ],
    ids=["random", "inheriting", "evolution", "halving", "waiting"],
)
def test_same_bytes_from_every_event(architect: AskTellArchitect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which results arrive, a search resumed at any event, also between an arrival and its turn, ends in
    the same bytes.
    """
    strategy = asking(architect)
    expected = Search(strategy)
    run(expected)
    shuffle(monkeypatch)
    records = check_resumes_everywhere(strategy, expected=digest(expected.state))

    assert waited(records) > 0
    assert sum(isinstance(r, TrialArrived) for r in records) == sum(isinstance(r, TrialEnded) for r in records)


def test_the_best_trial_is_the_network_of_the_search() -> None:
    """Its weights have the validation loss that the trial had, and the lineage is replayed without data."""
    search = Search(asking(EVOLUTION))
    *_, changed, finished = run(search)
    state, best = search.state, min(search.state.trials, key=lambda trial: trial.valid or 9e9)

    assert (isinstance(changed, Changed), isinstance(finished, Finished)) == (True, True)
    assert [trial.number for trial in state.trials] == [*range(8)]
    assert state.network.structure == search.space.architecture(best.picks)
    assert search.data.mean_loss(search.network.eval(), search.data.validation) == pytest.approx(best.valid, rel=1e-12)
    assert state.updates == sum(trial.trained for trial in state.trials)
    assert [*replay(search.strategy, state.lineage, {}, PLUGINS)][-1] == state.network.structure
    assert len({json.dumps(trial.scores) for trial in state.trials}) > 1


def test_only_trials_of_equal_budget_are_compared() -> None:
    """The best network is one of the largest budget, however good a cheaper one was."""
    search = Search(asking(Noted(budgets=(15, 1, 30))))
    run(search)
    best = [trial for trial in search.state.trials if trial.best]
    dear = [trial for trial in search.state.trials if trial.budget == 30]

    assert best[-1].valid == min(trial.valid for trial in dear if trial.valid is not None)
    assert all(trial.budget != 1 for trial in best)


def test_the_test_split_is_not_read() -> None:
    """Trials are decided without the test split."""
    strategy = asking(EVOLUTION)
    data = strategy.task.load(torch.device("cpu"), torch.float64)

    def read(index: torch.Tensor) -> None:
        raise AssertionError("the test split was read")

    object.__setattr__(data.test, "batch", read)
    run(Search(strategy, data=data))


@attrs.frozen
class Inspecting(Evaluator):
    """Trains, and checks what a child inherits."""

    name: ClassVar[str] = "inspecting"
    inherited: ClassVar[list[int]] = []

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        network = bench.build(structure, seed, parent)
        if parent is not None:
            found, fresh = dict(network.named_parameters()), dict(bench.build(structure, seed).named_parameters())
            shared = {name for name in found if name in parent.tensors}
            for name, value in found.items():
                assert torch.equal(value, parent.tensors[name] if name in shared else fresh[name])
            self.inherited.append(len(shared))
        return bench.train(network, budget, seed)


def test_a_child_starts_from_the_weights_of_its_parent() -> None:
    """Every tensor that it shares with its parent is the parent's after training, and all others are fresh."""
    search = Search(asking(EVOLUTION, evaluator=Inspecting()))
    run(search)
    children = [trial for trial in search.state.trials if trial.parent is not None]

    assert len(children) == len(Inspecting.inherited) == 5
    assert all(Inspecting.inherited)


@pytest.mark.parametrize(
    ("architect", "most"), [(EVOLUTION, 3 + 3 + 3 + 1), (RandomSearch(8, 1), 3 + 1)], ids=["inheriting", "random"]
)
def test_weights_that_nobody_needs_are_dropped(architect: AskTellArchitect, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state holds those of the population, of the parents in flight, of the results that wait, and of the best trial."""
    shuffle(monkeypatch)
    search, counts = Search(asking(architect)), list[int]()
    run(search, lambda: counts.append(len(search.state.asking.weights) if search.state.asking else 0))

    assert 1 < max(counts) <= most
    assert counts[-1] == 0


def test_trials_in_a_table() -> None:
    """No network is trained, and the architecture of the least value is found."""
    space = Search(asking(RandomSearch(1, 1))).space
    values = {(a, b, c): float(abs(a - 3) + abs(b - 1) + c) for a in range(5) for b in range(5) for c in range(5)}
    architect = RegularisedEvolution(population=6, sample=4, trials=120, updates=10)
    search = Search(asking(architect, evaluator=Table.of(values)))
    records = run(search)
    best = [trial for trial in search.state.trials if trial.best][-1]

    assert (best.valid, best.picks) == (0.0, (3, 1, 0))
    assert search.network.structure == space.architecture((3, 1, 0))
    assert len(records) == 242
    check_resumes_everywhere(asking(attrs.evolve(architect, trials=8), evaluator=Table.of(values)))


@attrs.frozen
class Wrong(RandomSearch):
    """A random search that makes one mistake, which `fault` names."""

    fault: str = ""

    def start(self, space: Space, seed: Seed) -> Memory:
        return Memory({"value": float("nan")} if self.fault == "memory" else {})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        structure = space.supernet if self.fault == "supernet" else space.architecture(space.random(seed))
        if self.fault == "nothing":
            return memory, None
        return memory, Request(
            structure, 0 if self.fault == "budget" else 1, 0 if self.fault == "parent" and number == 4 else None
        )

    def needs(self, memory: Memory) -> Set[int]:
        return frozenset()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("memory", "returned a memory that cannot be stored"),
        ("supernet", "requests trial 0, but the structure is no architecture of the space"),
        ("budget", "with budget 0; it must be a whole number of at least 1"),
        ("parent", "requests trial 4 with the weights of trial 0, which `needs` did not name"),
        ("nothing", "requested no trial"),
    ],
)
def test_a_wrong_answer_of_an_architect_is_our_error(fault: str, message: str) -> None:
    """The message says what the architect returned and what to return instead."""
    with pytest.raises(StrategyError, match=message):
        run(Search(asking(Wrong(9, fault=fault))))


def test_a_search_whose_trials_all_diverge_is_an_error() -> None:
    """There is nothing to hand over."""
    strategy = asking(RandomSearch(3, 3), optimiser=Optimiser("sgd", learning_rate=1e200))

    with pytest.raises(NonFiniteError, match="the training of all 3 architectures diverged: lower the learning rate"):
        run(Search(strategy))


@pytest.mark.parametrize("table", [False, True])
def test_the_comparison_is_that_of_other_runs(table: bool) -> None:
    """The found architecture, random ones of its space and baselines are trained with the updates of the search."""
    values = {(a, b, c): 1.0 for a in range(5) for b in range(5) for c in range(5)}
    changes = {"evaluator": Table.of(values)} if table else {}
    search = Search(asking(RandomSearch(3, 4), seeds=2, **changes))
    run(search)
    for _ in search.compare(plugins=PLUGINS):
        pass
    names = [e.name for e in search.state.evaluations]
    trained = ["found cell, trained from scratch"] * 2 + ["random architecture"] * 2 + ["last value"]

    assert names == ([] if table else ["found cell, weights of the search"]) + trained
    assert search.state.phase == "handed over"
    assert all(e.trained <= search.state.updates for e in search.state.evaluations)


def test_worker_processes_give_the_same_bytes(tmp_path: Path) -> None:
    """Three processes give what one gives."""
    _, csv, *_ = small_series(tmp_path)
    shipped = asking(EVOLUTION).to_dict() | {
        "task": {"name": "forecasting", "csv": csv, "window": 3},
        "backbone": {"name": "two_to_one", "hidden": 2},
        "criterion": {"name": "epochs", "epochs": 1},
    }
    strategy = Strategy.from_dict(shipped)
    searches = [Search(strategy), Search(strategy)]
    for workers, search in zip((1, 3), searches, strict=True):
        run(search, plugins=installed(), workers=workers)

    assert digest(searches[0].state) == digest(searches[1].state)


def kept(folder: Folder) -> dict[str, bytes]:
    """The journals of a run, its last commit, and the weights of trials."""
    commit = max(path for path in (folder.path / "commits").iterdir() if path.name.isdigit())
    files = [*folder.path.glob("*.jsonl"), commit / "state.json", commit / "tensors.safetensors"]
    files += (folder.path / "commits" / "shared").iterdir()
    return {path.name: path.read_bytes() for path in files}


def test_a_run_folder_resumes_at_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed at any event, also between an arrival and its turn, leaves the same journals and the same state."""
    strategy = asking(EVOLUTION)
    whole = Folder.create(tmp_path / "whole", strategy, PLUGINS)
    search, keeper = whole.search()
    run(search, each_record=keeper)
    shuffle(monkeypatch)
    living = Folder.create(tmp_path / "living", strategy, PLUGINS)
    search, keeper = living.search()
    for event, record in enumerate(search.records(plugins=PLUGINS)):
        keeper(record)
        if event % (1 if FULL else 5) == 0:  # a copy is what a kill would leave
            shutil.copytree(living.path, tmp_path / f"killed at event {event}")
    copies = [*tmp_path.glob("killed*")]
    for path in copies:
        broken = Folder.open(path, PLUGINS)
        search, keeper = broken.search()
        run(search, each_record=keeper)

        assert kept(broken) == kept(whole), path.name
    assert len(copies) == (18 if FULL else 4)


def test_the_weights_of_a_trial_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit refers to their file, also after the run was resumed; when no commit needs a file any more, it is removed."""
    written: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (written.append(Path(target).stem), replace(path, target))[1])
    folder = Folder.create(tmp_path / "run", asking(EVOLUTION), PLUGINS)
    shared = folder.path / "commits" / "shared"
    search, keeper = folder.search()
    present: set[str] = set()
    for _, record in zip(range(9), search.records(plugins=PLUGINS), strict=False):
        keeper(record)
    search, keeper = folder.search()
    for record in search.records(plugins=PLUGINS):
        keeper(record)
        present = {path.stem for path in shared.iterdir()}

        assert trial_weights(search.state).keys() <= present
        assert len(present) <= 3 + 3 + 3 + 1 + 1  # as in the state, and one that only the commit before needs
    digests = [stem for stem in written if len(stem) == 64]

    assert len(digests) == len({*digests}) == 8
    keeper.commit()
    assert not [*shared.iterdir()]


def test_one_command_for_both_kinds_of_architects(tmp_path: Path) -> None:
    """The command searches, compares, writes a summary and a picture, and leaves a finished run as it is."""
    out = tmp_path / "run"
    options = "--architect regularised_evolution:population=2,trials=4,updates=1 --nodes 2 --hidden 2 --equal units --seeds 1 --workers 1"
    arguments = ["search", *options.split(), *small_series(tmp_path), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    again = CliRunner().invoke(cli, ["resume", str(out)], catch_exceptions=False)
    records = [from_line(line) for line in (out / "trials.jsonl").read_bytes().splitlines()]

    assert done.exit_code == 0, done.output
    assert "the space has 25 architectures" in done.output
    assert re.search(r"trial    3  budget 1  updates +\d+  valid", done.output)
    assert "is finished" in again.output
    assert [record.number for record in records] == [0, 1, 2, 3]
    assert "updates and evaluated 4 architectures in trials." in (out / "summary.md").read_text()
    assert load_model(out).network.structure.decided
    assert {"trials.png", "cell.png", "architecture.json"} <= {path.name for path in out.iterdir()}


def test_a_table_from_the_command_line(tmp_path: Path, no_pictures: None) -> None:
    """The strategy of the run names the table by its absolute path and digest."""
    table = tmp_path / "table.json"
    rows = [{"picks": [a, b], "valid": (a - 1) ** 2 + b} for a in range(5) for b in range(5)]
    table.write_text(json.dumps({"options": [5, 5], "rows": rows}))
    out = tmp_path / "run"
    options = f"--architect random_search:trials=6,updates=1 --evaluator table:file={table} --nodes 2 --hidden 2 --equal units --workers 1"
    arguments = ["search", *options.split(), *small_series(tmp_path), "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert "weights of the search" not in done.output
    assert hashlib.sha256(table.read_bytes()).hexdigest() in (out / "strategy.toml").read_text()


def test_a_killed_run_with_two_workers_ends_like_a_whole_one_with_one(tmp_path: Path, no_pictures: None) -> None:
    """After a SIGKILL between two trials, `nasframe resume` leaves the same trials, evaluations and weights."""
    options = "--architect regularised_evolution:population=2,trials=6,updates=1,inherit=true --nodes 2 --hidden 2 --equal units --seeds 1"
    arguments = ["search", *options.split(), *small_series(tmp_path)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    CliRunner().invoke(cli, [*arguments, "--workers", "1", "--out", str(whole)], catch_exceptions=False)
    with forked(command, [*arguments, "--workers", "2", "--out", str(broken)]) as process:
        # The third line is not written before the state with two trials is committed.
        while not (broken / "trials.jsonl").exists() or (broken / "trials.jsonl").read_bytes().count(b"\n") < 3:
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
    done = CliRunner().invoke(cli, ["resume", str(broken), "--workers", "2"], catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert "trial    1" not in done.output
    for name in ("trials.jsonl", "evaluations.jsonl", "weights.safetensors", "architecture.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
