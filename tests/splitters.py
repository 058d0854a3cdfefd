"""Operations of a third party, to be split."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Operation, Pointwise
from nasframe.network.pointwise import Term


class WaveModule(nn.Module):
    """The module of sin(W x + a) * softplus(V h)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.sin(self.first(x)) * nn.functional.softplus(self.second(h))


@attrs.frozen
class Wave(Operation):
    """sin(W x + a) * softplus(V h): two terms, whose product has a mixed second derivative."""

    name: ClassVar[str] = "wave"
    arity: ClassVar[int] = 2

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return WaveModule(inputs, hidden)

    def pointwise(self) -> Pointwise:
        terms = Term(("first.weight", None), "first.bias"), Term((None, "second.weight"))
        return Pointwise(terms, lambda a, b, h: torch.sin(a) * nn.functional.softplus(b))


class SoftplusModule(nn.Module):
    """The module of softplus(W x + V h + b)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W, self.V = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return nn.functional.softplus(self.W(x) + self.V(h))


@attrs.frozen
class Softplus(Operation):
    """softplus(W x + V h + b)."""

    name: ClassVar[str] = "softplus"
    arity: ClassVar[int] = 2

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        return SoftplusModule(inputs, hidden)

    def pointwise(self) -> Pointwise:
        return Pointwise((Term(("W.weight", "V.weight"), "W.bias"),), lambda a, h: nn.functional.softplus(a))


@attrs.frozen
class Tied(Softplus):
    """The same with a description that uses a parameter twice."""

    name: ClassVar[str] = "tied"

    def pointwise(self) -> Pointwise:
        term = Term(("W.weight", None), "W.bias")
        return Pointwise((term, term), lambda a, b, h: a * b)
