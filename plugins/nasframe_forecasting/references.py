"""What to compare a forecasting network with.

Each reference is a module from inputs of shape (time, batch, columns) to a forecast of the next rows at every step, of shape (time, batch,
rows * columns).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nasframe.network.model import Scale

#: weights of the sum of squared coefficients in ridge regression, relative to the squared errors of training
PENALTIES = torch.logspace(-4, 4, 17, dtype=torch.float64)

Factories = Mapping[str, Callable[[], nn.Module]]


def references(past: Tensor, following: Tensor, train: int, like: Tensor, season: int | None, parameters: int) -> Factories:
    """Return factories of the references for standardised rows.

    The mean, the last value, the seasonal last value and ridge AR(1) are not trained; RNN, LSTM and GRU are.

    Args:
        past: the rows before the targets of training and then of validation, of shape (pairs, columns) in float64.
        following: these targets, of shape (pairs, rows * columns).
        train: the number of training pairs.
        like: a tensor with the device and the dtype of the modules.
        season: the number of rows in a season; None if there is none.
        parameters: RNN, LSTM and GRU have about this many parameters.
    """
    columns, outputs = past.shape[1], following.shape[1]
    rows = outputs // columns
    fixed: Factories = {
        "mean": functools.partial(Zero, rows),
        "last value": functools.partial(Last, rows),
        **seasonal(season, rows),
        "ridge AR(1)": functools.partial(autoregression, past, following, train),
    }
    return _placed({**fixed, **trained_references(columns, outputs, parameters)}, like)


def change_references(rows: Tensor, window: int, horizon: int, like: Tensor, season: int | None, parameters: int) -> Factories:
    """Return factories of the references for windows that are normalised one by one.

    The last value, the seasonal last value and an autoregression of changes are not trained; RNN, LSTM and GRU are.

    Args:
        rows: the standardised training rows, of shape (rows, columns) in float64.
        window: the number of rows in a window.
        horizon: the number of rows in a target.
        like: a tensor with the device and the dtype of the modules.
        season: the number of rows in a season; None if there is none.
        parameters: RNN, LSTM and GRU have about this many parameters.
    """
    changes, columns = functools.partial(change_autoregression, rows, window, horizon), rows.shape[1]
    fixed: Factories = {
        "last value": functools.partial(Zero, horizon),
        **seasonal(season, horizon),
        "AR(1) of changes": changes,
    }
    return _placed({**fixed, **trained_references(columns, horizon * columns, parameters)}, like)


def trained_references(columns: int, outputs: int, parameters: int) -> Factories:
    """Return factories of an RNN, an LSTM and a GRU of about that many parameters."""
    return {
        "RNN": functools.partial(recurrent, nn.RNN, 1, columns, outputs, parameters),
        "LSTM": functools.partial(recurrent, nn.LSTM, 4, columns, outputs, parameters),
        "GRU": functools.partial(recurrent, nn.GRU, 3, columns, outputs, parameters),
    }


def _placed(factories: Factories, like: Tensor) -> Factories:
    def place(make: Callable[[], nn.Module]) -> nn.Module:
        return make().to(like)

    return {name: functools.partial(place, make) for name, make in factories.items()}


def seasonal(season: int | None, rows: int) -> Factories:
    """Return the factory of the seasonal last value, if there are seasons."""
    return {} if season is None else {"seasonal last value": functools.partial(SeasonalLast, season, rows)}


class SeasonalLast(nn.Module):
    """The forecast that a row is like the last known one at its place in the season, or like the first row where none is that old."""

    def __init__(self, season: int, rows: int) -> None:
        super().__init__()
        self.season = season
        self.rows = rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of shape (time, batch, rows * columns)."""
        steps = torch.arange(len(inputs), device=inputs.device)
        # the row that is `ahead` rows later is as old as the season has rows from its place to its end
        ages = [self.season - 1 - ahead % self.season for ahead in range(self.rows)]
        return torch.cat([inputs[(steps - age).clamp_min(0)] for age in ages], -1)


class Last(nn.Module):
    """The forecast that all rows are like the last one."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of shape (time, batch, rows * columns)."""
        return inputs.tile(self.rows)


