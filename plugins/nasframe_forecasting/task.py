"""Forecasting: the next row of a multivariate series, or several, from a window of rows (Jie & Gao 2021, 4.1)."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from nasframe import Data, Split, Task
from nasframe.errors import DataError
from nasframe.network.model import Model, Scale, Signature
from nasframe.options import choice, flag, number
from nasframe_forecasting.references import change_references, references
from nasframe_forecasting.series import Series, check_finite, leaving_range, read, shipped, standardising, stored
from nasframe_forecasting.tables import Format

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: the series that come with this package, each with the number of rows in a season if it has any; the first one is the default
SHIPPED: Mapping[str, int | None] = {"seattle_weather": None, "melbourne_pedestrians": 24}
#: the rows of a window of a series without longer seasons
WINDOW = 10


def _is(wanted: str, allowed: Callable[[Any], bool]) -> Any:
    """Return a validator of a field that must hold what is wanted."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not allowed(value):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return check


def _is_encoding(value: Any) -> bool:
    try:
        b" ".decode(value)
    except UnicodeError:
        return True  # known, and one byte is no text in it
    except (LookupError, TypeError, ValueError):
        return False
    return True


def _unescaped(value: Any) -> Any:
    return "\t" if value == r"\t" else value  # a shell passes \t on as two characters


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_string = _is("a string, or left out", lambda value: value is None or isinstance(value, str))
_names = _is("a list of names", lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value))
_split = _is(
    "three numbers of rows, or left out",
    lambda value: (
        isinstance(value, tuple) and (not value or (len(value) == 3 and all(type(n) is int and n > 0 for n in value)))
    ),
)
_delimiter = _is(
    "one character, such as ';' or a tab", lambda value: isinstance(value, str) and len(value) == 1 and value not in '"\r\n\0'
)
_encoding = _is("an encoding that Python knows, such as 'latin-1'", _is_encoding)


