"""Series: tables of numbers in the order of time, read from CSV and standardised.

`seattle_weather.csv.gz` holds the daily weather of Seattle from 2012-01-01 to 2015-12-31 without gaps: precipitation,
highest and lowest temperature, wind. It is from the US National Oceanic and Atmospheric Administration (NOAA), by way
of the package vega_datasets 0.9.0, and in the public domain.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path

import attrs
import torch
from torch import Tensor

from nasframe import Scale
from nasframe.errors import DataError

#: the name of a column of dates where none is named, in upper or lower case
DATE = "date"


@attrs.frozen(eq=False)
class Series:
    """Rows [rows, columns] in float64, the earliest first, and their numbers in the file; the columns' names; what errors
    call the whole.
    """

    source: str
    names: tuple[str, ...]
    rows: Tensor
    numbers: tuple[int, ...]


def shipped(name: str) -> bytes:
    """The file of the series of that name that comes with this package."""
    return (resources.files(__package__) / f"{name}.csv.gz").read_bytes()


def stored(path: str) -> bytes:
    """The file at a path."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise DataError(f"the CSV file {path} cannot be read: {error}; give the path of a file that can") from error


def read(
    content: bytes,
    source: str,
    *,
    columns: Sequence[str] = (),
    date: str | None = None,
    drop: bool = False,
    returns: bool = False,
) -> Series:
    """The series in a CSV file, plain or gzipped: a row of column names, then a row of numbers for each time.

    A DataError counts rows as a spreadsheet does: the names are row 1.

    Args:
        columns: those to read, in that order; by default all but the dates.
        date: the column of dates, which must ascend; by default the one named `date`, if there is one.
        drop: leave out the rows in which a column that is read has no value.
        returns: the logarithm of each row over the row before it, of those that were not left out.
    """
    header, *records = _table(_text(content, source), source)
    names = _names(header, source)
    date = next((name for name in names if name.lower() == DATE), None) if date is None else date
    chosen = _chosen(names, columns, date, source)
    if not chosen or not records:
        raise DataError(
            f"{source} has {len(chosen)} columns to forecast and {len(records)} rows below their names; "
            "write at least one of each"
        )
    kept = {
        row: record
        for row, record in enumerate(records, 2)
        if not (drop and any(not record[column].strip() for column in chosen.values()))
    }
    if date is not None:
        _check_dates(((row, record[names.index(date)]) for row, record in kept.items()), f"{source}, column {date!r}")
    table = [
        [_number(record[column], f"{source}, row {row}, column {name!r}", returns) for name, column in chosen.items()]
        for row, record in kept.items()
    ]
    rows, numbers = torch.tensor(table, dtype=torch.float64).reshape(-1, len(chosen)), tuple(kept)
    if returns:
        source, rows, numbers = f"the log returns of {source}", torch.log(rows[1:] / rows[:-1]), numbers[1:]
    return Series(source, tuple(chosen), rows, numbers)


def standardising(series: Series, train: int) -> Scale:
    """Rows less the mean of the first `train` rows of the series, over the standard deviation of these, in float64."""
    known = series.rows[:train]
    deviation = known.std(0, correction=0)
    for name, column, spread in zip(series.names, known.T, deviation.tolist(), strict=True):
        low, high = column.min().item(), column.max().item()
        # rounding can give a constant column a deviation above 0
        if low == high:
            raise DataError(
                f"{series.source}, column {name!r} is constant, {low} in all of its {train} training rows, and cannot be "
                "standardised; choose other columns"
            )
        # overflow can make a deviation infinite, and underflow 0
        if not 0 < spread < math.inf:
            raise DataError(
                f"{series.source}, column {name!r} cannot be standardised: its {train} training rows lie between {low} "
                f"and {high} with a standard deviation of {spread}; leave it out, or write it in another unit"
            )
    return Scale(known.mean(0), deviation)


def check_finite(rows: Tensor, series: Series) -> None:
    """Refuse standardised rows of the series that have left the range of their dtype."""
    for t, column in (~rows.isfinite()).nonzero()[:1].tolist():
        raise DataError(
            f"{series.source}, row {series.numbers[t]}, column {series.names[column]!r} is {series.rows[t, column].item()}, "
            f"which is too far from the training rows to be standardised in {rows.dtype}; leave out the row or the column"
        )


