"""CSV files of random series, for the tests of tables and of forecasting."""

from __future__ import annotations

import csv
import io
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings, strategies as st
from torch import Tensor

from nasframe import Seed

CPU = torch.device("cpu")
EXACT = torch.float64

drawn = settings(max_examples=40)


def dates(size: int) -> list[str]:
    """Return that many consecutive days."""
    return [str(date(2000, 1, 1) + timedelta(day)) for day in range(size)]


def text(rows: Tensor) -> bytes:
    """Return a CSV file with a column of dates first."""
    header = ["date", *(f"c{column}" for column in range(rows.shape[1]))]
    return written([header, *([day, *map(repr, row)] for day, row in zip(dates(len(rows)), rows.tolist(), strict=True))])


def written(cells: list[list[str]], encoding: str = "utf-8", **options: Any) -> bytes:
    """Return the cells as the bytes of a CSV file."""
    stream = io.StringIO()
    csv.writer(stream, **({"lineterminator": "\n"} | options)).writerows(cells)
    return stream.getvalue().encode(encoding)


def noise(size: int, columns: int, seed: int = 0) -> Tensor:
    """Rows of random numbers, no two of a column alike in practice."""
    return torch.randn(size, columns, dtype=EXACT, generator=Seed((seed,)).generator())


def small_series(folder: Path) -> list[str]:
    """Write a series of 40 rows to a folder and return the options of the command line that name it."""
    (folder / "series.csv").write_bytes(text(noise(40, 2)))
    return ["--csv", str(folder / "series.csv"), "--window", "3"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Rows and a window that fits them, down to one column and to the fewest rows."""
    window = draw(st.integers(1, 6))
    fewest = math.ceil(5 * (window + 1) / 3)
    size = draw(st.integers(fewest, fewest + 30))
    return noise(size, draw(st.integers(1, 4)), draw(st.integers(0, 2**32))), window
