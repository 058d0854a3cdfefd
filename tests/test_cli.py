"""The command line as a user runs it: in processes, on real data, with files."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import forked
import pytest
from full import FULL
from nasframe_forecasting.series import shipped
from nasframe_recurrent import TwoToOne
from rich.console import Console
from toy import toy_strategy

from nasframe import Optimiser, Search, Strategy, Structure, build, installed
from nasframe.cli.flags import OptionsCommand, PartType, strategy_values, without_effect
from nasframe.cli.main import main, search
from nasframe.cli.watch import Watch
from nasframe.records import Changed, EpochEnded
from nasframe.run import summary
from nasframe.search.compare import FOUND, INHERITED, RANDOM, RETRAINED
from nasframe.seeds import Seed
from nasframe.testing.fakes import Scripted

TINY = [
    "--workers",
    "1",
    "--hidden",
    "2",
    "--seeds",
    "1",
    "--budget",
    "1",
    "--criterion",
    "patience:epochs=1",
    "--criterion",
    "max_nodes:nodes=2",
    "--plan",
    "end",
]
RESULTS = [
    "metrics.jsonl",
    "lineage.jsonl",
    "evaluations.jsonl",
    "architecture.json",
    "weights.safetensors",
    "scales.safetensors",
    "summary.md",
    "summary.json",
]


PICTURES = ["cell.png", "learning.png", "mixing.png", "distribution.png", "forecast.png"]

NASFRAME = ["-c", "from nasframe.cli.main import main; main()"]


def nasframe(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(forked.command(*NASFRAME, *arguments), cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments of a tiny search on 300 days of the shipped series."""
    days = tmp_path_factory.mktemp("series") / "days.csv"
    days.write_bytes(b"".join(gzip.decompress(shipped("seattle_weather")).splitlines(keepends=True)[:301]))
    return ["search", "--csv", str(days), "--season", "7", *TINY]


