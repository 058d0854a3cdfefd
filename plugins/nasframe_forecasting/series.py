"""Series: tables of numbers in the order of time, read from CSV and standardised.

`seattle_weather.csv.gz` holds the daily weather of Seattle from 2012-01-01 to 2015-12-31 without gaps: precipitation,
highest and lowest temperature, wind. It is from the US National Oceanic and Atmospheric Administration (NOAA), by way
of the package vega_datasets 0.9.0, and in the public domain.
"""

from __future__ import annotations

import csv
import gzip
import math
from importlib import resources
from typing import TextIO

import attrs
import torch
from torch import Tensor

from nasframe import DataError

DATE = "date"


@attrs.frozen(eq=False)
class Series:
    """Rows [rows, columns] in float64, the earliest first, the columns' names, and what errors call the whole."""

    source: str
    names: tuple[str, ...]
    rows: Tensor


def shipped(name: str) -> Series:
    """The series of that name that comes with this package."""
    packed = resources.files(__package__) / f"{name}.csv.gz"
    with packed.open("rb") as file, gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return read(stream, name)


def read(stream: TextIO, source: str) -> Series:
    """The series in a CSV text: a row of column names, then a row of numbers for each time; column `date` is left out.

    A DataError counts rows as a spreadsheet does: the names are row 1.
    """
    header, *records = _table(stream, source)
    names = {column: _name(cell, f"{source}, row 1, column {column + 1}") for column, cell in enumerate(header)}
    taken = {column: name for column, name in names.items() if name != DATE}
    if not taken or not records:
        raise DataError(
            f"{source} has {len(taken)} columns to forecast and {len(records)} rows below their names; "
            "write at least one of each"
        )
    rows = [
        [_number(record[column], f"{source}, row {row}, column {name!r}") for column, name in taken.items()]
        for row, record in enumerate(records, 2)
    ]
    return Series(source, tuple(taken.values()), torch.tensor(rows, dtype=torch.float64))


def standardised(series: Series, train: int) -> Tensor:
    """The rows less the mean of the first `train` rows, over the standard deviation of these: [rows, columns]."""
    known = series.rows[:train]
    deviation = known.std(0, correction=0)
    for name, column, spread in zip(series.names, known.T, deviation.tolist(), strict=True):
        low, high = column.min().item(), column.max().item()
        # rounding can give a constant column a deviation above 0, and overflow can make one infinite
        if low == high or not 0 < spread < math.inf:
            raise DataError(
                f"{series.source}, column {name!r} cannot be standardised: its {train} training rows lie between {low} "
                f"and {high} with a standard deviation of {spread}; leave it out, or write it in another unit"
            )
    return (series.rows - known.mean(0)) / deviation


def _table(stream: TextIO, source: str) -> list[list[str]]:
    """The cells of a CSV text: one row at least, and all rows of one length."""
    try:
        table = list(csv.reader(stream, strict=True))
    except csv.Error as error:
        raise DataError(f"{source} is not CSV: {error}; write a line a row, with commas between the values") from error
    if not table:
        raise DataError(f"{source} is empty; write a row of column names, then a row of numbers for each time")
    for row, record in enumerate(table, 1):
        if len(record) != len(table[0]):
            raise DataError(
                f"{source}, row {row} has {len(record)} values, but row 1 names {len(table[0])} columns; "
                "write one value for each column"
            )
    return table


def _name(cell: str, where: str) -> str:
    """The name in a cell of the first row; a number there means that the names are missing."""
    name = cell.strip()
    if not name or _parsed(name) is not None:
        raise DataError(f"{where} is {cell!r}, which is no name; begin with a row of column names")
    return name


def _number(cell: str, where: str) -> float:
    """The finite number in a cell."""
    value = _parsed(cell)
    if not cell.strip():
        raise DataError(f"{where} has no value; write a number, or leave out the row or the column")
    if value is None or not math.isfinite(value):
        raise DataError(
            f"{where} is {cell!r}, which is no finite number; write one, or leave out the row or the column "
            f"(a column {DATE!r} is not read)"
        )
    return value


def _parsed(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
