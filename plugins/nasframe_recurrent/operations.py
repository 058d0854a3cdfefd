"""The operations of the Two-to-One backbone (Jie & Gao 2021, Table 1): o(x, h) with x: (batch, n_x) and h: (batch, n_h)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise
from nasframe.network.pointwise import Term
from nasframe_recurrent.activations import RELU, SIGMOID, TANH, Activation


def weight_matrix(rows: int, columns: int, hidden: int) -> nn.Parameter:
    """Return a weight of shape (rows, columns), uniform within 1 / sqrt(hidden) as in torch's recurrent layers."""
    # by n_h and not by the number of columns, as in torch.nn.LSTM and GRU
    limit = 1 / math.sqrt(hidden)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-limit, limit))


def infinity_norm(weight: Tensor) -> float:
    """Return |W|, the largest sum of absolute values along a row: |W x| <= |W| |x| in maximum norms."""
    return float(weight.detach().abs().sum(1).max())


class AffineActivation(nn.Module):
    """The module of activation(W_x x + W_h h + b)."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation = activation
        self.W_x = weight_matrix(hidden, inputs, hidden)
        self.W_h = weight_matrix(hidden, hidden, hidden)
        # One bias and not the two of torch's recurrent layers, whose sum is all that matters; Table 2 counts one.
        self.b = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        return self.activation.function(x @ self.W_x.t() + h @ self.W_h.t() + self.b)


class ProjectedInput(nn.Module):
    """The module of W_x x combined with h, by addition or by multiplication entry by entry."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor], inputs: int, hidden: int) -> None:
        super().__init__()
        self.combine = combine
        self.W_x = weight_matrix(hidden, inputs, hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        return self.combine(x @ self.W_x.t(), h)


class TwoInputOperation(Operation):
    """The base class of operations on (x, h). The backbone builds them with `inputs` = n_x and `hidden` = n_h."""

    arity: ClassVar[int] = 2

    @abstractmethod
    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""


class ActivationOperation(TwoInputOperation):
    """The base class of activation(W_x x + W_h h + b)."""

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return AffineActivation(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description as the activation of one term."""
        return Pointwise((Term(("W_x", "W_h"), "b"),), self.function, self.derivatives)

    @classmethod
    def function(cls, a: Tensor, h: Tensor) -> Tensor:
        """Return activation(a)."""
        return cls.activation.function(a)

    @classmethod
    def derivatives(cls, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """Return activation(a) and its derivatives by a and h; it does not depend on h."""
        return *cls.activation.value_and_derivative(a), 0.0


@attrs.frozen
class Sigmoid(ActivationOperation):
    """sigmoid(W_x x + W_h h + b)."""

    name: ClassVar[str] = "sigmoid"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class Tanh(ActivationOperation):
    """tanh(W_x x + W_h h + b)."""

    name: ClassVar[str] = "tanh"
    activation = TANH

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class Relu(ActivationOperation):
    """relu(W_x x + W_h h + b)."""

    name: ClassVar[str] = "relu"
    homogeneous: ClassVar[tuple[str, ...]] = ("W_x", "W_h", "b")
    activation = RELU

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |b| + |W_x| |x| + |W_h| |h|."""
        assert isinstance(module, AffineActivation)
        return Bound(
            {
                (): float(module.b.detach().abs().max()),
                (0,): infinity_norm(module.W_x),
                (1,): infinity_norm(module.W_h),
            }
        )


@attrs.frozen
class Sum(TwoInputOperation):
    """W_x x + h, which is the identity on h where W_x is zero."""

    name: ClassVar[str] = "sum"
    residual: ClassVar[tuple[str, ...]] = ("W_x",)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return ProjectedInput(torch.add, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description as the sum of the term W_x x and h."""
        return Pointwise((Term(("W_x", None)),), torch.add, self.derivatives)

    @staticmethod
    def derivatives(a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """Return a + h and its derivatives by a and h."""
        return a + h, 1.0, 1.0

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |W_x| |x| + |h|."""
        return self.identity_error(module) + Bound({(1,): 1.0})

    def identity_error(self, module: nn.Module) -> Bound:
        """Return the bound |o - h| <= |W_x| |x|."""
        assert isinstance(module, ProjectedInput)
        return Bound({(0,): infinity_norm(module.W_x)})


@attrs.frozen
class Prod(TwoInputOperation):
    """W_x x * h, entry by entry."""

    name: ClassVar[str] = "prod"
    homogeneous: ClassVar[tuple[str, ...]] = ("W_x",)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return ProjectedInput(torch.mul, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description as the product of the term W_x x and h."""
        return Pointwise((Term(("W_x", None)),), torch.mul, self.derivatives)

    @staticmethod
    def derivatives(a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """Return a * h and its derivatives by a and h."""
        return a * h, h, a

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |W_x| |x| |h|."""
        assert isinstance(module, ProjectedInput)
        return Bound({(0, 1): infinity_norm(module.W_x)})
