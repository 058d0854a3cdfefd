"""Forecasting: the next row of a multivariate series from a window of rows (Jie & Gao 2021, 4.1)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from nasframe import Data, DataError, Split, Task, choice, number
from nasframe_forecasting.references import references
from nasframe_forecasting.series import Series, shipped, standardised

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@attrs.frozen
class Forecasting(Task):
    """One-step-ahead forecasting of a multivariate series.

    Inputs are [window, batch, columns], targets [batch, columns], outputs of the network [window, batch, columns], and
    the last step of these is the forecast. The first 60 % of the rows train, the next 20 % validate, the rest test; a
    window belongs with its target, and may reach back into earlier rows. Mean and standard deviation of the training
    rows standardise all, so that losses and metrics are in these units.
    """

    name: ClassVar[str] = "forecasting"
    series: str = choice("seattle_weather", default="seattle_weather")
    window: int = number(10, low=1, whole=True)

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """The data of the series."""
        return data(shipped(self.series), self.window, device, dtype)


def data(series: Series, window: int, device: torch.device, dtype: torch.dtype) -> Data:
    """The data of a series in windows of that many rows."""
    size, columns = series.rows.shape
    train, validation = size * 3 // 5, size * 4 // 5
    if train <= window:
        raise DataError(
            f"{series.source} has {size} rows, and the first 60 % are too few for a window of {window} and a target; "
            f"give at least {-(-5 * (window + 1) // 3)} rows, or a smaller window"
        )
    exact = standardised(series, train)
    rows = exact.to(device, dtype)
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