def _text(content: bytes, source: str) -> str:
    """The text of a file, plain or gzipped, without blank lines at its end."""
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{source} is damaged or cut off: {error}; make the .gz file anew") from error
    try:
        text = content.decode("utf-8-sig")
        end = text.find("\0")
    except UnicodeDecodeError as error:
        text = error.object[: error.start].decode()
        end = len(text)
    if end >= 0:
        line = text.count("\n", 0, end) + 1
        raise DataError(f"{source}, line {line} is no text in UTF-8; save the table as CSV in UTF-8, plain or gzipped")
    return text.rstrip()


def _table(text: str, source: str) -> list[list[str]]:
    """The cells of a CSV text: one row at least, and all rows of one length."""
    if not text:
        raise DataError(f"{source} is empty; write a row of column names, then a row of numbers for each time")
    first = text.split("\n", 1)[0]
    if ";" in first and "," not in first:
        raise DataError(f"{source}, row 1 has semicolons and no comma; separate the values by commas, with a point in numbers")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        table = list(reader)
    except csv.Error as error:
        raise DataError(
            f"{source}, line {reader.line_num} is not CSV: {error}; write a line a row, with commas between the values"
        ) from error
    for row, record in enumerate(table, 1):
        if len(record) != len(table[0]):
            raise DataError(
                f"{source}, row {row} has {len(record)} values, but row 1 names {len(table[0])} columns; "
                "write one value for each column"
            )
    return table


def _names(header: Sequence[str], source: str) -> list[str]:
    """The names in the first row; a number there means that they are missing."""
    names: list[str] = []
    for column, cell in enumerate(header, 1):
        name, where = cell.strip(), f"{source}, row 1, column {column} is {cell!r}, which is"
        if not name or _parsed(name) is not None:
            raise DataError(f"{where} no name; begin with a row of column names")
        if name in names:
            raise DataError(f"{where} the name of column {names.index(name) + 1}, too; give each column a name of its own")
        names.append(name)
    return names


def _chosen(names: Sequence[str], columns: Sequence[str], date: str | None, source: str) -> dict[str, int]:
    """The names of the columns to read, and where they stand."""
    for name in (*columns, *([] if date is None else [date])):
        if name not in names:
            raise DataError(f"{source} has no column {name!r}; it has: {', '.join(names)}")
    for place, name in enumerate(columns):
        if name == date:
            raise DataError(f"{source}, column {name!r} holds the dates, which are not forecast; leave it out of the columns")
        if name in columns[:place]:
            raise DataError(f"{source}, column {name!r} is chosen twice; choose each column once")
    return {name: names.index(name) for name in columns or names if name != date}


def _check_dates(cells: Iterable[tuple[int, str]], source: str) -> None:
    """Refuse dates that do not ascend from row to row."""
    dates = ((row, cell.strip(), _date(cell, f"{source}, row {row}")) for row, cell in cells)
    for (before, earlier, start), (row, later, end) in itertools.pairwise(dates):
        what = f"{source}, row {row} is {later!r} after {earlier!r} in row {before}"
        if (start.utcoffset() is None) != (end.utcoffset() is None):
            raise DataError(f"{what}, of which one has a UTC offset; write it to all times or to none")
        if end <= start:
            fault = "the same time twice" if end == start else "back in time"
            raise DataError(f"{what}, {fault}; write the rows in the order of time, one for each time")


def _date(cell: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(cell.strip())
    except ValueError as error:
        raise DataError(
            f"{where} is {cell!r}, which is no day or time in ISO 8601; write a day as 2012-01-31, a time as 2012-01-31T18:00"
        ) from error


def _number(cell: str, where: str, positive: bool) -> float:
    """The finite number in a cell; a positive one if asked."""
    value = _parsed(cell)
    if not cell.strip():
        raise DataError(
            f"{where} has no value; write a number, choose other columns, or leave out such rows (--missing drop, or missing='drop')"
        )
    if value is None or not math.isfinite(value):
        raise DataError(
            f"{where} is {cell!r}, which is no finite number; write one, or choose other columns "
            f"(a column of dates is not read if it is named {DATE!r} or is the task's option date)"
        )
    if positive and value <= 0:
        raise DataError(
            f"{where} is {cell!r}, which has no log return; write a price above 0, or leave out the row or the option returns"
        )
    return value


def _parsed(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None  # Python reads 1_000, and nobody else does
    except ValueError:
        return None
