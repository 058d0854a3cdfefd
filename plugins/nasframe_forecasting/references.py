"""What to compare a forecasting network with: modules from inputs [T, B, n] to a forecast at every step, [T, B, n]."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

#: what ridge regression may weigh the sum of squared coefficients with, against that of the training errors
PENALTIES = torch.logspace(-4, 4, 17, dtype=torch.float64)


def references(
    past: Tensor, following: Tensor, train: int, like: Tensor, parameters: int
) -> Mapping[str, Callable[[], nn.Module]]:
    """The mean, the last value and ridge AR(1), none of which is trained; LSTM and GRU of about that many parameters.

    They get the device and the dtype of `like`. `past` are the rows before the targets of training and then validation,
    and `following` these targets, both [pairs, n] in float64 and standardised; the first `train` pairs are training's.
    """
    columns = past.shape[1]
    made: dict[str, Callable[[], nn.Module]] = {
        "mean": Mean,
        "last value": nn.Identity,
        "ridge AR(1)": functools.partial(autoregression, past, following, train),
        "LSTM": functools.partial(recurrent, nn.LSTM, 4, columns, parameters),
        "GRU": functools.partial(recurrent, nn.GRU, 3, columns, parameters),
    }
    return {name: functools.partial(_placed, make, like) for name, make in made.items()}


class Mean(nn.Module):
    """Forecasts the mean of the training rows, which is 0 in standardised units."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, B, n] to zeros of that shape."""
        return torch.zeros_like(inputs)


def autoregression(past: Tensor, following: Tensor, train: int) -> nn.Linear:
    """The linear map from a row to the next, with an intercept, fitted by `ridge`; its parameters are fixed."""
    coefficients = ridge(past, following, train)
    columns = past.shape[1]
    linear = nn.Linear(columns, columns, dtype=past.dtype).requires_grad_(False)
    linear.weight.copy_(coefficients[:-1].T)
    linear.bias.copy_(coefficients[-1])
    return linear


def ridge(past: Tensor, following: Tensor, train: int) -> Tensor:
    """The coefficients [n + 1, n], the intercepts last, of the linear map from each row to the following one.

    They are fitted to the first `train` pairs, with the penalty that forecasts the other pairs best.
    """
    past = torch.cat([past, past.new_ones(len(past), 1)], 1)
    fits = [_fitted(past[:train], following[:train], penalty) for penalty in PENALTIES]
    return min(fits, key=lambda fit: mse_loss(past[train:] @ fit, following[train:]).item())


def _fitted(past: Tensor, following: Tensor, penalty: Tensor) -> Tensor:
    penalties = penalty.repeat(past.shape[1])
    penalties[-1] = 0  # the intercepts are free
    return torch.linalg.solve(past.T @ past + penalties.diag(), past.T @ following)


class Recurrent(nn.Module):
    """A recurrent layer of torch with a linear head at every step."""

    def __init__(self, layer: nn.LSTM | nn.GRU, head: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.head = head

    def forward(self, inputs: Tensor) -> Tensor:
        """[T, B, n] to forecasts of that shape."""
        return self.head(self.layer(inputs)[0])


def recurrent(layer: type[nn.LSTM | nn.GRU], gates: int, columns: int, parameters: int) -> Recurrent:
    """A layer of that type and its head, of the hidden size that comes nearest to that many parameters."""
    units = nearest_units(gates, columns, parameters)
    return Recurrent(layer(columns, units), nn.Linear(units, columns))


def nearest_units(gates: int, columns: int, parameters: int) -> int:
    """The hidden size at which layer and head together come nearest to that many parameters."""

    def count(units: int) -> int:
        return gates * units * (columns + units + 2) + columns * (units + 1)  # torch has two biases a gate

    most = math.isqrt(parameters // gates) + 1  # from here on gates * units**2 alone is more
    return min(range(1, most + 1), key=lambda units: abs(count(units) - parameters))


def _placed(make: Callable[[], nn.Module], like: Tensor) -> nn.Module:
    return make().to(like)
