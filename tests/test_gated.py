"""The gated operations of Two-to-One: each is what its paper says, and cells of them alone can be searched and grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from nasframe_growing import NodeGrowth
from nasframe_recurrent import GATED, HighwayUnit, MinimalGatedUnit, Prod, Relu, Sigmoid, Sum, Tanh, TwoToOne, UpdateGate
from recurrent import strategy
from torch import nn

from nasframe import Operation, installed
from nasframe.testing import assertions
from nasframe.testing.trained import EDIT, TrainedNetwork

Vector = Sequence[float]


def product(matrix: torch.Tensor, vector: Vector) -> Vector:
    return [math.fsum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix.tolist()]


def affine(module: nn.Module, of_x: str, of_h: str, bias: str, x: Vector, h: Vector) -> Vector:
    """Return W x + U h + b, for the names of the three parameters."""
    W, U, b = (module.get_parameter(name) for name in (of_x, of_h, bias))
    return [math.fsum(terms) for terms in zip(product(W, x), product(U, h), b.tolist(), strict=True)]


def gate(module: nn.Module, x: Vector, h: Vector) -> Vector:
    return [1 / (1 + math.exp(-a)) for a in affine(module, "W", "U", "b", x, h)]


def highway(module: nn.Module, x: Vector, h: Vector) -> Vector:
    """Return t tanh(V x + R h + d) + (1 - t) h, with the transform gate t and the carry gate 1 - t (Srivastava et al. 2015)."""
    y = map(math.tanh, affine(module, "V", "R", "d", x, h))
    return [t * y + (1 - t) * old for t, y, old in zip(gate(module, x, h), y, h, strict=True)]


def updated(module: nn.Module, x: Vector, h: Vector) -> Vector:
    """Return (1 - f) h + f V x, where 1 - f is the forget gate of SRU (Lei et al. 2018)."""
    y = product(module.get_parameter("V"), x)
    return [(1 - f) * old + f * y for f, y, old in zip(gate(module, x, h), y, h, strict=True)]


def minimal(module: nn.Module, x: Vector, h: Vector) -> Vector:
    """Return (1 - f) h + f tanh(V x + R (f h) + d) (Zhou et al. 2016)."""
    f = gate(module, x, h)
    forgotten = [f * old for f, old in zip(f, h, strict=True)]
    y = map(math.tanh, affine(module, "V", "R", "d", x, forgotten))
    return [(1 - f) * old + f * y for f, y, old in zip(f, y, h, strict=True)]


@pytest.mark.parametrize(
    ("operation", "paper"),
    [(HighwayUnit(), highway), (UpdateGate(), updated), (MinimalGatedUnit(), minimal)],
    ids=lambda case: getattr(case, "name", ""),
)
def test_operations_are_those_of_the_papers(operation: Operation, paper: Callable[[nn.Module, Vector, Vector], Vector]) -> None:
    """With the scales at 1, as they start, each output is that of the paper's equation, written out by brute force."""
    torch.manual_seed(0)
    module = operation.build(inputs=2, hidden=3).double()
    x, h = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert module.get_parameter("s").tolist() == [1.0] * 3
    for name in {"b", "d"} & {name for name, _ in module.named_parameters()}:
        nn.init.uniform_(module.get_parameter(name))

    wanted = [paper(module, *pair) for pair in zip(x.tolist(), h.tolist(), strict=True)]

    torch.testing.assert_close(module(x, h), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_set_of_the_paper_stays_as_it_is() -> None:
    """Gated candidates are chosen by name; without a choice, a node has the five of Jie & Gao (2021), Table 1."""
    assert TwoToOne().operations == (Sigmoid(), Tanh(), Relu(), Sum(), Prod())
    names = [operation.name for operation in GATED]
    assert installed().make("backbone", {"name": "two_to_one", "operations": names}) == TwoToOne(operations=GATED)


def test_a_node_starts_as_a_gated_candidate() -> None:
    """A cell without `sum` grows by noise in the scales s: the bounds hold, and all that is new receives gradients."""
    parent = TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(2, operations=GATED), nodes=1, batch=8), 10)
    morphism = NodeGrowth()
    first = parent.proposals(morphism)[0]
    child = parent.after(morphism.edit(parent.network.structure, first.request, first.evidence, EDIT), EDIT)

    assert child.claim.bounds
    assertions.assert_within_bounds(child, child.claim.bounds)
    assertions.assert_trainable(child)


def test_gated_cells_have_a_fast_form() -> None:
    """Without the minimal gated unit, whose gate acts before a map, the fast form has the values and derivatives of the readable one."""
    backbone = TwoToOne(2, layers=2, operations=(HighwayUnit(), UpdateGate(), Sum()))
    trained = TrainedNetwork.of(strategy(3, 2, 3, backbone, nodes=2, batch=4), 5)
    assert not backbone.slow_parts(trained.network.structure)

    assertions.assert_fast_form(trained, second=True)