class Zero(Last):
    """The forecast 0: the mean of standardised training rows, or the last row of a normalised window."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return zeros of shape (time, batch, rows * columns)."""
        return torch.zeros_like(super().forward(inputs))


def autoregression(past: Tensor, following: Tensor, train: int) -> nn.Linear:
    """Return the linear map from a row to the following ones, with an intercept, fitted by `ridge`; its parameters are fixed."""
    coefficients = ridge(past, following, train)
    linear = nn.Linear(past.shape[1], following.shape[1], dtype=past.dtype).requires_grad_(False)
    linear.weight.copy_(coefficients[:-1].T)
    linear.bias.copy_(coefficients[-1])
    return linear


def ridge(past: Tensor, following: Tensor, train: int) -> Tensor:
    """Return the coefficients of the linear map from each row to the following ones, with the intercepts last.

    They have shape (columns + 1, rows * columns). They are fitted to the first `train` pairs, with the penalty that forecasts the
    other pairs best.
    """
    past = torch.cat([past, past.new_ones(len(past), 1)], 1)

    def fitted(penalty: Tensor) -> Tensor:
        penalties = penalty.repeat(past.shape[1])
        penalties[-1] = 0  # the intercepts are free
        known, targets = past[:train], following[:train]
        return torch.linalg.solve(known.T @ known + penalties.diag(), known.T @ targets)

    # The penalty is chosen on the validation pairs, as a network's epoch is; the test rows are not known here.
    return min(map(fitted, PENALTIES), key=lambda fit: mse_loss(past[train:] @ fit, following[train:]).item())


class ChangeAutoregression(nn.Module):
    """The forecast l + a (l - k) + c s of each column: k and l are the last two rows of a window, s is its standard deviation.

    In normalised windows l is 0 and s is 1. Each of the rows that are forecast has its a and c, of shape (rows * columns,).
    """

    def __init__(self, a: Tensor, c: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a, requires_grad=False)
        self.c = nn.Parameter(c, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of shape (time, batch, rows * columns)."""
        rows = len(self.a) // inputs.shape[-1]
        # At the first step of a window there is no row before; its change counts as zero.
        changes = inputs.diff(dim=0, prepend=inputs[:1])
        return inputs.tile(rows) + self.a * changes.tile(rows) + self.c


def change_autoregression(rows: Tensor, window: int, horizon: int) -> ChangeAutoregression:
    """Return the autoregression of changes with the least squared error on the training rows, column by column and row by row."""
    held = rows.unfold(0, window + horizon, 1).permute(2, 0, 1)
    _, spread = Scale.level(held[:window])
    last = held[window - 1]
    # the equations (y - l) = a (l - k) + c s, one for each window
    regressors = torch.stack([last - held[window - 2], spread[0]], -1).transpose(0, 1)
    # Columns are the batch of `lstsq`: two coefficients for each, and for each row of the target.
    targets = (held[window:] - last).permute(2, 1, 0)
    a, c = torch.linalg.lstsq(regressors, targets).solution.unbind(1)
    return ChangeAutoregression(a.T.flatten(), c.T.flatten())


class Recurrent(nn.Module):
    """A recurrent layer of torch with a linear head at every step."""

    def __init__(self, layer: nn.RNNBase, head: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of shape (time, batch, rows * columns)."""
        return self.head(self.layer(inputs)[0])


def recurrent(layer: type[nn.RNN | nn.LSTM | nn.GRU], gates: int, columns: int, outputs: int, parameters: int) -> Recurrent:
    """Return a layer of that type and its head, of the hidden size that comes nearest to that many parameters."""
    units = nearest_units(gates, columns, outputs, parameters)
    return Recurrent(layer(columns, units), nn.Linear(units, outputs))


def nearest_units(gates: int, columns: int, outputs: int, parameters: int) -> int:
    """Return the hidden size at which layer and head together come nearest to that many parameters."""

    def count(units: int) -> int:
        return gates * units * (columns + units + 2) + outputs * (units + 1)  # torch has two biases a gate

    most = math.isqrt(parameters // gates) + 1  # from here on gates * units**2 alone is more
    return min(range(1, most + 1), key=lambda units: abs(count(units) - parameters))