@pytest.fixture(scope="module")
def finished(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a tiny search and return its folder."""
    folder = tmp_path_factory.mktemp("cli")
    # a process that is no copy, so that the runs that are compared with this one have another hash seed
    command, settings = [sys.executable, *NASFRAME, *tiny, "--out", "run"], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Handed over: the " in done.stdout
    assert done.stdout.endswith('load the network in Python: model = nasframe.load_model("run")\n')
    assert re.search(r"^\d+\.\d s in this process, \d+ MiB of memory at most$", done.stdout, re.MULTILINE)
    return folder / "run"


def test_a_run_leaves_its_results(finished: Path) -> None:
    """The folder has the strategy, records, network, pictures and the summary, whose first line names the network handed over."""
    for name in (*RESULTS, *PICTURES, "strategy.toml"):
        assert (finished / name).stat().st_size > 0, name
    values, text = json.loads((finished / "summary.json").read_text()), (finished / "summary.md").read_text()

    assert {FOUND, INHERITED, RANDOM, "mean", "last value", "LSTM", "GRU"} <= {row["name"] for row in values["rows"]}
    assert text.startswith("Handed over: the ")
    for cell in ("operations", "found operations"):
        assert "\n".join(f"- {site}: {operation}" for site, operation in values[cell].items()) in text
    assert ("The cell that the search found:" in text) == (values["operations"] != values["found operations"])


def test_the_page_of_runs_shows_a_table_of_the_summary(finished: Path) -> None:
    """The table of docs/runs.md has the columns and the rows that a run writes."""

    def table(page: Path) -> list[list[str]]:
        lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        return cells[[row[0] for row in cells].index("network") :]

    shown, written = table(Path(__file__).parent.parent / "docs" / "runs.md"), table(finished / "summary.md")

    assert shown[0] == written[0]
    assert [row[0] for row in shown[: len(written)]] == [row[0] for row in written]


def test_time_and_memory_are_printed_and_not_kept(finished: Path) -> None:
    """They are in none of the run's files, so that equal runs have equal bytes."""
    for path in finished.rglob("*"):
        assert path.is_dir() or b"MiB" not in path.read_bytes(), path


def test_a_model_is_loaded_in_another_process(finished: Path) -> None:
    """The run's folder is enough, and predictions are in the units of the data."""
    code = """
import torch, nasframe
model = nasframe.load_model(".")
temperatures = model(model.inputs.mean + model.inputs.std * torch.randn(10, 3, 4))[..., 1]
print(bool(((temperatures > -20) & (temperatures < 60)).all()))
"""
    done = subprocess.run(forked.command("-c", code), cwd=finished, capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "True", done.stderr


def test_the_written_strategy_runs_the_same_search_again(finished: Path, tmp_path: Path) -> None:
    """Two runs of one strategy have the same bytes in every result and picture."""
    done = nasframe("search", "--strategy", str(finished / "strategy.toml"), *TINY[:2], "--out", "again", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    for name in ("strategy.toml", *RESULTS, *PICTURES):
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM] if FULL else [signal.SIGINT])
def test_interrupted_and_resumed(finished: Path, tiny: list[str], tmp_path: Path, number: int) -> None:
    """A signal ends the run cleanly with a line that says how to continue, and the resumed run ends in the same bytes."""
    settings = os.environ | {"PYTHONUNBUFFERED": "1"}
    arguments = forked.command(*NASFRAME, *tiny, "--out", "run")
    with subprocess.Popen(arguments, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch" in line:
                process.send_signal(number)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "stopped; continue with: nasframe resume run" in rest
    done = nasframe("resume", "run", "--workers", "1", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    for name in RESULTS:
        assert (finished / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs the command line in this process, in an empty folder.

    It returns the exit status, the standard output and the standard error.
    """
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nasframe", *arguments])
        try:
            main()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


def test_a_found_cell_is_retrained(here, finished: Path, tmp_path: Path) -> None:
    """A run's folder and its architecture.json give the same bytes, and baselines that need no training are compared."""
    arguments = ["--strategy", str(finished / "strategy.toml"), "--backbone", "two_to_one:hidden=3"]
    for name, architecture in {"one": finished, "two": finished / "architecture.json"}.items():
        status, printed, _ = here("retrain", str(architecture), *arguments, "--out", name)
        assert status == 0
        assert "in this process" in printed
    one = tmp_path / "one"
    before = {name: (one / name).read_bytes() for name in RESULTS}
    assert here("resume", "one")[0] == 0
    summary = json.loads(before["summary.json"])

    assert before == {name: (one / name).read_bytes() for name in RESULTS}
    assert before == {name: (tmp_path / "two" / name).read_bytes() for name in RESULTS}
    assert not (one / "mixing.png").exists()
    assert [row["name"] for row in summary["rows"]] == [RETRAINED, "mean", "last value", "seasonal last value", "ridge AR(1)"]
    assert summary["prediction"]["parameters"] == summary["rows"][0]["parameters"]
    assert {json.loads(line)["phase"] for line in before["metrics.jsonl"].splitlines()} == {"retune"}


@pytest.mark.parametrize("losses", [{"train": 0.5}, {"train": 0.5, "valid": 0.25}], ids=["no validation", "validation"])
def test_the_line_of_an_epoch(losses: dict[str, float]) -> None:
    """It has the losses that were computed."""
    printed = io.StringIO()
    Watch(Console(file=printed))(EpochEnded(stage=0, phase="retune", epoch=3, updates=7, **losses))

    assert printed.getvalue().split("updates      7  ")[1] == "  ".join(f"{n} {v:.4f}" for n, v in losses.items()) + "\n"


def test_the_line_of_a_change_names_what_was_added_and_removed() -> None:
    """It names the operations at the first four sites, and how many other sites there are."""
    printed = io.StringIO()
    tanh, relu = {"1": {"operation": {"name": "tanh"}}}, {"2": {"operation": {"name": "relu"}}}
    added = {f"layer0/n{n}": tanh for n in range(5)}
    change = Changed(
        stage=0,
        phase="search",
        epoch=1,
        updates=3,
        change="edit",
        by="grower",
        why="grown",
        added=added,
        removed={"layer0/n0": relu},
        parent="a",
        child="b",
    )
    Watch(Console(file=printed))(change)

    assert "(layer0/n0 + tanh - relu; layer0/n1 + tanh; layer0/n2 + tanh; layer0/n3 + tanh; 1 more)" in printed.getvalue()


def test_growths_are_listed_with_their_gains() -> None:
    """Each growth has a row with its sites and both gains; a search without one has no table."""
    search = Search(toy_strategy(plan="end", criterion=Scripted(growths=2)))
    search.run()
    growths = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "grow"]
    rows = [line.split(" | ") for line in summary._changes(summary.changes(search.state))[4:] if line]

    assert len(growths) == len(rows) == 2
    for growth, row in zip(growths, rows, strict=True):
        assert growth.predicted is not None
        assert row[-1] == f"{growth.predicted:.3g} |"
        assert all(address in row[4] for address in growth.added)
    assert summary._changes([]) == []


def test_a_part_within_a_part() -> None:
    """It is given by its name or as a table within the options."""
    text = 'darts_convolutional:cells=3,operations=["identity",{name="separable",kernel=5,expansion=[1]}],channels=2'
    description = PartType().convert(text, None, None)

    assert description == {
        "name": "darts_convolutional",
        "cells": 3,
        "operations": ["identity", {"name": "separable", "kernel": 5, "expansion": [1]}],
        "channels": 2,
    }
    assert installed().make("backbone", description).operations[1].expansion == (1,)


def test_epochs_are_those_of_a_phase_and_of_its_learning_rate() -> None:
    """`--epochs` sets the criterion and the optimiser of the strategy."""
    values = strategy_values({"strategy": "darts-cifar10", "epochs": 7}, installed())

    assert values["criterion"] == {"name": "epochs", "epochs": 7}
    assert (values["optimiser"]["epochs"], values["optimiser"]["learning_rate"]) == (7, 0.025)


def test_brackets_in_a_description_are_printed(here) -> None:
    """A table prints what it is given, not what its library reads as markup."""
    assert "[x_t, h_{t-1}]" in here("plugins", "darts_recurrent")[1]
    assert "[x, h]" in here("plugins")[1]


def test_plugins_are_listed(here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is listed with a description, also as JSON, without those of plugins that are left out."""
    rows = json.loads(here("plugins", "--json")[1])
    parts = {(part.kind, part.name) for plugin in installed().found for part in plugin.parts}

    assert parts == {(row["kind"], row["name"]) for row in rows}
    assert {"kind", "name", "description", "plugin", "distribution", "version", "state"} == rows[0].keys()
    table = here("plugins")[1]
    assert all(row["name"] in table and row["description"] for row in rows)
    fewer = json.loads(here("--without", "nasframe_pruning", "plugins", "--json")[1])
    assert "strongest" not in {row["name"] for row in fewer}
    monkeypatch.setenv("NASFRAME_WITHOUT", "nasframe_pruning")
    assert fewer == json.loads(here("plugins", "--json")[1])


def test_a_part_is_described(here) -> None:
    """The description has the documentation and the options with their defaults, also as JSON."""
    (row,) = json.loads(here("plugins", "two_to_one", "--json")[1])
    assert (row["kind"], row["plugin"], row["documentation"]) == ("backbone", "nasframe_recurrent", inspect.getdoc(TwoToOne))
    assert [*row["options"]] == [field.name for field in attrs.fields(TwoToOne)]
    assert row["options"]["operations"] == "[sigmoid, tanh, relu, sum, prod]"
    text = here("plugins", "two_to_one", "separable")[1]
    assert "backbone two_to_one, of nasframe_recurrent (nasframe " in text
    assert "operation separable, of" in text
    assert re.search(r"^    dropout +0\.0$", text, re.MULTILINE)
    assert re.search(r"^    hidden +left out\n        n_h, the width of the state; if it is left out, n_x", text, re.MULTILINE)
    assert "\n    from nasframe_recurrent import TwoToOne\n" in text
    assert "Args:" not in text
    everything = json.loads(here("plugins", "nasframe", "--json")[1])
    assert {row["name"] for row in everything} == {part.name for plugin in installed().found for part in plugin.parts}


def test_a_strategy_is_described_by_its_file(here) -> None:
    """The description of a strategy is the text that a strategy file has, or the reason why it cannot be used here."""
    text = here("plugins", "default")[1]
    (row,) = json.loads(here("plugins", "default", "--json")[1])
    lacking = here("--without", "nasframe_pruning", "plugins", "default")[1]

    assert "No options" not in text
    assert "    seeds = 3\n" in text
    assert Strategy.from_toml(row["toml"]) == Strategy.named("default")
    assert "# there is no pruner 'strongest'" in lacking


ERRORS = {
    "a part that there is not": (
        ["plugins", "two_to_on"],
        "error: no distribution, plugin or part is called 'two_to_on'; did you mean 'two_to_one'?",
    ),
    "images for a recurrent cell": (
        ["search", "--task", "images"],
        "backbone 'two_to_one' needs the sizes inputs, outputs, and the task provides channels, classes, height, width",
    ),
    "a series for an image cell": (
        ["search", "--backbone", "darts_convolutional:cells=3"],
        "backbone 'darts_convolutional' needs the sizes channels, classes, height, width",
    ),
    "an operation of another backbone": (
        ["search", "--task", "images", "--backbone", 'darts_convolutional:operations=["identity","sigmoid_edge"]'],
        "operation 'sigmoid_edge' cannot be built at normal/i0-n0: its build() must accept channels, stride, affine by keyword (",
    ),
    "nothing held out": (["search", "--strategy", "digits", "--task", "images:validation=0.0"], "holds nothing out"),
    "unknown part": (
        ["search", "--backbone", "two_to_on"],
        "error: there is no backbone 'two_to_on'; did you mean 'two_to_one'?",
    ),
    "misspelt flag": (
        ["search", "--budgte", "9"],
        "no such option: --budgte; did you mean --budget? (chosen: task 'forecasting', backbone 'two_to_one', architect",
    ),
    "misspelt option as a flag": (["search", "--hiden", "9"], "no such option: --hiden; did you mean --hidden?"),
    "option of another part": (
        ["search", "--cells", "3"],
        "it is an option of backbone 'darts_convolutional', backbone 'nas_bench_201', backbone 'p",
    ),
    "nothing ends a phase": (
        ["search", "--strategy", "two-to-one-grow-end", "--criterion", "max_nodes:nodes=1"],
        "error: nothing ends a phase of training: the criterion 'max_nodes nodes=1' cannot, and the optimiser has no `epochs`. Give "
        "the optimiser `epochs`, or add a criterion that can, such as curvature or epochs or parameter_free or patience; any_of "
        "joins several",
    ),
    "nothing ends the growth": (
        ["search", "--epochs", "1"],
        "error: nothing ends the growth: the criterion 'epochs epochs=1' cannot",
    ),
    "an option twice": (
        ["search", "--columns", "load", "--columns", "humidity"],
        "--columns is given more than once; give it once, and separate several values by commas: --columns VALUE,VALUE",
    ),
    "a part twice": (
        ["search", "--task", "images", "--task", "forecasting"],
        "--task is given more than once, and only one can be used",
    ),
    "another part twice": (
        ["search", "--backbone=darts_recurrent", "--backbone", "two_to_one"],
        "--backbone is given more than once",
    ),
    "impossible value": (["search", "--hidden", "0"], "error: backbone 'two_to_one' cannot be made: hidden is 0"),
    "no such option": (["search", "--backbone", "two_to_one:hiden=2"], "has no key 'hiden'; did you mean 'hidden'?"),
    "no option": (["search", "--backbone", "two_to_one:hidden"], "the options of 'two_to_one:hidden' cannot be read as TOML"),
    "no strategy": (
        ["search", "--strategy", "new-3"],
        "error: there is no file new-3, and no strategy of that name; there are: darts-cifar10, darts-cifar10-retrain, ",
    ),
    "no plan": (
        ["search", "--plan", "steps.toml"],
        "stage, trials. --plan takes a name; the steps of another plan are written in a strategy file, one table [[plan]]",
    ),
    "no device": (["search", "--device", "cuda:99"], "error: device 'cuda:99' cannot be used here: "),
    "no run": (["resume", "nowhere"], "error: nowhere is no run folder: it contains no strategy.toml"),
    "no architecture": (
        ["retrain", "nowhere", "--strategy", "two-to-one-grow-end"],
        "error: the architecture nowhere cannot be read: [Errno 2] No such file or directory: 'nowhere'; give a file that a run",
    ),
    "nothing to retrain by": (["retrain", "nowhere"], "Missing option '--strategy'"),
    "missing plugin": (
        ["--without", "nasframe_pruning", "search"],
        "error: there is no pruner 'strongest'; did you mean 'strongest_of_site'?",
    ),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_is_one_line(here, tmp_path: Path, fault: str) -> None:
    """It has no traceback, the exit status is not 0, and no file is left."""
    arguments, message = ERRORS[fault]
    status, _, printed = here(*arguments)

    assert status != 0
    assert message in printed
    assert list(tmp_path.iterdir()) == []


def test_a_faulty_strategy_file_leaves_no_folder(here, tmp_path: Path) -> None:
    """The error names the file and the key."""
    (tmp_path / "hand.toml").write_text('[[criterion]]\nname = "patience"')
    message = "error: hand.toml: the strategy: criterion is a list; it must be one: write [criterion], not [[criterion]]\n"

    assert here("search", "--strategy", "hand.toml", "--out", "run") == (1, "", message)
    assert [path.name for path in tmp_path.iterdir()] == ["hand.toml"]


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (["--plan", "retrain", "--pruner", "strongest", "--growth", "node"], ["pruner", "growth"]),
        (["--plan", "end", "--evaluator", "train", "--in-flight", "2", "--pruner", "strongest"], ["evaluator", "in-flight"]),
        (["--evaluator", "train", "--in-flight", "2", "--pruner", "strongest"], ["pruner"]),
        (["--architect", "random_search", "--criterion", "max_updates:updates=9", "--growth", "node"], ["growth"]),
        (["--growth", "node", "--currency", "flops", "--criterion", "patience"], []),
    ],
)
def test_a_flag_without_effect_is_named(arguments: list[str], lost: list[str]) -> None:
    """Each flag that no step of the plan reads has a sentence, and no other flag has one."""
    flags: dict[str, Any] = {}

    @click.command(cls=OptionsCommand, params=[p for p in search.params if p.name != "out"])
    def parsed(**given: Any) -> None:
        flags.update(given)

    parsed.main(arguments, standalone_mode=False)
    strategy = Strategy.from_dict(strategy_values(flags, installed()))

    assert [sentence.split()[0] for sentence in without_effect(flags, strategy)] == [f"--{name}" for name in lost]


def test_a_search_that_diverges_at_once_leaves_no_folder(here, tiny: list[str], tmp_path: Path) -> None:
    """It would diverge again, so there is nothing to resume; the strategy file that it was started from stays."""
    optimiser = Optimiser("sgd", learning_rate=1e30)
    file = tmp_path / "steep.toml"
    file.write_text(attrs.evolve(Strategy.named("default"), optimiser=optimiser).to_toml())
    status, _, printed = here(*tiny, "--strategy", str(file))

    assert status == 1
    assert re.match(r"error: the training diverged in phase 'search' of stage 0, epoch 0, after \d+ updates, ", printed)
    assert [path.name for path in tmp_path.rglob("*")] == ["steep.toml", "runs"]


def test_the_strategy_file_is_complete(finished: Path) -> None:
    """The written strategy has the backbone of the structure that was found."""
    strategy = Strategy.read(finished / "strategy.toml")
    structure = Structure.from_json((finished / "architecture.json").read_text(), installed().make)

    assert strategy.backbone == structure.backbone
    assert build(structure, Seed((0,))).structure == structure
