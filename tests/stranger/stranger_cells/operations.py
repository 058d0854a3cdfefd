"""What stands at a site: an operation on two inputs, and one on a single input."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Bound, Operation, Pointwise, Term, number


class Gates(nn.Module):
    """h + s * sigmoid(i) * tanh(c), where i and c are linear in x and h."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.i_x, self.i_h = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.c_x, self.c_h = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.s = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """From (batch, inputs) and (batch, hidden) to (batch, hidden)."""
        return step(self.i_x(x) + self.i_h(h), self.c_x(x) + self.c_h(h), self.s, h)


def step(i: Tensor, c: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """h, and where to it goes, as far as the gate lets it."""
    return h + s * torch.sigmoid(i) * torch.tanh(c)


def step_and_slopes(i: Tensor, c: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
    """`step`, and its derivatives by i, c, s and h."""
    g, t = torch.sigmoid(i), torch.tanh(c)
    return h + s * g * t, s * t * g * (1 - g), s * g * (1 - t * t), g * t, 1.0


@attrs.frozen
class GatedStep(Operation):
    """h + s * sigmoid(W_ix x + W_ih h + b_i) * tanh(W_cx x + W_ch h + b_c).

    Built with `inputs`, the width of x, and `hidden`, that of h.
    """

    name: ClassVar[str] = "gated_step"
    arity: ClassVar[int] = 2
    residual: ClassVar[tuple[str, ...]] = ("s",)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Two gates, and how large a step is: s = 1 at first."""
        return Gates(inputs, hidden)

    def pointwise(self) -> Pointwise:
        """Both gates are linear in x and h, and s is there whatever they are."""
        gates = (Term((f"{g}_x.weight", f"{g}_h.weight"), f"{g}_x.bias") for g in "ic")
        return Pointwise((*gates, Term((None, None), "s")), step, step_and_slopes)

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |h| + |s|."""
        return Bound({(1,): 1.0}) + self.identity_error(module)

    def identity_error(self, module: nn.Module) -> Bound:
        """|o - h| <= |s|."""
        return Bound({(): float(module.get_parameter("s").detach().abs().max())})


class Perceptron(nn.Module):
    """h + V tanh(W z), where h is the last of z."""

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.W, self.V = nn.Linear(inputs, width, bias=False), nn.Linear(width, hidden, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """From (batch, inputs) to (batch, hidden)."""
        return z[:, -self.V.out_features :] + self.V(torch.tanh(self.W(z)))


@attrs.frozen
class Bottleneck(Operation):
    """h + V tanh(W z), where z ends in h: a residual perceptron with few hidden units.

    Built with `inputs`, the width of z, and `hidden`, that of h.

    Args:
        width: the hidden units, which `widen` makes more of.
    """

    name: ClassVar[str] = "bottleneck"
    arity: ClassVar[int] = 1
    residual: ClassVar[tuple[str, ...]] = ("V.weight",)
    width: int = number(2, low=1, whole=True)

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Two linear maps."""
        return Perceptron(inputs, hidden, self.width)

    def magnitude(self, module: nn.Module) -> Bound:
        """|o| <= |z| + |V| |W| |z|."""
        return Bound({(0,): 1.0}) + self.identity_error(module)

    def identity_error(self, module: nn.Module) -> Bound:
        """|o - h| <= |V| |W| |z|, by the largest row sums, as |tanh(a)| <= |a|."""
        V, W = (module.get_parameter(f"{n}.weight").detach() for n in "VW")
        return Bound({(0,): float((V.abs() @ W.abs()).sum(1).max())})
