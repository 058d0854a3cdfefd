"""The operations on the edges of the recurrent backbone of DARTS.

Each is a function o(z) of one state z of shape (batch, width), whose last n_h columns are the hidden state h: z = [x_t,
h_{t-1}] at the first node, and the state of an earlier node, z = h, elsewhere. Linear maps have no biases (Jie & Gao 2021,
Table 2).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise
from nasframe.network.pointwise import Term
from nasframe_recurrent.activations import IDENTITY, RELU, SIGMOID, TANH, Activation
from nasframe_recurrent.operations import infinity_norm, weight_matrix


class LinearActivation(nn.Module):
    """The module of activation(W z)."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation = activation
        self.W = weight_matrix(hidden, inputs, hidden)

    def forward(self, z: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        return self.activation.function(z @ self.W.t())


class HighwayActivation(nn.Module):
    """The module of h + sigmoid(W_c z) * (activation(W z) - h), where h is the hidden state within z."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation, self.hidden = activation, hidden
        self.W_c = weight_matrix(hidden, inputs, hidden)
        self.W = weight_matrix(hidden, inputs, hidden)

    def forward(self, z: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        # h is z itself, except at the first node, where z = [x, h]
        # This form of c y + (1 - c) h has one product less, and is exactly h where the gate is 0.
        h, c = z[:, -self.hidden :], torch.sigmoid(z @ self.W_c.t())
        return h + c * (self.activation.function(z @ self.W.t()) - h)


class HiddenState(nn.Module):
    """The module of h, the hidden state within z, or of zeros of its shape."""

    def __init__(self, hidden: int, zero: bool) -> None:
        super().__init__()
        self.hidden, self.zero = hidden, zero

    def forward(self, z: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        h = z[:, -self.hidden :]
        return torch.zeros_like(h) if self.zero else h


#: the description of an operation that returns the hidden state as it is
IDENTITY_DESCRIPTION = Pointwise((), IDENTITY.function, IDENTITY.value_and_derivative)


class EdgeOperation(Operation):
    """The base class of operations on one state. The backbone builds them with `inputs`, the width of z, and `hidden` = n_h."""

    arity: ClassVar[int] = 1

    @abstractmethod
    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""


class ActivationEdge(EdgeOperation):
    """The base class of activation(W z)."""

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return LinearActivation(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description as the activation of one term."""
        return Pointwise((Term(("W",)),), self.function, self.derivatives)

    @classmethod
    def function(cls, a: Tensor, h: Tensor) -> Tensor:
        """Return activation(a)."""
        return cls.activation.function(a)

    @classmethod
    def derivatives(cls, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """Return activation(a) and its derivatives by a and h; it does not depend on h."""
        return *cls.activation.value_and_derivative(a), 0.0


@attrs.frozen
class SigmoidEdge(ActivationEdge):
    """sigmoid(W z)."""

    name: ClassVar[str] = "sigmoid_edge"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class TanhEdge(ActivationEdge):
    """tanh(W z)."""

    name: ClassVar[str] = "tanh_edge"
    activation = TANH

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |W| |z|, which is below 1 for most states of a cell."""
        assert isinstance(module, LinearActivation)
        return Bound({(0,): infinity_norm(module.W)})


@attrs.frozen
class ReluEdge(ActivationEdge):
    """relu(W z)."""

    name: ClassVar[str] = "relu_edge"
    homogeneous: ClassVar[tuple[str, ...]] = ("W",)
    activation = RELU

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |W| |z|."""
        assert isinstance(module, LinearActivation)
        return Bound({(0,): infinity_norm(module.W)})


class Highway(EdgeOperation):
    """The base class of activation(W z) with a highway bypass of the hidden state (Liu et al. 2019, 3.1.2).

    o = h + c (activation(W z) - h) with the gate c = sigmoid(W_c z).
    """

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return HighwayActivation(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description by two terms, the arguments of the gate and of the activation."""
        return Pointwise((Term(("W_c",)), Term(("W",))), self.function, self.derivatives)

    @classmethod
    def function(cls, c: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """Return h + sigmoid(c) (activation(a) - h)."""
        return h + torch.sigmoid(c) * (cls.activation.function(a) - h)

    @classmethod
    def derivatives(cls, c: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """Return o = h + g (y - h) and its derivatives by c, a and h, where g = sigmoid(c) and y = activation(a).

        do/dc = (y - h) dg/dc,  do/da = g dy/da,  do/dh = 1 - g.
        """
        y, y_by_a = cls.activation.value_and_derivative(a)
        g, g_by_c = SIGMOID.value_and_derivative(c)
        difference = y - h
        return h + g * difference, g_by_c * difference, g * y_by_a, 1 - g

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= max(1, |W|) |z|, as o lies between h and activation(a), and |activation(a)| <= |a|."""
        assert isinstance(module, HighwayActivation)
        return Bound({(0,): max(1.0, infinity_norm(module.W))})


@attrs.frozen
class SigmoidHighway(Highway):
    """h + sigmoid(W_c z) * (sigmoid(W z) - h)."""

    name: ClassVar[str] = "sigmoid_highway"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 1 + |z|; sigmoid(0) is not 0, so that the bound of the base class does not hold."""
        return Bound({(): 1.0, (0,): 1.0})


@attrs.frozen
class TanhHighway(Highway):
    """h + sigmoid(W_c z) * (tanh(W z) - h)."""

    name: ClassVar[str] = "tanh_highway"
    activation = TANH


@attrs.frozen
class ReluHighway(Highway):
    """h + sigmoid(W_c z) * (relu(W z) - h)."""

    name: ClassVar[str] = "relu_highway"
    activation = RELU


@attrs.frozen
class IdentityHighway(Highway):
    """h + sigmoid(W_c z) * (W z - h)."""

    name: ClassVar[str] = "identity_highway"
    activation = IDENTITY


@attrs.frozen
class IdentityEdge(EdgeOperation):
    """The hidden state h: z itself, or the h of z = [x, h]."""

    name: ClassVar[str] = "identity_edge"
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, which has no parameters."""
        return HiddenState(hidden, zero=False)

    def pointwise(self) -> Pointwise:
        """Return the description, which has no terms."""
        return IDENTITY_DESCRIPTION

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |z|."""
        return Bound({(0,): 1.0})

    def identity_error(self, module: nn.Module) -> Bound:
        """Return the bound |o - h| <= 0."""
        return Bound({})


@attrs.frozen
class ZeroEdge(EdgeOperation):
    """Zero, which is the same as no edge."""

    name: ClassVar[str] = "zero_edge"
    zero: ClassVar[bool] = True

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, which has no parameters."""
        return HiddenState(hidden, zero=True)

    def pointwise(self) -> Pointwise:
        """Return the description, which has no terms."""
        return Pointwise((), torch.zeros_like)

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 0."""
        return Bound({})
