"""Two-to-One networks for the laws: drawn ones that have trained, and one specimen for the mutants."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_recurrent import Prod, Relu, Sigmoid, Sum, Tanh, TwoToOne
from nasframe_recurrent.operations import TwoInput, matrix
from torch import Tensor, nn

from nasframe import Operation, Optimiser, Plugins, Strategy, installed
from nasframe.plugins import Plugin
from nasframe.testing.aged import Aged
from nasframe.testing.fakes import Endless, Keep, Noise
from nasframe.testing.strategies import aged, optimisers, sizes


class Running(nn.Module):
    """tanh(W_x x + h - m), where m is a running mean."""

    mean: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W_x = matrix(hidden, inputs, hidden)
        self.register_buffer("mean", torch.zeros(hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = x @ self.W_x.t() + h
        if self.training:
            self.mean.lerp_(z.detach().mean(0), 0.1)
        return torch.tanh(z - self.mean)


@attrs.frozen
class Centred(TwoInput):
    """A stranger's operation, which has a buffer and tells nothing about itself."""

    name: ClassVar[str] = "centred"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """A module with a buffer."""
        return Running(inputs, hidden)


#: makes parts of the installed plugins, and the stranger's operation
make = Plugins((*installed().found, Plugin("strangers", "tests", "0", (Centred,)))).make

TOLD: tuple[Operation, ...] = (Sigmoid(), Tanh(), Relu(), Prod())
ANY: tuple[Operation, ...] = (*TOLD, Centred())


@st.composite
def strategies(draw: st.DrawFn, others: tuple[Operation, ...] = ANY, least: int = 0, **fixed: Any) -> Strategy:
    """Sizes down to 1, the sum among so many of the others or more, and any optimiser."""
    hidden = draw(sizes())
    inputs = draw(sizes().filter(lambda n: n != hidden))
    time, outputs = draw(sizes(3)), draw(sizes(2))
    chosen = draw(st.lists(st.sampled_from(others), min_size=least, unique=True))
    chosen.insert(draw(st.integers(0, len(chosen))), Sum())
    backbone = TwoToOne(hidden, draw(sizes(2)), draw(st.sampled_from([0.0, 0.4])), tuple(chosen))
    values = {
        "nodes": draw(sizes(3)),
        "batch": draw(sizes(5)),
        "optimiser": draw(optimisers()),
        "seed": draw(st.integers(0, 999)),
    }
    return strategy(inputs, outputs, time, backbone, **(values | fixed))


def strategy(inputs: int, outputs: int, time: int, backbone: TwoToOne, **values: Any) -> Strategy:
    """A search on noise at float64, whose logits move as fast as the weights."""
    parts: dict[str, Any] = {
        "task": Noise((("inputs", inputs), ("outputs", outputs)), (time, -1, inputs), (time, -1, outputs)),
        "backbone": backbone,
        "architect": FirstOrder(Optimiser(learning_rate=0.01)),
        "criterion": Endless(),
        "pruner": Keep(),
        "dtype": "float64",
    }
    return Strategy(**(parts | values))


def parents(others: tuple[Operation, ...] = ANY, least: int = 0, **fixed: Any) -> st.SearchStrategy[Aged]:
    """A network that has trained for 20 steps."""
    return aged(strategies(others, least, **fixed))


def specimen(method: str = "adam", nodes: int = 2, others: tuple[Operation, ...] = ANY) -> Aged:
    """One network with all operations, two layers and dropout, trained for 20 steps."""
    return _specimen(method, nodes, others).copy()


@functools.cache
def _specimen(method: str, nodes: int, others: tuple[Operation, ...]) -> Aged:
    momentum = 0.9 if method == "sgd" else 0.0
    backbone = TwoToOne(3, 2, 0.4, (Sum(), *others))
    return Aged.of(strategy(2, 2, 3, backbone, nodes=nodes, batch=4, optimiser=Optimiser(method, 0.01, momentum=momentum)))
