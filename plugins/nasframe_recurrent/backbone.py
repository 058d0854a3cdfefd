"""What the recurrent backbones share: layers of cells, each of a type of its own, and how an architecture is derived."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set

import attrs
from torch import Tensor, nn

from nasframe import (
    Address,
    Backbone,
    Cell,
    GrownStructure,
    Operation,
    Structure,
    add_node,
    all_but_strongest,
    initial_mixing,
    number,
)
from nasframe_recurrent.cell import RecurrentCell, Stack
from nasframe_recurrent.fused import sequence
from nasframe_recurrent.plan import planned


@attrs.frozen
class Recurrent(Backbone):
    """Inputs have shape (time, batch, n_x), outputs (time, batch, n_y): a linear map of h_t at every step; h_0 is zero.

    Where the task has `tokens` and no `inputs` and `outputs`, inputs are whole numbers (time, batch), outputs a score for each
    token (time, batch, tokens); x_t is a token's embedding, n_x = n_h wide, and its row in the linear map.

    Args:
        hidden: n_h; n_x where it is left out (Jie & Gao 2021, Table 2).
        layers: stacked cells, each a cell type of its own ("layer0", "layer1", ...) with its own alphas.
        dropout: probability, on the output of every layer.
    """

    hidden: int | None = number(None, low=1, whole=True, optional=True)
    layers: int = number(1, low=1, whole=True)
    dropout: float = number(0.0, low=0.0, high=1.0)

    @property
    @abstractmethod
    def operations(self) -> tuple[Operation, ...]:
        """The candidates of every site."""

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Every layer with that many nodes. `sizes` has `inputs` (n_x) and `outputs` (n_y), or `tokens`."""
        cells = tuple((f"layer{i}", Cell()) for i in range(self.layers))
        names = ("tokens",) if "tokens" in sizes else ("inputs", "outputs")
        structure = Structure(self, self.require_sizes(sizes, *names), cells)
        for type, _ in cells:
            for _ in range(nodes):
                structure = self.grown(structure, type).structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """The stack of cells and its head."""
        return Stack(structure, self.hidden, self.dropout)

    def run(self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Tensor:
        """The stack, each layer in its fast form where it has one (`slow_parts` says where not, and why)."""
        assert isinstance(body, Stack)
        inputs = body.entered(inputs)
        for layer in body.layers:
            assert isinstance(layer, RecurrentCell)
            inputs = body.dropout(sequence(layer, inputs, mixing))
        return body.head(inputs)

    def slow_parts(self, structure: Structure) -> Sequence[str]:
        """Each layer that has no fast form."""
        plans = {type: planned(cell, self.outputs(cell)) for type, cell in structure.cells}
        return [f"{type} runs in its readable form: {reason}" for type, reason in plans.items() if isinstance(reason, str)]

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """One node more, wired as the backbone wires it, and born as the mean of what the cell puts out."""
        old = structure.cell(cell)
        child, node = add_node(structure, cell, lambda id: self.wiring(old, id), self.operations)
        outputs = self.outputs(old)
        return GrownStructure(child, node, outputs, initial_mixing(child, node, outputs))

    @abstractmethod
    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """The inputs of each site that a new node gets, by the site's id."""

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """All but the strongest operation of each node, and its edge with it; zero is not one (Liu et al. 2019, 2.4)."""
        return all_but_strongest(structure, mixing)
