"""The Two-to-One backbone (Jie & Gao 2021, 3.1): a chain of nodes, each on the cell's input and the node before it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Backbone,
    Candidate,
    Cell,
    Gate,
    Grown,
    Mixture,
    Node,
    Operation,
    Shares,
    Site,
    Structure,
    all_but_strongest,
    nested,
    number,
)
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh


def _two_inputs(instance: Any, attribute: Any, value: Any) -> None:
    names = [getattr(o, "name", o) for o in value]
    if not value or not all(isinstance(o, Operation) and o.arity == 2 for o in value):
        raise ValueError(f"{attribute.name} is {names!r}; it must be one or more operations of two inputs")


@attrs.frozen
class TwoToOne(Backbone):
    """Node j is the mixture of o(x_t, node j - 1), node 0 of o(x_t, h_{t-1}); h_t is the last node (Eq. 12).

    Inputs have shape (time, batch, n_x), outputs (time, batch, n_y): a linear map of h_t at every step; h_0 is zero.
    Operations are built with `inputs` (n_x, or n_h above the first layer) and `hidden` (n_h).

    Args:
        hidden: n_h.
        layers: stacked cells, each a cell type of its own ("layer0", "layer1", ...) with its own logits.
        dropout: probability, on the output of every layer.
        operations: the candidates of every node.
    """

    name: ClassVar[str] = "two_to_one"
    inputs: ClassVar[tuple[str, ...]] = ("x", "h")
    hidden: int = number(16, low=1, whole=True)
    layers: int = number(1, low=1, whole=True)
    dropout: float = number(0.0, low=0.0, high=1.0)
    operations: tuple[Operation, ...] = nested(
        "operation", default=(Sigmoid(), Tanh(), Relu(), Sum(), Prod()), validator=_two_inputs
    )

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Every layer with that many nodes. `sizes` has `inputs` (n_x) and `outputs` (n_y)."""
        cells = tuple((f"layer{i}", Cell()) for i in range(self.layers))
        structure = Structure(self, (("inputs", sizes["inputs"]), ("outputs", sizes["outputs"])), cells)
        for type, _ in cells:
            for _ in range(nodes):
                structure = self.grown(structure, type).structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """The stack of cells and its head."""
        return Stack(structure, self.hidden, self.dropout)

    def grown(self, structure: Structure, cell: str) -> Grown:
        """One node more at the end of the chain; it is born as the operation that can be the identity, with W_x = 0."""
        old = structure.cell(cell)
        node = f"n{old.next_node}"
        before = old.nodes[-1].id if old.nodes else "h"
        candidates = tuple(Candidate(structure.next_id + i, o) for i, o in enumerate(self.operations))
        site = Site(node, node, ("x", before), candidates)
        new = Cell((*old.nodes, Node(node)), (*old.sites, site), old.next_node + 1)
        identity = next((c.id for c in candidates if c.operation.residual is not None), None)
        birth = {f"{cell}/{node}": {c.id: float(c.id == identity) for c in candidates}}
        return Grown(structure.replace_cell(cell, new, len(candidates)), node, (before,), birth if identity is not None else {})

    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """All but the strongest operation of each node."""
        return {a: all_but_strongest(s, weights[a]) for a, s in structure.sites() if not s.decided}


class TwoToOneCell(nn.Module):
    """One step of a layer."""

    def __init__(self, type: str, cell: Cell, inputs: int, hidden: int) -> None:
        super().__init__()
        self.nodes = nn.ModuleDict({s.node: Mixture(f"{type}/{s.id}", s, inputs=inputs, hidden=hidden) for s in cell.sites})
        self.gates = nn.ModuleDict({n.id: Gate(f"{type}/{n.id}") for n in cell.nodes if n.inherits})

    def forward(self, shares: Shares, x: Tensor, h: Tensor) -> Tensor:
        """h_t from x_t: (batch, n_x) and h_{t-1}: (batch, n_h)."""
        for node, mixture in self.nodes.items():
            own = mixture(shares, x, h)
            h = self.gates[node](h, own) if node in self.gates else own
        return h


class Stack(nn.Module):
    """Layers of cells over time, and a linear head."""

    def __init__(self, structure: Structure, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = hidden
        self.layers = nn.ModuleList(
            TwoToOneCell(type, cell, hidden if i else structure.size("inputs"), hidden)
            for i, (type, cell) in enumerate(structure.cells)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, structure.size("outputs"))

    def forward(self, inputs: Tensor, shares: Shares) -> Tensor:
        """From (time, batch, n_x) to (time, batch, n_y)."""
        for layer in self.layers:
            h, states = inputs.new_zeros(inputs.shape[1], self.hidden), []
            for x in inputs.unbind():
                h = layer(shares, x, h)
                states.append(h)
            inputs = self.dropout(torch.stack(states))
        return self.head(inputs)
