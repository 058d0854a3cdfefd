"""The operations of the Two-to-One backbone (Jie & Gao 2021, Table 1): o(x, h) with x: (batch, n_x) and h: (batch, n_h)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise, Term
from nasframe_recurrent.activations import RELU, SIGMOID, TANH, Activation


def matrix(rows: int, columns: int, hidden: int) -> nn.Parameter:
    """A weight of shape (rows, columns), uniform within 1 / sqrt(hidden) as in torch's recurrent layers."""
    limit = 1 / math.sqrt(hidden)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-limit, limit))


def norm(weight: Tensor) -> float:
    """The largest sum of absolute values along a row: |W x| is at most that many times |x|, in maximum norms."""
    return float(weight.detach().abs().sum(1).max())


class Gate(nn.Module):
    """activation(W_x x + W_h h + b)."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation = activation
        self.W_x = matrix(hidden, inputs, hidden)
        self.W_h = matrix(hidden, hidden, hidden)
        self.b = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Shape (batch, n_h)."""
        return self.activation.function(x @ self.W_x.t() + h @ self.W_h.t() + self.b)


class Projected(nn.Module):
    """W_x x combined with h: their sum, or their product entry by entry."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], inputs: int, hidden: int) -> None:
        super().__init__()
        self.combine = combine
        self.W_x = matrix(hidden, inputs, hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Shape (batch, n_h)."""
        return self.combine(x @ self.W_x.t(), h)


class TwoInput(Operation):
    """An operation on (x, h). The backbone builds it with `inputs` = n_x and `hidden` = n_h."""

    arity: ClassVar[int] = 2

    @abstractmethod
    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """The module."""


class ActivatedGate(TwoInput):
    """An activation behind linear maps of both inputs."""

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """A gate."""
        return Gate(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """The activation of W_x x + W_h h + b."""
        return Pointwise((Term(("W_x", "W_h"), "b"),), self.function, self.derivatives)

    @classmethod
    def function(cls, a: Tensor, h: Tensor) -> Tensor:
        """The activation of a."""
        return cls.activation.function(a)

    @classmethod
    def derivatives(cls, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """It does not depend on h."""
        return *cls.activation.derivatives(a), 0.0


@attrs.frozen
class Sigmoid(ActivatedGate):
    """sigmoid(W_x x + W_h h + b)."""

    name: ClassVar[str] = "sigmoid"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class Tanh(ActivatedGate):
    """tanh(W_x x + W_h h + b)."""

    name: ClassVar[str] = "tanh"
    activation = TANH

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class Relu(ActivatedGate):
    """relu(W_x x + W_h h + b)."""

    name: ClassVar[str] = "relu"
    activation = RELU

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |b| + |W_x| |x| + |W_h| |h|."""
        assert isinstance(module, Gate)
        return Bound({(): float(module.b.detach().abs().max()), (0,): norm(module.W_x), (1,): norm(module.W_h)})


@attrs.frozen
class Sum(TwoInput):
    """W_x x + h: the identity on h where W_x is zero."""

    name: ClassVar[str] = "sum"
    residual: ClassVar[tuple[str, ...]] = ("W_x",)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """A projection."""
        return Projected(torch.add, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """W_x x and h, added."""
        return Pointwise((Term(("W_x", None)),), torch.add, self.derivatives)

    @staticmethod
    def derivatives(a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """One by both."""
        return a + h, 1.0, 1.0

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |W_x| |x| + |h|."""
        return self.identity_error(module) + Bound({(1,): 1.0})

    def identity_error(self, module: nn.Module) -> Bound:
        """|o - h| <= |W_x| |x|."""
        assert isinstance(module, Projected)
        return Bound({(0,): norm(module.W_x)})


@attrs.frozen
class Prod(TwoInput):
    """W_x x * h, entry by entry."""

    name: ClassVar[str] = "prod"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """A projection."""
        return Projected(torch.mul, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """W_x x and h, multiplied."""
        return Pointwise((Term(("W_x", None)),), torch.mul, self.derivatives)

    @staticmethod
    def derivatives(a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """By each it is the other."""
        return a * h, h, a

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |W_x| |x| |h|."""
        assert isinstance(module, Projected)
        return Bound({(0, 1): norm(module.W_x)})
