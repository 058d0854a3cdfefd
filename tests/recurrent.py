"""Trained recurrent networks for the laws: random ones for hypothesis, and a fixed one for the mutants."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_recurrent import (
    Darts,
    IdentityEdge,
    IdentityHighway,
    Prod,
    Relu,
    ReluEdge,
    Sigmoid,
    SigmoidEdge,
    SigmoidHighway,
    Sum,
    Tanh,
    TanhEdge,
    TanhHighway,
    TwoToOne,
    ZeroEdge,
)
from nasframe_recurrent.edges import EdgeOperation
from nasframe_recurrent.operations import TwoInputOperation, weight_matrix
from torch import Tensor, nn

from nasframe import Backbone, Operation, Optimiser, Strategy, installed
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.fakes import Endless, Keep, Noise
from nasframe.testing.strategies import optimisers, sizes, trained_networks
from nasframe.testing.trained import TrainedNetwork


class Running(nn.Module):
    """tanh(W_x x + h - m) with a running mean m; an edge has [x, h] as its only input."""

    mean: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W_x = weight_matrix(hidden, inputs, hidden)
        self.register_buffer("mean", torch.zeros(hidden))

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        z = x @ self.W_x.t() + (x[:, -len(self.mean) :] if h is None else h)
        if self.training:
            self.mean.lerp_(z.detach().mean(0), 0.1)
        return torch.tanh(z - self.mean)


@attrs.frozen
class Centred(TwoInputOperation):
    """An operation of another plugin, which has a buffer and implements no optional member."""

    name: ClassVar[str] = "centred"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return Running(inputs, hidden)


@attrs.frozen
class CentredEdge(EdgeOperation):
    """The same operation with one input."""

    name: ClassVar[str] = "centred_edge"

    def build(self, *, inputs: int, hidden: int) -> nn.Module:
        """Return the module, freshly initialised."""
        return Running(inputs, hidden)


#: makes a part by its name: parts of the installed plugins, and the operations above
make = Plugins((*installed().found, Plugin("strangers", "tests", "0", (Centred, CentredEdge)))).make

#: operations with a bound of their magnitude, and all
BOUNDED: tuple[Operation, ...] = (Sigmoid(), Tanh(), Relu(), Prod())
ANY: tuple[Operation, ...] = (*BOUNDED, Centred())
#: the edge operation of DARTS that replaces an operation of Two-to-One
EDGES: dict[Operation, Operation] = {
    Sigmoid(): SigmoidEdge(),
    Tanh(): TanhEdge(),
    Relu(): ReluEdge(),
    Prod(): TanhEdge(),
    Centred(): CentredEdge(),
}
#: the same with highway bypasses, where there are any
HIGHWAYS = EDGES | {Sigmoid(): SigmoidHighway(), Tanh(): TanhHighway(), Relu(): IdentityHighway(), Prod(): TanhHighway()}


@st.composite
def backbones(draw: st.DrawFn, hidden: int, others: tuple[Operation, ...], least: int) -> Backbone:
    """Draw a backbone of either kind whose cells can grow.

    Args:
        draw: the function of hypothesis.
        hidden: n_h.
        others: the operations to choose from, beside those by which cells grow.
        least: the smallest number of these.
    """
    chosen = draw(st.lists(st.sampled_from(others), min_size=least, unique=True))
    fields = hidden, draw(sizes(2)), draw(st.sampled_from([0.0, 0.4]))
    if draw(st.booleans()):
        chosen.insert(draw(st.integers(0, len(chosen))), Sum())
        return TwoToOne(*fields, operations=tuple(chosen))
    # with identity and zero alone, the outputs would not depend on the inputs
    family = draw(st.sampled_from([EDGES, HIGHWAYS]))
    edges = list(dict.fromkeys(family[o] for o in chosen)) or [TanhEdge()]
    for edge in (IdentityEdge(), ZeroEdge()):
        edges.insert(draw(st.integers(0, len(edges))), edge)
    return Darts(*fields, output=draw(st.sampled_from(["last", "mean", "later"])), operations=tuple(edges))


@st.composite
def strategies(draw: st.DrawFn, others: tuple[Operation, ...] = ANY, least: int = 0, **fixed: Any) -> Strategy:
    """Draw a search with sizes down to 1 and any optimiser; `fixed` are fields that are not drawn."""
    hidden = draw(sizes())
    inputs = draw(sizes().filter(lambda n: n != hidden))
    time, outputs = draw(sizes(3)), draw(sizes(2))
    backbone = draw(backbones(hidden, others, least))
    values = {
        "nodes": draw(sizes(3)),
        "batch": draw(sizes(5)),
        "optimiser": draw(optimisers()),
        "seed": draw(st.integers(0, 999)),
    }
    return strategy(inputs, outputs, time, backbone, **(values | fixed))


def strategy(inputs: int, outputs: int, time: int, backbone: Backbone, **values: Any) -> Strategy:
    """Return a search on noise in float64 whose alphas have the learning rate of the weights."""
    parts: dict[str, Any] = {
        "task": Noise((("inputs", inputs), ("outputs", outputs)), (time, -1, inputs), (time, -1, outputs)),
        "backbone": backbone,
        "architect": FirstOrder(Optimiser(learning_rate=0.01)),
        "criterion": Endless(),
        "pruner": Keep(),
        "dtype": "float64",
    }
    return Strategy(**(parts | values))


def parents(others: tuple[Operation, ...] = ANY, least: int = 0, **fixed: Any) -> st.SearchStrategy[TrainedNetwork]:
    """Draw a network that was trained for 20 steps."""
    return trained_networks(strategies(others, least, **fixed))


def specimen(method: str = "adam", nodes: int = 2, others: tuple[Operation, ...] = ANY) -> TrainedNetwork:
    """Return a network with all operations, two layers and dropout that was trained for 20 steps."""
    return _specimen(method, nodes, others).copy()


@functools.cache
def _specimen(method: str, nodes: int, others: tuple[Operation, ...]) -> TrainedNetwork:
    momentum = 0.9 if method == "sgd" else 0.0
    backbone = TwoToOne(3, 2, 0.4, (Sum(), *others))
    return TrainedNetwork.of(
        strategy(2, 2, 3, backbone, nodes=nodes, batch=4, optimiser=Optimiser(method, 0.01, momentum=momentum))
    )
