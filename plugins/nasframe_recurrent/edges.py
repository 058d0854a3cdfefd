"""The operations on the edges of DARTS's recurrent backbone: o(z) with z: (batch, width), the last n_h of it the hidden state.

Linear maps have no biases (Jie & Gao 2021, Table 2).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise, Term
from nasframe_recurrent.activations import IDENTITY, RELU, SIGMOID, TANH, Activation
from nasframe_recurrent.operations import matrix, norm


class Activated(nn.Module):
    """activation(W z)."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation = activation
        self.W = matrix(hidden, inputs, hidden)

    def forward(self, z: Tensor) -> Tensor:
        """Shape (batch, n_h)."""
        return self.activation.function(z @ self.W.t())


class Gated(nn.Module):
    """h + sigmoid(W_c z) * (activation(W z) - h), where h is the hidden state within z."""

    def __init__(self, activation: Activation, inputs: int, hidden: int) -> None:
        super().__init__()
        self.activation, self.hidden = activation, hidden
        self.W_c = matrix(hidden, inputs, hidden)
        self.W = matrix(hidden, inputs, hidden)

    def forward(self, z: Tensor) -> Tensor:
        """Shape (batch, n_h)."""
        h, c = z[:, -self.hidden :], torch.sigmoid(z @ self.W_c.t())
        return h + c * (self.activation.function(z @ self.W.t()) - h)


class Kept(nn.Module):
    """The hidden state within z, or zero in its place."""

    def __init__(self, hidden: int, keep: bool) -> None:
        super().__init__()
        self.hidden, self.keep = hidden, keep

    def forward(self, z: Tensor) -> Tensor:
        """Shape (batch, n_h)."""
        h = z[:, -self.hidden :]
        return h if self.keep else torch.zeros_like(h)


#: the state as it is
KEPT = Pointwise((), IDENTITY.function, IDENTITY.derivatives)


class Edge(Operation):
    """An operation on one state. The backbone builds it with `inputs`, the width of the state, and `hidden` = n_h."""

    arity: ClassVar[int] = 1

    @abstractmethod
    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """The module."""


class ActivatedEdge(Edge):
    """An activation behind a linear map."""

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """A linear map and the activation."""
        return Activated(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """The activation of W z."""
        return Pointwise((Term(("W",)),), self.function, self.derivatives)

    @classmethod
    def function(cls, a: Tensor, h: Tensor) -> Tensor:
        """The activation of a."""
        return cls.activation.function(a)

    @classmethod
    def derivatives(cls, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """It does not depend on h."""
        return *cls.activation.derivatives(a), 0.0


@attrs.frozen
class SigmoidEdge(ActivatedEdge):
    """sigmoid(W z)."""

    name: ClassVar[str] = "sigmoid_edge"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= 1."""
        return Bound({(): 1.0})


@attrs.frozen
class TanhEdge(ActivatedEdge):
    """tanh(W z)."""

    name: ClassVar[str] = "tanh_edge"
    activation = TANH

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |W| |z|, which is less than one in the states of a cell, as a rule."""
        assert isinstance(module, Activated)
        return Bound({(0,): norm(module.W)})


@attrs.frozen
class ReluEdge(ActivatedEdge):
    """relu(W z)."""

    name: ClassVar[str] = "relu_edge"
    activation = RELU

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |W| |z|."""
        assert isinstance(module, Activated)
        return Bound({(0,): norm(module.W)})


class Highway(Edge):
    """An activation behind a linear map, with a highway bypass of the hidden state (Liu et al. 2019, 3.1.2)."""

    activation: ClassVar[Activation]

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Two linear maps, of the gate and of what the activation takes."""
        return Gated(self.activation, inputs, hidden)

    def pointwise(self) -> Pointwise:
        """The gate takes W_c z, the activation W z."""
        return Pointwise((Term(("W_c",)), Term(("W",))), self.function, self.derivatives)

    @classmethod
    def function(cls, c: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """What the open gate lets through in the place of h."""
        return h + torch.sigmoid(c) * (cls.activation.function(a) - h)

    @classmethod
    def derivatives(cls, c: Tensor, a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
        """With the gate g = sigmoid(c) and the way d = activation(a) - h: by g it is d, by activation(a) g, and by h 1 - g."""
        (y, by_a), (g, by_c) = cls.activation.derivatives(a), SIGMOID.derivatives(c)
        d = y - h
        return h + g * d, by_c * d, g * by_a, 1 - g

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= max(1, |W|) |z|, as |activation(a)| <= |a|, and o lies between it and h."""
        assert isinstance(module, Gated)
        return Bound({(0,): max(1.0, norm(module.W))})


@attrs.frozen
class SigmoidHighway(Highway):
    """h + sigmoid(W_c z) * (sigmoid(W z) - h)."""

    name: ClassVar[str] = "sigmoid_highway"
    activation = SIGMOID

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= max(1, |z|)."""
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
class IdentityEdge(Edge):
    """The hidden state: z itself, of [x, h] the h."""

    name: ClassVar[str] = "identity_edge"
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """No parameters."""
        return Kept(hidden, keep=True)

    def pointwise(self) -> Pointwise:
        """No term."""
        return KEPT

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |z|."""
        return Bound({(0,): 1.0})

    def identity_error(self, module: nn.Module) -> Bound:
        """None."""
        return Bound({})


@attrs.frozen
class ZeroEdge(Edge):
    """Zero: no edge."""

    name: ClassVar[str] = "zero_edge"
    zero: ClassVar[bool] = True

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """No parameters."""
        return Kept(hidden, keep=False)

    def pointwise(self) -> Pointwise:
        """No term."""
        return Pointwise((), torch.zeros_like)

    def magnitude(self, module: nn.Module) -> Bound:
        """None."""
        return Bound({})
