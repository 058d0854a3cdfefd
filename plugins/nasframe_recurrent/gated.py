"""Gated operations for the Two-to-One backbone, beside the five of Jie & Gao (2021): each has a gate by which it can keep h.

Jie & Gao motivate their backbone by the products of LSTM and GRU, but only one of their operations multiplies two states, and `sum`
cannot forget. Each operation here is

    o = h + s * f * (y - h),      f = sigmoid(W x + U h + b),

with a proposed state y. Where s = 1, as in the papers, o lies between h and y. The scales s, one for each unit, start at 1. They are
not in the papers: at s = 0 the operation is the identity on h, so that a new node can start as one, and a gate can be folded into s.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise
from nasframe.network.pointwise import Term
from nasframe_recurrent.activations import SIGMOID, TANH
from nasframe_recurrent.operations import TwoInputOperation, infinity_norm, weight_matrix


class GatedModule(nn.Module):
    """The base class of the modules of h + s * f * (y - h)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W, self.U = weight_matrix(hidden, inputs, hidden), weight_matrix(hidden, hidden, hidden)
        self.b = nn.Parameter(torch.zeros(hidden))
        self.V = weight_matrix(hidden, inputs, hidden)
        self.s = nn.Parameter(torch.ones(hidden))

    @abstractmethod
    def proposed(self, x: Tensor, h: Tensor, f: Tensor) -> Tensor:
        """Return y of shape (batch, n_h)."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the new state of shape (batch, n_h)."""
        f = torch.sigmoid(x @ self.W.t() + h @ self.U.t() + self.b)
        # This form of (1 - s f) h + s f y is exactly h where s is 0.
        return h + self.s * f * (self.proposed(x, h, f) - h)


class ProjectionModule(GatedModule):
    """The module with y = V x."""

    def proposed(self, x: Tensor, h: Tensor, f: Tensor) -> Tensor:
        """Return the linear map V x of the input."""
        return x @ self.V.t()


class TanhModule(GatedModule):
    """The module with y = tanh(V x + R h + d)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.R = weight_matrix(hidden, hidden, hidden)
        self.d = nn.Parameter(torch.zeros(hidden))

    def proposed(self, x: Tensor, h: Tensor, f: Tensor) -> Tensor:
        """Return tanh(V x + R h + d)."""
        return torch.tanh(x @ self.V.t() + h @ self.R.t() + self.d)


class ForgettingModule(TanhModule):
    """The module with y = tanh(V x + R (f * h) + d)."""

    def proposed(self, x: Tensor, h: Tensor, f: Tensor) -> Tensor:
        """Return tanh(V x + R (f * h) + d)."""
        return super().proposed(x, f * h, f)


#: two terms of the pointwise functions below: the argument a of the gate, and s, which depends on no input
GATE, SCALE = Term(("W", "U"), "b"), Term((None, None), "s")


class GatedOperation(TwoInputOperation):
    """The base class of h + s * f * (y - h)."""

    residual: ClassVar[tuple[str, ...]] = ("s",)

    @abstractmethod
    def proposed(self, module: GatedModule) -> Bound:
        """Return a bound on |y|."""

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= max |1 - s f| |h| + |s| |y|, where f is between 0 and 1."""
        assert isinstance(module, GatedModule)
        kept = max(1.0, float((1 - module.s.detach()).abs().max()))
        return self.proposed(module) * largest_scale(module) + Bound({(1,): kept})

    def identity_error(self, module: nn.Module) -> Bound:
        """Return the bound |o - h| <= |s| (|y| + |h|)."""
        assert isinstance(module, GatedModule)
        return (self.proposed(module) + Bound({(1,): 1.0})) * largest_scale(module)


def largest_scale(module: GatedModule) -> float:
    """Return the largest |s| of a unit."""
    return float(module.s.detach().abs().max())


@attrs.frozen
class HighwayUnit(GatedOperation):
    """h + s * f * (tanh(V x + R h + d) - h), a highway layer with a recurrent input (Srivastava et al. 2015; Zilly et al. 2017).

    f = sigmoid(W x + U h + b) is the transform gate, and 1 - f the carry gate. It is a GRU without the reset gate.
    """

    name: ClassVar[str] = "highway_unit"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return TanhModule(inputs, hidden)

    def proposed(self, module: GatedModule) -> Bound:
        """Return the bound |y| <= 1."""
        return Bound({(): 1.0})

    def pointwise(self) -> Pointwise:
        """Return the description by three terms: the arguments of the gate and of y, and s."""
        return Pointwise((GATE, Term(("V", "R"), "d"), SCALE), highway, highway_derivatives)


def highway(a: Tensor, c: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """Return h + s sigmoid(a) (tanh(c) - h)."""
    return h + s * torch.sigmoid(a) * (torch.tanh(c) - h)


def highway_derivatives(a: Tensor, c: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
    """Return o = h + s f (y - h), where f = sigmoid(a) and y = tanh(c), and its derivatives by a, c, s and h.

    do/da = s (y - h) df/da,  do/dc = s f dy/dc,  do/ds = f (y - h),  do/dh = 1 - s f.
    """
    f, f_by_a = SIGMOID.value_and_derivative(a)
    y, y_by_c = TANH.value_and_derivative(c)
    moved = f * (y - h)
    return h + s * moved, s * f_by_a * (y - h), s * f * y_by_c, moved, 1 - s * f


@attrs.frozen
class UpdateGate(GatedOperation):
    """h + s * f * (V x - h), f = sigmoid(W x + U h + b): `sum` with an update gate, so that it can forget.

    The proposed state depends on x alone, as in SRU (Lei et al. 2018), where each unit of the gate reads one unit of h; here it reads all.
    """

    name: ClassVar[str] = "update_gate"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return ProjectionModule(inputs, hidden)

    def proposed(self, module: GatedModule) -> Bound:
        """Return the bound |y| <= |V| |x|."""
        return Bound({(0,): infinity_norm(module.V)})

    def pointwise(self) -> Pointwise:
        """Return the description by three terms: the argument of the gate, y, and s."""
        return Pointwise((GATE, Term(("V", None)), SCALE), update, update_derivatives)


def update(a: Tensor, y: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """Return h + s sigmoid(a) (y - h)."""
    return h + s * torch.sigmoid(a) * (y - h)


def update_derivatives(a: Tensor, y: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
    """Return o = h + s f (y - h), where f = sigmoid(a), and its derivatives by a, y, s and h.

    do/da = s (y - h) df/da,  do/dy = s f,  do/ds = f (y - h),  do/dh = 1 - s f.
    """
    f, f_by_a = SIGMOID.value_and_derivative(a)
    moved = f * (y - h)
    return h + s * moved, s * f_by_a * (y - h), s * f, moved, 1 - s * f


@attrs.frozen
class MinimalGatedUnit(GatedOperation):
    """h + s * f * (tanh(V x + R (f * h) + d) - h), f = sigmoid(W x + U h + b): the minimal gated unit (Zhou et al. 2016).

    The gate f both forgets within y and updates. It multiplies h before the map R, so that the operation is no function of linear
    terms: a cell with this candidate runs in its readable form.
    """

    name: ClassVar[str] = "minimal_gated_unit"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return ForgettingModule(inputs, hidden)

    def proposed(self, module: GatedModule) -> Bound:
        """Return the bound |y| <= 1."""
        return Bound({(): 1.0})


#: the gated candidates, as in `TwoToOne(operations=GATED)`
GATED: tuple[Operation, ...] = (HighwayUnit(), UpdateGate(), MinimalGatedUnit())
