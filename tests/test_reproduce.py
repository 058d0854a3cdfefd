"""Reproductions of papers: exact results are exact, and measured ones are complete."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from full import full_only
from nasframe_bilevel import FirstOrder, SecondOrder, reproduction
from nasframe_bilevel.toy import descend
from nasframe_papers import forecasting, images
from nasframe_papers.trials import kept, present
from squares import squared

from nasframe import NasframeError, Seed, Strategy, installed
from nasframe.cli.main import cli
from nasframe.search.plan import END, STAGE


def run(*arguments: str) -> Result:
    """Return the result of `nasframe reproduce` with these arguments."""
    result = CliRunner().invoke(cli, ["reproduce", *arguments])
    assert result.exception is None or isinstance(result.exception, NasframeError | SystemExit), result.exception
    return result


def rows(name: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Return the rows of a reproduction from its JSON, which is also written to its folder."""
    found: list[dict[str, Any]] = json.loads(run(name, "--json", "--out", str(folder), *options).stdout)
    assert json.loads((folder / "rows.json").read_text()) == found
    return found


def test_table_2(tmp_path: Path) -> None:
    """Counts from networks equal all 27 numbers of Jie & Gao's Table 2; the blank is 750; alphas are counted separately."""
    table = rows("table2", tmp_path)
    printed = [row for row in table if row["paper"] is not None]

    assert len(printed) == 27
    assert [row["ours"] for row in printed] == [row["paper"] for row in printed]
    assert [row["ours"] for row in table if row["paper"] is None] == [750]
    for row in table:
        assert row["built"] == row["operations"] + row["combination, ours"]
        assert row["combination, paper"] == 5 * (row["nodes"] or 0)
        edges = {"darts_recurrent": lambda m: 1 + m * (m - 1) // 2, "two_to_one": lambda m: m}.get(row["model"])
        assert row["combination, ours"] == (5 * edges(row["nodes"]) if edges else 0)


def test_the_toy_problem(tmp_path: Path) -> None:
    """All architects take the paper's number of iterations and end on w = alpha, nearest to (1, 1) for xi = 0.5."""
    table = rows("toy-bilevel", tmp_path)

    assert {row["xi"]: row["ours"] for row in table} == {0.0: 659, 0.3: 411, 0.5: 296, 0.7: 335}
    assert all(row["ours"] == row["paper"] == len(row["path"]) - 1 for row in table)
    assert all(abs(row["alpha"] - row["w"]) < 0.01 for row in table)
    assert min(table, key=lambda row: row["distance from (1, 1)"])["xi"] == 0.5
    assert (tmp_path / "trajectories.png").stat().st_size > 10_000


def here(function: Callable[[Any], Any], trials: Any, *_: Any) -> list[Any]:
    """Run the trials in this process, without keeping their results; replaces `kept`."""
    return [function(trial) for trial in trials]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, short_series: None) -> Path:
    """Replace the prices by small ones, and make searches of one epoch a stage, in this process."""
    steps = torch.randn(80, 3, generator=Seed(("G7",)).generator(), dtype=torch.float64)
    lines = ["c0,c1,c2", *(",".join(map(str, r)) for r in steps.cumsum(0).exp().tolist())]
    (tmp_path / forecasting.PRICES["G7"]).write_text("\n".join(lines))
    honest = forecasting._values

    def values(*given: Any) -> dict[str, Any]:
        quick = {"name": "any_of", "parts": [{"name": "patience", "epochs": 1}, {"name": "max_updates", "updates": 1}]}
        return {**honest(*given), "criterion": {**quick, "parts": [*quick["parts"], {"name": "max_nodes", "nodes": 3}]}}

    monkeypatch.setattr(forecasting, "_values", values)
    monkeypatch.setattr(forecasting, "VARIED", {"G7": ("new-2",)})
    monkeypatch.setattr(forecasting, "kept", here)
    return tmp_path


