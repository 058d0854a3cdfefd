"""Two operations: one with two inputs, for Two-to-One, and one with a single input, for edges."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise
from nasframe.network.pointwise import Term
from nasframe.options import number


class Gates(nn.Module):
    """The module of h + s * sigmoid(i) * tanh(c), where i and c are linear in x and h."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.i_x, self.i_h = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.c_x, self.c_h = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.s = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the new state of shape (batch, hidden) from x (batch, inputs) and h (batch, hidden)."""
        return step(self.i_x(x) + self.i_h(h), self.c_x(x) + self.c_h(h), self.s, h)


def step(i: Tensor, c: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """Return h + s * sigmoid(i) * tanh(c), entry by entry."""
    return h + s * torch.sigmoid(i) * torch.tanh(c)


def step_and_slopes(i: Tensor, c: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
    """Return the value of `step` and its derivatives by i, c, s and h."""
    g, t = torch.sigmoid(i), torch.tanh(c)
    return h + s * g * t, s * t * g * (1 - g), s * g * (1 - t * t), g * t, 1.0


@attrs.frozen
class GatedStep(Operation):
    """h + s * sigmoid(W_ix x + W_ih h + b_i) * tanh(W_cx x + W_ch h + b_c).

    The backbone builds it with `inputs`, the width of x, and `hidden`, the width of h.
    """

    name: ClassVar[str] = "gated_step"
    arity: ClassVar[int] = 2
    residual: ClassVar[tuple[str, ...]] = ("s",)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised with s = 1."""
        return Gates(inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Return the description as a function of i, c and s; s is a parameter that no input is multiplied by."""
        gates = (Term((f"{g}_x.weight", f"{g}_h.weight"), f"{g}_x.bias") for g in "ic")
        return Pointwise((*gates, Term((None, None), "s")), step, step_and_slopes)

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |h| + |s|."""
        return Bound({(1,): 1.0}) + self.identity_error(module)

    def identity_error(self, module: nn.Module) -> Bound:
        """Return the bound |o - h| <= |s|."""
        return Bound({(): float(module.get_parameter("s").detach().abs().max())})


class Perceptron(nn.Module):
    """The module of h + V tanh(W z), where h is the last part of z."""

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.W, self.V = nn.Linear(inputs, width, bias=False), nn.Linear(width, hidden, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the new state of shape (batch, hidden) from z (batch, inputs)."""
        return z[:, -self.V.out_features :] + self.V(torch.tanh(self.W(z)))


@attrs.frozen
class Bottleneck(Operation):
    """h + V tanh(W z), where h is the last part of z: a residual perceptron with few hidden units.

    The backbone builds it with `inputs`, the width of z, and `hidden`, the width of h.

    Args:
        width: the number of hidden units, which the morphism `widen` increases.
    """

    name: ClassVar[str] = "bottleneck"
    arity: ClassVar[int] = 1
    residual: ClassVar[tuple[str, ...]] = ("V.weight",)
    width: int = number(2, low=1, whole=True)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return Perceptron(inputs, hidden, self.width)

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= |z| + |V| |W| |z|."""
        return Bound({(0,): 1.0}) + self.identity_error(module)

    def identity_error(self, module: nn.Module) -> Bound:
        """Return the bound |o - h| <= |V| |W| |z|, which holds because |tanh(a)| <= |a|; |.| are the largest row sums."""
        V, W = (module.get_parameter(f"{n}.weight").detach() for n in "VW")
        return Bound({(0,): float((V.abs() @ W.abs()).sum(1).max())})
