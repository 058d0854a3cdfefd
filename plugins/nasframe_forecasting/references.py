"""What to compare a forecasting network with.

Each reference is a module from inputs of shape (time, batch, columns) to a forecast of the next row at every step, of the same shape.
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
        following: these targets, of the same shape.
        train: the number of training pairs.
        like: a tensor with the device and the dtype of the modules.
        season: the number of rows in a season; None if there is none.
        parameters: RNN, LSTM and GRU have about this many parameters.
    """
    fixed: Factories = {
        "mean": Zero,
        "last value": nn.Identity,
        **seasonal(season),
        "ridge AR(1)": functools.partial(autoregression, past, following, train),
    }
    return _placed({**fixed, **trained_references(past.shape[1], parameters)}, like)


def change_references(rows: Tensor, window: int, like: Tensor, season: int | None, parameters: int) -> Factories:
    """Return factories of the references for windows that are normalised one by one.

    The last value, the seasonal last value and an autoregression of changes are not trained; RNN, LSTM and GRU are.

    Args:
        rows: the standardised training rows, of shape (rows, columns) in float64.
        window: the number of rows in a window.
        like: a tensor with the device and the dtype of the modules.
        season: the number of rows in a season; None if there is none.
        parameters: RNN, LSTM and GRU have about this many parameters.
    """
    changes = functools.partial(change_autoregression, rows, window)
    fixed: Factories = {"last value": Zero, **seasonal(season), "AR(1) of changes": changes}
    return _placed({**fixed, **trained_references(rows.shape[1], parameters)}, like)


def trained_references(columns: int, parameters: int) -> Factories:
    """Return factories of an RNN, an LSTM and a GRU of about that many parameters."""
    return {
        "RNN": functools.partial(recurrent, nn.RNN, 1, columns, parameters),
        "LSTM": functools.partial(recurrent, nn.LSTM, 4, columns, parameters),
        "GRU": functools.partial(recurrent, nn.GRU, 3, columns, parameters),
    }


def _placed(factories: Factories, like: Tensor) -> Factories:
    def place(make: Callable[[], nn.Module]) -> nn.Module:
        return make().to(like)

    return {name: functools.partial(place, make) for name, make in factories.items()}


def seasonal(season: int | None) -> Factories:
    """Return the factory of the seasonal last value, if there are seasons."""
    return {} if season is None else {"seasonal last value": functools.partial(SeasonalLast, season)}


class SeasonalLast(nn.Module):
    """The forecast that the next row is like the one a season before it, or like the first row where none is that old."""

    def __init__(self, season: int) -> None:
        super().__init__()
        self.season = season

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of the shape of the inputs."""
        steps = torch.arange(len(inputs), device=inputs.device)
        return inputs[(steps - self.season + 1).clamp_min(0)]


class Zero(nn.Module):
    """The forecast 0: the mean of standardised training rows, or the last row of a normalised window."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return zeros of the shape of the inputs."""
        return torch.zeros_like(inputs)


def autoregression(past: Tensor, following: Tensor, train: int) -> nn.Linear:
    """Return the linear map from a row to the next, with an intercept, fitted by `ridge`; its parameters are fixed."""
    coefficients = ridge(past, following, train)
    columns = past.shape[1]
    linear = nn.Linear(columns, columns, dtype=past.dtype).requires_grad_(False)
    linear.weight.copy_(coefficients[:-1].T)
    linear.bias.copy_(coefficients[-1])
    return linear


def ridge(past: Tensor, following: Tensor, train: int) -> Tensor:
    """Return the coefficients of the linear map from each row to the following one, with the intercepts last.

    They have shape (columns + 1, columns). They are fitted to the first `train` pairs, with the penalty that forecasts the
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

    In normalised windows l is 0 and s is 1.
    """

    def __init__(self, a: Tensor, c: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a, requires_grad=False)
        self.c = nn.Parameter(c, requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of the shape of the inputs."""
        # At the first step of a window there is no row before; its change counts as zero.
        return inputs + self.a * inputs.diff(dim=0, prepend=inputs[:1]) + self.c


def change_autoregression(rows: Tensor, window: int) -> ChangeAutoregression:
    """Return the autoregression of changes with the least squared error on the training rows, column by column."""
    held = rows.unfold(0, window + 1, 1).permute(2, 0, 1)
    _, spread = Scale.level(held[:-1])
    # the equations (y - l) = a (l - k) + c s, one for each window
    regressors = torch.stack([held[-2] - held[-3], spread[0]], -1).transpose(0, 1)
    # Columns are the batch of `lstsq`: two coefficients for each.
    targets = (held[-1] - held[-2]).T.unsqueeze(-1)
    a, c = torch.linalg.lstsq(regressors, targets).solution.squeeze(-1).unbind(-1)
    return ChangeAutoregression(a, c)


class Recurrent(nn.Module):
    """A recurrent layer of torch with a linear head at every step."""

    def __init__(self, layer: nn.RNNBase, head: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of the shape of the inputs."""
        return self.head(self.layer(inputs)[0])


def recurrent(layer: type[nn.RNN | nn.LSTM | nn.GRU], gates: int, columns: int, parameters: int) -> Recurrent:
    """Return a layer of that type and its head, of the hidden size that comes nearest to that many parameters."""
    units = nearest_units(gates, columns, parameters)
    return Recurrent(layer(columns, units), nn.Linear(units, columns))


def nearest_units(gates: int, columns: int, parameters: int) -> int:
    """Return the hidden size at which layer and head together come nearest to that many parameters."""

    def count(units: int) -> int:
        return gates * units * (columns + units + 2) + columns * (units + 1)  # torch has two biases a gate

    most = math.isqrt(parameters // gates) + 1  # from here on gates * units**2 alone is more
    return min(range(1, most + 1), key=lambda units: abs(count(units) - parameters))
