"""The reproduction on NAS-Bench-201: its searches run on any table, and its expectations are exact."""

from __future__ import annotations

import gzip
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full import full_only
from nasframe_papers import nas_bench_201 as reproduction
from nasframe_papers.nas_bench_201 import REWARD, SCORES, NasBench201Searches, expected

from nasframe.errors import DataError

CIFAR = SCORES["CIFAR-10"]


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_the_expectation_of_random_search_is_exact(n: int) -> None:
    """It is the mean over all sets of n cells, where cells of equal validation accuracy are chosen equally often."""
    rows = zip([70.0, 80.0, 80.0, 75.0, 90.0, 60.0], [91.0, 92.0, 90.0, 93.0, 94.0, 89.0], strict=True)
    table = {str(i): {REWARD: valid, CIFAR: test} for i, (valid, test) in enumerate(rows)}
    chosen: list[float] = []
    for cells in itertools.combinations(table.values(), n):
        best = max(cell[REWARD] for cell in cells)
        tied = [cell[CIFAR] for cell in cells if cell[REWARD] == best]
        chosen += tied * (2 // len(tied))
    mean, std = expected(table, CIFAR, n)
    assert mean == pytest.approx(statistics.fmean(chosen))
    assert std == pytest.approx(statistics.pstdev(chosen))


def files(folder: Path) -> None:
    """Write a table in which 3x3 convolutions are good, and a few small images."""
    lines = [",".join(["ops", REWARD, *SCORES.values()])]
    for digits in itertools.product("01234", repeat=6):
        lines.append(f"{''.join(digits)},{80 + digits.count('3')},{90 + digits.count('3')},70,40")
    with gzip.open(folder / "nasbench201.csv.gz", "wt") as stream:
        stream.write("\n".join(lines))
    pixels = np.random.default_rng(0).integers(0, 256, (48, 6, 6, 3)).astype(np.uint8)
    labels = np.arange(48) % 2
    np.savez(folder / "cifar10_12k.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])


#: searches of many steps, which take seconds at any size
LONG = {"DARTS, second order", "DARTS, exact second order", "SGAS", "elimination", reproduction.HALVING}


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=full_only)])
def test_every_search_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    """Each search has a cell with its accuracies; what reads the table finds its best cell among those that it queried."""
    files(tmp_path)
    monkeypatch.setattr(reproduction, "kept", lambda function, trials, *rest: map(function, trials))
    names = [name for name in reproduction.NAMES if (name in LONG) == long]
    options: dict[str, Any] = {"trials": 1, "channels": 1, "images": 40, "epochs": 1, "queries": 5, "drawn": 3}
    rows = [*NasBench201Searches(searches=names, **options, data=str(tmp_path)).rows(tmp_path, print)]
    searches = {row["search"]: row for row in rows if "search" in row}
    chosen = [] if long else [reproduction.TE_NAS, reproduction.WEIGHTS]
    assert [*searches][4:] == [*names, *chosen]  # after four baselines
    assert searches["333333, no search"]["CIFAR-10"] == 96
    for name, row in searches.items():
        if "cells" in row:
            assert row["CIFAR-10"] == 90 + row["cells"].count("3"), name
        if name in (*reproduction.SUPERNETS, reproduction.HALVING):
            assert row["updates"] > 0, name
    scores = [] if long else [*reproduction.ZERO_COST, *chosen]
    assert [row["score"] for row in rows if "score" in row] == scores


def test_searches_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those are made, with the same results as among all, and the choices that need no further search are added."""
    files(tmp_path)
    monkeypatch.setattr(reproduction, "kept", lambda function, trials, *rest: map(function, trials))
    options: dict[str, Any] = {"trials": 1, "channels": 1, "images": 40, "queries": 5, "drawn": 3, "data": str(tmp_path)}

    def cells(*searches: str) -> dict[str, str]:
        rows = NasBench201Searches(searches=[*searches], **options).rows(tmp_path, print)
        return {row["search"]: row["cells"] for row in rows if "cells" in row}

    both, one = cells("random search on the table", "regions"), cells("regions")

    assert [*both] == ["333333, no search", "random search on the table", "regions", reproduction.WEIGHTS]
    assert [*one] == ["333333, no search", "regions", reproduction.WEIGHTS]
    assert one.items() <= both.items()
    with pytest.raises(
        ValueError, match=r"searches is \('DARTS',\); it must be a list of some of 'DARTS, first order', 'GDAS'"
    ):
        NasBench201Searches(searches=["DARTS"])


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    """A column that is missing, or an accuracy that is no number, is named before anything is trained."""
    files(tmp_path)
    for change, message in ((("imagenet16", "imagenet"), "imagenet16_test_e200"), ((",70,", ",nan,"), "an accuracy is 'nan'")):
        with gzip.open(tmp_path / "nasbench201.csv.gz", "rt") as stream:
            text = stream.read()
        with gzip.open(tmp_path / "nasbench201.csv.gz", "wt") as stream:
            stream.write(text.replace(*change, 1))
        with pytest.raises(DataError, match=message):
            next(iter(NasBench201Searches(data=str(tmp_path)).rows(tmp_path, print)))
        with gzip.open(tmp_path / "nasbench201.csv.gz", "wt") as stream:
            stream.write(text)


def test_without_data_there_are_no_rows(tmp_path: Path) -> None:
    """The missing files are named, and nothing is computed."""
    said: list[str] = []
    assert [*NasBench201Searches(data=str(tmp_path)).rows(tmp_path, said.append)] == []
    assert len(said) == 2