@attrs.frozen
class Forecasting(Task):
    """Forecasting of the next row of a multivariate series, or of several rows at once.

    Inputs have shape (window, batch, columns), targets (batch, horizon * columns), and outputs of the network (window, batch, horizon *
    columns), of which the last step is the forecast, row after row. The first 60 % of the rows are for training, the next 20 % for
    validation, the rest for the test. A window belongs to the part of its target and may reach back into earlier rows. All rows are
    standardised by the mean and the standard deviation of the training rows; losses and metrics are in these units.

    With `scaling="window"`, targets have shape (batch, 2, horizon * columns), see `normalised_windows`.

    Args:
        csv: the path of a CSV file, plain or gzipped, instead of a shipped series: a row of column names, then a row of numbers
            for each time.
        series: the name of a shipped series.
        window: the number of rows that the network sees; by default 10, or a season if that is longer.
        horizon: the number of rows that are forecast from a window, all of them at once.
        split: the numbers of rows for training, validation and test, such as [8640, 2880, 2880]; rows behind these are left out. By
            default 60 %, 20 % and the rest.
        season: the number of rows after which the series roughly repeats, at most `window`. It adds the reference "seasonal last
            value". By default that of the shipped series, if the window holds it: a day of the pedestrians, none of the weather.
        columns: the columns to forecast, in this order; by default all that hold neither times nor an index.
        returns: forecast log(p[t] / p[t-1]) of the rows p, as is usual for prices; p must be above 0.
        missing: "fail" refuses an empty cell in these columns; "drop" leaves out its row, and a return is then over the
            rows that remain. Nothing is filled in.
        date: the column of times, which must ascend; by default the one named `date`, otherwise the first that holds times in
            ISO 8601 or another common form.
        scaling: "training" gives the network the standardised rows. "window" subtracts the last row of each window and divides by
            the standard deviation of the window, and undoes both in the forecast: for series whose level or spread moves, such as
            prices and trends (reversible instance normalisation; Kim et al. 2022).
        delimiter: the character between the values of a row.
        decimal: the decimal mark, "." or ","; with ",", points and spaces may separate thousands.
        encoding: the encoding of the file, such as "latin-1", "cp1252" or "utf-16".
        digest: the SHA-256 of the file in hexadecimal; a file with another digest is refused.
    """

    name: ClassVar[str] = "forecasting"
    replaces: ClassVar[Mapping[str, tuple[str, ...]]] = {"csv": ("series", "digest"), "series": ("csv", "digest")}
    csv: str | None = attrs.field(default=None, kw_only=True, validator=_string)
    series: str | None = attrs.field(
        default=attrs.Factory(lambda self: next(iter(SHIPPED)) if self.csv is None else None, takes_self=True)
    )
    window: int | None = number(None, low=1, whole=True, optional=True)
    season: int | None = number(None, low=1, whole=True, optional=True)
    horizon: int = number(1, low=1, whole=True)
    split: tuple[int, ...] = attrs.field(default=(), validator=_split, converter=_as_tuple)
    columns: tuple[str, ...] = attrs.field(default=(), validator=_names, converter=_as_tuple)
    returns: bool = flag(False)
    missing: str = choice("fail", "drop", default="fail")
    date: str | None = attrs.field(default=None, validator=_string)
    scaling: str = choice("training", "window", default="training")
    delimiter: str = attrs.field(default=",", validator=_delimiter, converter=_unescaped)
    decimal: str = choice(".", ",", default=".")
    encoding: str = attrs.field(default="utf-8", validator=_encoding)
    digest: str | None = attrs.field(default=None, validator=_string)

    @series.validator
    def _check_series(self, attribute: Any, value: Any) -> None:
        if self.csv is not None and value is not None:
            raise ValueError(f"series is {value!r} and csv is {self.csv!r}; give one of them")
        if self.csv is None and value not in SHIPPED:
            raise ValueError(f"series is {value!r}; it must be one of {', '.join(map(repr, SHIPPED))}, or csv a path")

    @season.validator
    def _check_season(self, attribute: Any, value: Any) -> None:
        if value is not None and self.window is not None and value > self.window:
            raise ValueError(f"season is {value} and window is {self.window}; the window must have at least a season")

    @scaling.validator
    def _check_scaling(self, attribute: Any, value: Any) -> None:
        if value == "window" and self.window == 1:
            raise ValueError("scaling is 'window' and window is 1, which has no spread; give a window of at least 2 rows")

    def lengths(self) -> tuple[int, int | None]:
        """Return the number of rows in a window and in a season, None without seasons, with the defaults of the series."""
        season = self.season or SHIPPED.get(self.series or "")
        window = self.window or max(WINDOW, season or 0)
        return window, season if season is None or season <= window else None

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return the data of the series."""
        source = self.series if self.csv is None else self.csv
        assert source is not None
        # The bytes are read once, so that the digest is that of what is parsed.
        content = shipped(source) if self.csv is None else stored(source)
        digest = hashlib.sha256(content).hexdigest()
        if self.digest not in (None, digest):
            raise DataError(
                f"{source} is not the file that the digest was taken of: its SHA-256 is {digest}, not {self.digest}; "
                "give the file as it was, or begin a new search"
            )
        series = read(
            content,
            source,
            columns=self.columns,
            date=self.date or ("date" if self.csv is None else None),
            drop=self.missing == "drop",
            returns=self.returns,
            format=Format(self.delimiter, self.decimal, self.encoding),
        )
        window, season = self.lengths()
        train, validation, test = self.split or shares(len(series.rows))
        if train + validation + test > len(series.rows):
            raise DataError(
                f"{source} has {len(series.rows)} rows, fewer than split = {list(self.split)} needs; give smaller numbers"
            )
        series = attrs.evolve(series, rows=series.rows[: train + validation + test])
        return data(
            series, window, device, dtype, horizon=self.horizon, split=(train, validation), scaling=self.scaling, season=season
        )

    def pinned(self) -> Forecasting:
        """Return the task for the same file by its absolute path and its digest."""
        if self.csv is None:
            return self
        digest = self.digest or hashlib.sha256(stored(self.csv)).hexdigest()
        return attrs.evolve(self, csv=str(Path(self.csv).absolute()), digest=digest)


def shares(size: int) -> tuple[int, int, int]:
    """Return the numbers of rows for training, validation and test by default."""
    # In integers: 0.6 * size would be rounded differently for some sizes.
    train, validation = size * 3 // 5, size * 4 // 5
    return train, validation - train, size - validation


def data(
    series: Series,
    window: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    horizon: int = 1,
    split: tuple[int, int] | None = None,
    scaling: str = "training",
    season: int | None = None,
) -> Data:
    """Return the data of a series in windows of `window` rows.

    Args:
        series: the rows.
        window: the number of rows in a window.
        device: the device of the tensors.
        dtype: the dtype of the tensors.
        horizon: the number of rows in a target.
        split: the numbers of rows for training and for validation; the rest is for the test.
        scaling: the option of the task.
        season: the number of rows in a season; None if there is none.
    """
    size, columns = series.rows.shape
    train, held = split or shares(size)[:2]
    validation = train + held
    if train < window + horizon:
        raise DataError(
            f"{series.source}: {size} rows, of which {train} are for training, are too few for a window of {window} and a target of "
            f"{horizon}; give at least {window + horizon} for training, or a smaller window (the task's option)"
        )
    if min(held, size - validation) < horizon:
        raise DataError(
            f"{series.source}: {held} rows for validation and {size - validation} for the test are too few for a target of {horizon}; give "
            "more rows, or a smaller horizon (the task's option)"
        )
    scale = standardising(series, train, scaling == "window", horizon)
    exact = scale.standardise(series.rows)
    check_finite(exact, series, dtype)
    rows = exact.to(device, dtype)
    # A validation or test window may begin in the split before it, as it would in use. Its target never does.
    parts = [slice(0, train), slice(train - window, validation), slice(validation - window, size)]
    if scaling == "window":
        splits = [normalised_windows(exact[part], window, horizon, device, dtype) for part in parts]
        compared = functools.partial(change_references, exact[:train], window, horizon, rows, season)
    else:
        splits = [windows(rows[part], window, horizon) for part in parts]
        # the rows at which a target begins that is wholly in the training or in the validation split
        known = range(window, train - horizon + 1)
        starts = torch.tensor([*known, *range(train, validation - horizon + 1)])
        targets = exact.unfold(0, horizon, 1)[starts].transpose(1, 2).flatten(1)
        compared = functools.partial(references, exact[starts - 1], targets, len(known), rows, season)
    return Data(
        sizes={"inputs": columns, "outputs": horizon * columns},
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        loss=normalised_loss if scaling == "window" else loss,
        losses=normalised_losses if scaling == "window" else losses,
        predict=predict,
        metrics=functools.partial(metrics, device, dtype, scaling == "window"),
        score="mse",
        references=compared,
        inputs=scale,
        outputs=scale,
        signature=Signature(("time", "batch", "columns"), (window, None, columns), series.names),
        warnings=series.notes + leaving_range(exact, series, train, validation, scaling == "window"),
        pictures={"forecast.png": functools.partial(_draw_forecast, series.rows[parts[2]], series.names, validation + 1)},
    )


def _draw_forecast(rows: Tensor, names: Sequence[str], first: int, model: Model, path: Path) -> None:
    from nasframe_forecasting.pictures import draw_forecast  # matplotlib is needed when a run is over, and slow to import

    draw_forecast(rows, names, first, model, path)


def windows(rows: Tensor, window: int, horizon: int) -> Split:
    """Return every window of rows of shape (rows, columns) with the rows after it as its target, the earliest first."""
    held = rows.unfold(0, window + horizon, 1).permute(2, 0, 1)

    def batch(positions: Tensor) -> tuple[Tensor, Tensor]:
        chosen = held[:, positions]
        return chosen[:window], joined(chosen[window:])

    return Split(held.shape[1], batch)


def joined(rows: Tensor) -> Tensor:
    """Return rows of shape (rows, batch, columns) one behind the other, of shape (batch, rows * columns)."""
    return rows.movedim(0, 1).flatten(1)


def normalised_windows(rows: Tensor, window: int, horizon: int, device: torch.device, dtype: torch.dtype) -> Split:
    """Return every window of rows, less its last row l and over its standard deviation s, with the target y after it.

    A target is (z, s) with z = (y - l) / s, of shape (2, horizon * columns): errors of the forecast are s times errors of the outputs.
    """
    held = rows.unfold(0, window + horizon, 1).permute(2, 0, 1)
    # computed once for all: a sum over a batch may be rounded differently than over another batch
    last, spread = Scale.level(held[:window])

    def batch(positions: Tensor) -> tuple[Tensor, Tensor]:
        # In float64; only the result is rounded to the dtype of the network. The target is scaled like the window before
        # it.
        scaled = (held[:, positions] - last[:, positions]) / spread[:, positions]
        targets = torch.stack([joined(scaled[window:]), spread[0, positions].tile(horizon)], 1)
        return scaled[:window].to(device, dtype), targets.to(device, dtype)

    return Split(held.shape[1], batch)


def predict(outputs: Tensor) -> Tensor:
    """Return the forecast (batch, horizon * columns): the last step of the outputs (window, batch, horizon * columns)."""
    return outputs[-1]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of the forecast, over batch and columns."""
    return mse_loss(predict(outputs), targets)


