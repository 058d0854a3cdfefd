"""A backbone for feed-forward networks."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor, nn

from nasframe import Address, Backbone, Cell, Operation, Structure
from nasframe.interfaces.pruner import all_but_strongest
from nasframe.network.cell import CellModule
from nasframe.network.mixing import MixingWeights
from nasframe.options import nested, number
from nasframe.structure.editing import GrownStructure, add_node, initial_mixing, operations_validator
from stranger_cells.operations import Bottleneck


class Layers(CellModule):
    """The nodes of a feed-forward network between a linear map of the inputs and one of the last node."""

    def __init__(self, structure: Structure, hidden: int) -> None:
        super().__init__("layers", structure.cell("layers"), lambda site: {"inputs": hidden, "hidden": hidden})
        self.stem, self.head = nn.Linear(structure.size("inputs"), hidden), nn.Linear(hidden, structure.size("outputs"))

    def forward(self, inputs: Tensor, mixing: MixingWeights) -> Tensor:
        """Return outputs of shape (..., outputs) from inputs of shape (..., inputs)."""
        states = self.states({"x": self.stem(inputs.flatten(0, -2))}, mixing)
        return self.head(states[self.cell.nodes[-1].id]).unflatten(0, inputs.shape[:-1])


@attrs.frozen
class FeedForward(Backbone):
    """A chain of nodes between two linear maps: node j is a mixed operation of node j - 1, node 0 one of the mapped inputs.

    The network is applied to the last axis of its inputs. Operations are built with `inputs` and `hidden`, both the width of a
    node, as those of `darts_recurrent` are.

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
        """Return a structure of one cell, "layers", for a task with the sizes `inputs` and `outputs`."""
        structure = Structure(self, self.require_sizes(sizes, "inputs", "outputs"), (("layers", Cell()),))
        for _ in range(nodes):
            structure = self.grown(structure, "layers").structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """Return the nodes with their linear maps."""
        return Layers(structure, self.hidden)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node at the end, which starts as the node before it."""
        before = self.outputs(structure.cell(cell)) or self.inputs
        child, node = add_node(structure, cell, lambda id: {id: before}, self.operations)
        return GrownStructure(child, node, before, initial_mixing(child, node, before))

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates but the strongest of each node."""
        return all_but_strongest(structure, mixing)
