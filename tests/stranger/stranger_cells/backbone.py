"""How nodes are wired: a feed-forward network."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Address,
    Backbone,
    Cell,
    Gate,
    GrownStructure,
    MixedOperation,
    Operation,
    Structure,
    add_node,
    all_but_strongest,
    initial_mixing,
    nested,
    number,
)
from nasframe.network.mixing import MixingWeights
from nasframe.structure.editing import operations_validator
from stranger_cells.operations import Bottleneck


class Layers(nn.Module):
    """A linear map in, the nodes one behind the other, and a linear map out."""

    def __init__(self, structure: Structure, hidden: int) -> None:
        super().__init__()
        self.cell = structure.cell("layers")
        self.stem, self.head = nn.Linear(structure.size("inputs"), hidden), nn.Linear(hidden, structure.size("outputs"))
        self.sites = nn.ModuleDict(
            {s.id: MixedOperation(Address.of("layers", s.id), s, inputs=hidden, hidden=hidden) for s in self.cell.sites}
        )
        self.gates = nn.ModuleDict({n.id: Gate(Address.of("layers", n.id)) for n in self.cell.nodes if n.inherits})

    def forward(self, inputs: Tensor, shares: MixingWeights) -> Tensor:
        """From (..., inputs) to (..., outputs)."""
        states = {"x": self.stem(inputs.flatten(0, -2))}
        for node in self.cell.nodes:
            state = self.sites[node.id](shares, *(states[i] for i in self.cell.site(node.id).inputs))
            if node.inherits:
                state = self.gates[node.id](torch.stack([states[i] for i in node.inherits]).mean(0), state)
            states[node.id] = state
        return self.head(state).unflatten(0, inputs.shape[:-1])


@attrs.frozen
class FeedForward(Backbone):
    """Node j is the mixture of o(node j - 1), node 0 of o(x), where x is a linear map of the input; the output is linear, too.

    It takes the last axis of what it is given, whatever stands before. Operations are built with `inputs` and `hidden`, both the
    width of a node, as those of `darts_recurrent` are.

    Args:
        hidden: the width of a node.
        operations: the candidates of every node.
    """

    name: ClassVar[str] = "feed_forward"
    inputs: ClassVar[tuple[str, ...]] = ("x",)
    hidden: int = number(8, low=1, whole=True)
    operations: tuple[Operation, ...] = nested(
        "operation", default=(Bottleneck(1), Bottleneck(4)), validator=operations_validator(1)
    )

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """One cell, "layers". `sizes` has `inputs` and `outputs`."""
        structure = Structure(self, self.require_sizes(sizes, "inputs", "outputs"), (("layers", Cell()),))
        for _ in range(nodes):
            structure = self.grown(structure, "layers").structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """The nodes between their linear maps."""
        return Layers(structure, self.hidden)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """One node more at the end, born as the one before."""
        before = self.outputs(structure.cell(cell)) or self.inputs
        child, node = add_node(structure, cell, lambda id: {id: before}, self.operations)
        return GrownStructure(child, node, before, initial_mixing(child, node, before))

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """All but the strongest of each node."""
        return all_but_strongest(structure, mixing)