def test_forecasting(tiny: Path, tmp_path: Path) -> None:
    """Each series has a row for each search and reference, with its standard error, and for each of the paper's claims."""
    table = rows("forecasting:epochs=2", tmp_path / "out", "--trials", "2", "--data", str(tiny))
    g7 = {row["model"]: row for row in table if row["series"] == "G7" and "model" in row}

    assert {"mean", "last value", "ridge AR(1)", "LSTM", "GRU", "LSTM, 16 units", *forecasting.SEARCHES} < g7.keys()
    assert all(math.isfinite(row["ours"]) and row["paper"] is None for row in g7.values())
    assert all(row["error"] > 0 and len(row["curve"]["mean"]) == 2 for row in g7.values() if "error" in row)
    assert g7["new-2, exact second order"]["error of the finite difference"] > 0
    assert {row["ours"] for row in table if "claim" in row} <= {"confirmed", "not confirmed"}
    claims = [row["series"] for row in table if "claim" in row]
    assert {series: claims.count(series) for series in {row["series"] for row in table}} == {"G7": 5, "weather": 0}
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {s + m for s in ("G7", "weather") for m in ("", *(f"-{name}" for name in forecasting.SEARCHES))}


@full_only
def test_image_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a row for each search and for each trained network, with its standard error, and the cells are drawn."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8), np.arange(48, dtype=np.uint8) % 2
    np.savez(tmp_path / "tiny.npz", x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])
    monkeypatch.setattr(images, "FILES", {"tiny": "tiny.npz"})
    monkeypatch.setattr(images, "SEARCHES", {k: (a, n and 16) for k, (a, n) in images.SEARCHES.items()})
    monkeypatch.setattr(images, "kept", here)
    name = "image-cells:channels=1,cells=3,epochs=1,training=1"
    table = rows(name, tmp_path / "out", "--trials", "2", "--data", str(tmp_path))
    searches, models = ([row for row in table if key in row] for key in ("search", "model"))

    assert [row["search"] for row in searches] == [*images.SEARCHES]
    assert [row["model"] for row in models] == [*images.SEARCHES, images.PUBLISHED, images.RANDOM, images.RESNET]
    assert all(row["CPU seconds"] > 0 and row["peak MiB"] > 0 and row["zero is heaviest"].endswith("of 36") for row in searches)
    assert all(0 <= row["ours"] <= 1 and row["error"] >= 0 and row["parameters"] > 0 for row in models)
    assert len({*(tmp_path / "out").glob("*.png")}) == 2 * len(searches)


def test_missing_data_are_named(tmp_path: Path) -> None:
    """A series without its file is left out with a message that names the file and the option."""
    said: list[str] = []
    assert present(forecasting.PRICES, str(tmp_path), said.append) == {}
    assert (
        said[0]
        == f"G7 is left out: {tmp_path}/g7_2007_2017.csv.gz does not exist; give its folder with --data FOLDER or NASFRAME_DATA"
    )


def test_trials_are_kept(tmp_path: Path) -> None:
    """Trials in several processes keep their order; kept ones do not run again; a failure loses no other result."""
    said: list[str] = []

    def made(*seeds: int) -> list[Any]:
        said.clear()
        return [*kept(squared, [{"series": "s", "model": "m", "seed": seed} for seed in seeds], 2, tmp_path, said.append)]

    with pytest.raises(ValueError, match="nonnegative"):
        made(9, 4, -1)
    assert made(9, 4) == [{"square": 9}, {"square": 4}]
    assert said == []
    assert made(4, 16) == [{"square": 4}, {"square": 16}]
    assert said == ["2 of 2: s, m, seed 16"]
    assert not [*tmp_path.glob("*.new")]


def test_the_growing_searches_of_jie_and_gao() -> None:
    """The four growing searches have the protocol of Jie & Gao (2021), 4.1, and n_h = n_x."""
    modes = {
        "darts-grow-stage": ("darts_recurrent", STAGE),
        "darts-grow-end": ("darts_recurrent", END),
        "two-to-one-grow-stage": ("two_to_one", STAGE),
        "two-to-one-grow-end": ("two_to_one", END),
    }
    named = {name: Strategy.named(name) for name in modes}

    assert {n: (s.backbone.name, s.plan) for n, s in named.items()} == modes
    for strategy in named.values():
        architect = strategy.architect
        assert isinstance(architect, FirstOrder)
        assert (strategy.batch, strategy.optimiser.learning_rate, architect.optimiser.learning_rate) == (50, 1e-3, 3e-4)
        assert strategy.optimiser.weight_decay == architect.optimiser.weight_decay == 0
        assert strategy.growth[0].sigma is None
        sizes = {"inputs": 7, "outputs": 7}
        cell = strategy.backbone.body(strategy.backbone.initial(sizes, 2)).layers
        assert (len(cell), cell[0].hidden) == (1, 7)


