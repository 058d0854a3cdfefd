"""Functions of one number, whose slopes follow from what they give."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Activation:
    """y = function(a), entry by entry, and dy/da = slope(y)."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor | float]

    def derivatives(self, a: Tensor) -> tuple[Tensor, Tensor | float]:
        """Both y and dy/da."""
        y = self.function(a)
        return y, self.slope(y)


def of_tanh(y: Tensor) -> Tensor:
    """1 - y^2."""
    return 1 - y * y


def of_sigmoid(y: Tensor) -> Tensor:
    """(1 - y) y."""
    return (1 - y) * y


def same(a: Tensor) -> Tensor:
    """The number itself."""
    return a


def of_same(y: Tensor) -> float:
    """One."""
    return 1.0


TANH = Activation(torch.tanh, of_tanh)
SIGMOID = Activation(torch.sigmoid, of_sigmoid)
#: its slope at 0 is 0, as autograd has it
RELU = Activation(torch.relu, torch.sign)
IDENTITY = Activation(same, of_same)
