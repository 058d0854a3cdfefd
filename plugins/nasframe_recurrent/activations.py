"""Activation functions with their derivatives, which are functions of the activation's value."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Activation:
    """An activation function y = f(a) that acts on each entry, and its derivative.

    Args:
        function: f.
        slope: returns dy/da as a function of y: a tensor of the shape of y, or a number if it is the same everywhere.
    """

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor | float]

    def value_and_derivative(self, a: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return y and dy/da."""
        y = self.function(a)
        return y, self.slope(y)


def _identity(a: Tensor) -> Tensor:
    return a


def _tanh_slope(y: Tensor) -> Tensor:
    return 1 - y * y


def _sigmoid_slope(y: Tensor) -> Tensor:
    return (1 - y) * y


def _identity_slope(y: Tensor) -> float:
    return 1.0


# Slopes are functions of y and not of a, because y is at hand in a backward pass and saves computing f again.
TANH = Activation(torch.tanh, _tanh_slope)
SIGMOID = Activation(torch.sigmoid, _sigmoid_slope)
#: the derivative at a = 0 is 0, as in autograd
RELU = Activation(torch.relu, torch.sign)
IDENTITY = Activation(_identity, _identity_slope)
