"""The modules of the recurrent backbones in their readable form: one step of a cell, and layers of cells over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from nasframe import Cell, Structure
from nasframe.errors import StructureError
from nasframe.network.cell import CellModule, mean
from nasframe.network.mixing import MixingWeights


class RecurrentCell(CellModule):
    """One layer of a recurrent network, as a function of one time step.

    The input states are "x" (x_t, of shape (batch, n_x)), "h" (h_{t-1}, of shape (batch, n_h)) and "xh", which is both
    concatenated along the columns. The state of every node has the shape (batch, n_h).

    Args:
        type: the name of the cell type.
        cell: the structure of the cell type.
        outputs: the states whose mean is h_t.
        inputs: n_x.
        hidden: n_h.
    """

    def __init__(self, type: str, cell: Cell, outputs: Sequence[str], inputs: int, hidden: int) -> None:
        widths = {"x": inputs, "h": hidden, "xh": inputs + hidden, **{node.id: hidden for node in cell.nodes}}
        # an operation with two inputs is built with the width of x, its first input; its second one is n_h wide
        super().__init__(type, cell, lambda site: {"inputs": widths[site.inputs[0]], "hidden": hidden})
        self.outputs, self.widths, self.hidden = outputs, widths, hidden
        # [x, h] is computed only where a site reads it, as it would cost time at every step
        self.concatenates = any("xh" in site.inputs for site in cell.sites)

    def forward(self, mixing: MixingWeights, x: Tensor, h: Tensor) -> Tensor:
        """Return h_t of shape (batch, n_h) from x_t of shape (batch, n_x) and h_{t-1} of shape (batch, n_h)."""
        inputs = {"x": x, "h": h}
        if self.concatenates:
            inputs["xh"] = torch.cat([x, h], 1)
        states = self.states(inputs, mixing)
        return mean([states[name] for name in self.outputs])


class TiedHead(nn.Linear):
    """A linear map from a state to one score per token, whose rows also serve as the embeddings of the tokens."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings, of shape (time, batch, width), of whole numbers of shape (time, batch)."""
        return embedding(tokens, self.weight)


class RecurrentStack(nn.Module):
    """Layers of recurrent cells, dropout on the output of each that the layer above does not inherit, and a linear head.

    Where the task has tokens, the head also embeds them (`TiedHead`).
    """

    def __init__(self, structure: Structure, hidden: int | None, dropout: float) -> None:
        super().__init__()
        tokens, outputs = dict(structure.sizes).get("tokens"), structure.backbone.outputs
        inputs = hidden if tokens else structure.size("inputs")
        if inputs is None:
            raise StructureError(
                "`hidden` was left out, which means n_h = n_x, but tokens have no width: give `hidden`; it is also the width of "
                "their embeddings, because the head is tied to them (n_x = n_h)"
            )
        # n_h = n_x (Jie & Gao 2021, Table 2)
        # A state that is as wide as the input of the first layer, also in the layers above it.
        hidden = hidden or inputs
        self.layers = nn.ModuleList(
            # above the first layer, x_t is the state h_t of the layer below
            RecurrentCell(type, cell, outputs(cell), hidden if i else inputs, hidden)
            for i, (type, cell) in enumerate(structure.cells)
        )
        self.dropout = nn.Dropout(dropout)
        # A layer that inherits x returns it at first, with dropout on its output: dropout below it would be a second one.
        above = [cell for _, cell in structure.cells[1:]]
        self.dropped = [*(all("x" not in node.inherits for node in cell.nodes) for cell in above), True]
        self.head = TiedHead(hidden, tokens) if tokens else nn.Linear(hidden, structure.size("outputs"))

    def embed(self, inputs: Tensor) -> Tensor:
        """Return the inputs of the first layer: the embeddings of tokens, or the inputs as they are."""
        return self.head.embed(inputs) if isinstance(self.head, TiedHead) else inputs

    def forward(self, inputs: Tensor, mixing: MixingWeights) -> Tensor:
        """Return outputs of shape (time, batch, n_y) from inputs of shape (time, batch, n_x)."""
        return self.through(inputs, lambda layer, states: unroll(layer, states, mixing))

    def through(self, inputs: Tensor, compute: Callable[[RecurrentCell, Tensor], Tensor]) -> Tensor:
        """Return the outputs for inputs of shape (time, batch, n_x), where `compute` returns the states of a layer from its inputs."""
        states = self.embed(inputs)
        for layer, dropped in zip(self.layers, self.dropped, strict=True):
            assert isinstance(layer, RecurrentCell)
            states = compute(layer, states)
            if dropped:
                states = self.dropout(states)
        return self.head(states)


def unroll(cell: RecurrentCell, inputs: Tensor, mixing: MixingWeights) -> Tensor:
    """Return h_1, ..., h_T of shape (time, batch, n_h) from inputs of shape (time, batch, n_x), starting at h_0 = 0."""
    # The definition that the fast form has to meet. It is also what is captured by torch.export, so that it contains
    # nothing but operations on tensors.
    h, states = inputs.new_zeros(inputs.shape[1], cell.hidden), []
    for x in inputs.unbind():
        h = cell(mixing, x, h)
        states.append(h)
    return torch.stack(states)
