"""Forecasting: the next row of a multivariate series from a window of rows (Jie & Gao 2021, 4.1).

The series is one that is shipped, or any CSV file.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from nasframe import Data, Split, Task, choice, flag, number
from nasframe.errors import DataError
from nasframe_forecasting.references import references
from nasframe_forecasting.series import Series, check_finite, read, shipped, standardising, stored

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: the series that come with this package
SHIPPED = ("seattle_weather",)


def _is(wanted: str, allowed: Callable[[Any], bool]) -> Any:
    """A check that a field holds what is wanted."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not allowed(value):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return check


_string = _is("a string, or left out", lambda value: value is None or isinstance(value, str))
_names = _is("a tuple of names", lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value))


@attrs.frozen
class Forecasting(Task):
    """One-step-ahead forecasting of a multivariate series.

    Inputs are [window, batch, columns], targets [batch, columns], outputs of the network [window, batch, columns], and
    the last step of these is the forecast. The first 60 % of the rows train, the next 20 % validate, the rest test; a
    window belongs with its target, and may reach back into earlier rows. Mean and standard deviation of the training
    rows standardise all, so that losses and metrics are in these units.

    Args:
        csv: the path of a CSV file, plain or gzipped, in the place of a shipped series: a row of column names, then a
            row of numbers for each time, with commas between and in UTF-8.
        series: the name of a shipped series.
        columns: those to forecast, in that order; by default all but the dates.
        returns: forecast log(p[t] / p[t-1]) of the rows p, as one does with prices; p must be above 0.
        missing: "fail" refuses an empty cell in these columns; "drop" leaves out its row, and a return is then over the
            rows that remain. Nothing is filled in.
        date: the column of dates in ISO 8601, which must ascend; by default the one named `date`, if there is one.
        digest: the SHA-256 of the file in hexadecimal; a file that has another is refused.
    """

    name: ClassVar[str] = "forecasting"
    replaces: ClassVar[Mapping[str, tuple[str, ...]]] = {"csv": ("series", "digest"), "series": ("csv", "digest")}
    csv: str | None = attrs.field(default=None, kw_only=True, validator=_string)
    series: str | None = attrs.field(
        default=attrs.Factory(lambda self: SHIPPED[0] if self.csv is None else None, takes_self=True)
    )
    window: int = number(10, low=1, whole=True)
    columns: tuple[str, ...] = attrs.field(default=(), validator=_names)
    returns: bool = flag(False)
    missing: str = choice("fail", "drop", default="fail")
    date: str | None = attrs.field(default=None, validator=_string)
    digest: str | None = attrs.field(default=None, validator=_string)

    @series.validator
    def _check_series(self, attribute: Any, value: Any) -> None:
        if self.csv is not None and value is not None:
            raise ValueError(f"series is {value!r} and csv is {self.csv!r}; give one of them")
        if self.csv is None and value not in SHIPPED:
            raise ValueError(f"series is {value!r}; it must be one of {', '.join(map(repr, SHIPPED))}, or csv a path")

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """The data of the series."""
        source = self.series if self.csv is None else self.csv
        assert source is not None
        content = shipped(source) if self.csv is None else stored(source)
        digest = hashlib.sha256(content).hexdigest()
        if self.digest not in (None, digest):
            raise DataError(
                f"{source} is not the file that the digest was taken of: its SHA-256 is {digest}, not {self.digest}; "
                "give the file as it was, or begin a new search"
            )
        drop = self.missing == "drop"
        series = read(content, source, columns=self.columns, date=self.date, drop=drop, returns=self.returns)
        return data(series, self.window, device, dtype)

    def pinned(self) -> Forecasting:
        """The same file by its absolute path and its digest."""
        if self.csv is None:
            return self
        digest = self.digest or hashlib.sha256(stored(self.csv)).hexdigest()
        return attrs.evolve(self, csv=str(Path(self.csv).absolute()), digest=digest)


def data(series: Series, window: int, device: torch.device, dtype: torch.dtype) -> Data:
    """The data of a series in windows of that many rows."""
    size, columns = series.rows.shape
    train, validation = size * 3 // 5, size * 4 // 5
    if train <= window:
        raise DataError(
            f"{series.source}: {size} rows, of which the first 60 % are too few for a window of {window} and a target; "
            f"give at least {-(-5 * (window + 1) // 3)} such rows, or a smaller window (the task's option)"
        )
    scale = standardising(series, train)
    exact = scale(series.rows)
    rows = exact.to(device, dtype)
    check_finite(rows, series)
    return Data(
        sizes={"inputs": columns, "outputs": columns},
        train=windows(rows[:train], window),
        validation=windows(rows[train - window : validation], window),
        test=windows(rows[validation - window :], window),
        loss=loss,
        predict=predict,
        metrics=functools.partial(metrics, device, dtype),
        score="mse",
        references=functools.partial(
            references, exact[window - 1 : validation - 1], exact[window:validation], train - window, rows
        ),
        inputs=scale.to(device, dtype),
        outputs=scale,
    )


def windows(rows: Tensor, window: int) -> Split:
    """Every window of rows [rows, columns] with the row after it as its target, the earliest first."""
    held = rows.unfold(0, window + 1, 1).permute(2, 0, 1)

    def batch(positions: Tensor) -> tuple[Tensor, Tensor]:
        chosen = held[:, positions]
        return chosen[:-1], chosen[-1]

    return Split(held.shape[1], batch)


def predict(outputs: Tensor) -> Tensor:
    """The forecast [batch, columns]: the last step of the outputs [window, batch, columns]."""
    return outputs[-1]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of the forecast, over batch and columns."""
    return mse_loss(predict(outputs), targets)


def metrics(device: torch.device, dtype: torch.dtype) -> MetricCollection:
    """The mean squared and the mean absolute error over all rows and columns."""
    from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection  # slower to import than torch

    both = MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})
    return both.to(device).set_dtype(dtype)