def normalised_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of the forecast, over batch and columns, for the targets of `normalised_windows`."""
    target, spread = targets.unbind(1)
    return mse_loss(spread * predict(outputs), spread * target)


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of the forecast over its rows and columns, of shape (batch,)."""
    return (predict(outputs) - targets).square().mean(1)


def normalised_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error over the columns, of shape (batch,), for the targets of `normalised_windows`."""
    target, spread = targets.unbind(1)
    return (spread * (predict(outputs) - target)).square().mean(1)


def metrics(device: torch.device, dtype: torch.dtype, normalised: bool) -> MetricCollection:
    """Return the mean squared and the mean absolute error over all rows and columns.

    Args:
        device: the device of forecasts and targets.
        dtype: their dtype.
        normalised: targets are those of `normalised_windows`.
    """
    # to construct them takes six times as long as to copy them
    return copy.deepcopy(_metrics(device, dtype, normalised))


@functools.cache
def _metrics(device: torch.device, dtype: torch.dtype, normalised: bool) -> MetricCollection:
    from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection  # slower to import than torch

    # Metrics receive forecasts and targets in units of a window's spread, and compare them in those of the training rows.
    class Normalised(MetricCollection):
        def update(self, forecast: Tensor, targets: Tensor) -> None:  # type: ignore[override]
            target, spread = targets.unbind(1)
            super().update(spread * forecast, spread * target)

    both = (Normalised if normalised else MetricCollection)({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})
    return both.to(device).set_dtype(dtype)