def test_reproductions_are_listed() -> None:
    """`--list` has a line for each reproduction, and unknown options and names are refused."""
    listed = json.loads(run("--list", "--json").stdout)

    assert {row["name"] for row in listed} == {
        "table2",
        "toy-bilevel",
        "forecasting",
        "genotypes",
        "image-cells",
        "nas-bench-201",
        "search-quality",
    }
    assert all(row["about"] for row in listed)
    assert "table2" in run().stdout
    assert "no such option: --trials; it is an option of reproduction 'forecasting'" in run("table2", "--trials", "3").output
    assert "there is no reproduction 'table3'; did you mean 'table2'" in str(run("table3").exception)


class TestMutants:
    """Each is a reproduction with one fault, which the tests above notice."""

    def test_one_edge_too_few(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A DARTS backbone without the edge from the first node to the last has other counts."""
        honest = type(installed().make("backbone", "darts_recurrent"))
        wiring = honest.wiring
        monkeypatch.setattr(
            honest, "wiring", lambda self, cell, node: dict([*wiring(self, cell, node).items()][len(cell.nodes) > 2 :])
        )
        with pytest.raises(AssertionError):
            test_table_2(tmp_path)

    def test_first_order_instead_of_second(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """An architect without the unrolled step needs another number of iterations."""
        monkeypatch.setattr(SecondOrder, "gradient", FirstOrder.gradient)
        monkeypatch.setattr(reproduction, "TABLE", {xi: reproduction.TABLE[xi] for xi in (0.0, 0.5)})
        monkeypatch.setattr(reproduction, "descend", functools.partial(descend, most=300))
        _, faulty, exact = rows("toy-bilevel", tmp_path)

        assert faulty["ours"] == 300
        assert exact["ours"] == exact["paper"] == faulty["paper"] == 296


def test_the_searches_on_images() -> None:
    """The searches of DARTS and PR-DARTS on CIFAR-10 have the papers' numbers."""
    first, second = (Strategy.named(name) for name in ("darts-cifar10", "pr-darts"))
    for search, epochs, nodes, operations, rate, final in ((first, 40, 3, 8, 3e-4, 0.0), (second, 15, 4, 4, 6e-4, 0.01)):
        architect, weights = search.architect, search.optimiser
        assert isinstance(architect, FirstOrder)
        assert (search.backbone.channels, search.backbone.cells, search.nodes, search.batch) == (16, 8, nodes, 64)
        assert len(search.backbone.operations) == operations
        assert (weights.method, weights.learning_rate, weights.momentum, weights.weight_decay) == ("sgd", 0.025, 0.9, 3e-4)
        assert (weights.epochs, weights.final, search.criterion.epochs) == (epochs, final, epochs)
        alphas = architect.optimiser
        assert (alphas.method, alphas.learning_rate, alphas.betas, alphas.weight_decay) == ("adam", rate, (0.5, 0.999), 1e-3)
        assert (search.task.source, search.task.validation, search.task.flip, search.task.crop) == ("cifar10", 0.5, True, 4)


@pytest.mark.parametrize(("name", "drop_path"), [("darts-cifar10-retrain", 0.2), ("pr-darts-retrain", 0.3)])
def test_the_retrainings_on_images(name: str, drop_path: float) -> None:
    """The retrainings of DARTS and PR-DARTS have the papers' numbers, with reductions at one and two thirds."""
    strategy = Strategy.named(name)
    task, backbone = strategy.task, strategy.backbone

    assert (backbone.channels, backbone.cells, backbone.affine, backbone.auxiliary) == (36, 20, True, 0.4)
    assert backbone.drop_path == drop_path
    assert (task.validation, task.cutout, strategy.batch) == (0.0, 16, 96)
    assert (strategy.criterion.epochs, strategy.optimiser.epochs, strategy.optimiser.final) == (600, 600, 0.0)
    assert [place for place, type in enumerate(backbone.plan) if type == "reduction"] == [6, 13]
