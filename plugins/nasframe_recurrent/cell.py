"""What the recurrent backbones share: a cell, whose structure says how its nodes are wired, and layers of cells over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from nasframe import Address, Cell, Gate, MixedOperation, Operation, Structure
from nasframe.errors import StructureError
from nasframe.network.mixing import MixingWeights
from nasframe_recurrent.plan import planned


class RecurrentCell(nn.Module):
    """One step of a layer. A node is the sum of its sites' mixtures; h_t is the mean of the states that the cell puts out.

    The states are "x": x_t (batch, n_x), "h": h_{t-1} (batch, n_h), "xh": both side by side, and the nodes (batch, n_h).
    """

    def __init__(self, type: str, cell: Cell, outputs: Sequence[str], inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.outputs, self.hidden = cell, outputs, hidden
        self.widths = {"x": inputs, "h": hidden, "xh": inputs + hidden, **{node.id: hidden for node in cell.nodes}}
        self.sites = nn.ModuleDict(
            {
                s.id: MixedOperation(Address.of(type, s.id), s, inputs=self.widths[s.inputs[0]], hidden=hidden)
                for s in cell.sites
            }
        )
        for site in cell.sites:
            for candidate in site.candidates:
                module = self.sites[site.id].get_submodule(f"candidates.{candidate.id}")
                check(candidate.operation, module, [self.widths[i] for i in site.inputs], hidden)
        self.gates = nn.ModuleDict({n.id: Gate(Address.of(type, n.id)) for n in cell.nodes if n.inherits})
        self.nodes = [(node, [s for s in cell.sites if s.node == node.id]) for node in cell.nodes]
        self.plan = planned(cell, outputs)
        self.joined = any("xh" in s.inputs for s in cell.sites)

    def forward(self, shares: MixingWeights, x: Tensor, h: Tensor) -> Tensor:
        """h_t from x_t: (batch, n_x) and h_{t-1}: (batch, n_h)."""
        states = {"x": x, "h": h} | ({"xh": torch.cat([x, h], 1)} if self.joined else {})
        for node, sites in self.nodes:
            own = total([self.sites[s.id](shares, *(states[i] for i in s.inputs)) for s in sites])
            states[node.id] = self.gates[node.id](mean([states[i] for i in node.inherits]), own) if node.inherits else own
        return mean([states[i] for i in self.outputs])


def check(operation: Operation, module: nn.Module, widths: Sequence[int], hidden: int) -> None:
    """Refuse a pointwise form that does not fit the module: an entry of it that is not there, or not of its shape."""
    told, form = operation.pointwise(), f"operation {operation.name!r}: the pointwise form's"
    if told is None:
        return
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for number, term in enumerate(told.terms, 1):
        if not isinstance(term.weights, tuple) or len(term.weights) != len(widths):
            raise StructureError(
                f"{form} term {number} has the weights {term.weights!r}; it must be a tuple with one for each of "
                f"{len(widths)} inputs"
            )
        wanted = [*zip(term.weights, ((hidden, width) for width in widths), strict=True), (term.bias, (hidden,))]
        for name, shape in wanted:
            if name is not None and shapes.get(name) != shape:
                found = f"which has the shape {shapes[name]}" if name in shapes else "which its module does not have"
                raise StructureError(f"{form} term {number} names {name!r}, {found}; it must be a parameter of shape {shape}")
    like = torch.zeros(1)
    arguments = [like] * (len(told.terms) + 1)

    def called(name: str, function: Callable[..., Any]) -> Any:
        try:
            return function(*arguments)
        except TypeError as error:
            raise StructureError(f"{form} {name} must take its {len(told.terms)} terms and h: {error}") from error

    def fits(value: object) -> bool:
        return isinstance(value, Tensor) and value.shape == like.shape

    result = called("function", told.function)
    if not fits(result):
        raise StructureError(f"{form} function gives {result!r}; it must give a tensor of the shape of its arguments")
    slopes = called("derivatives", told.slopes)
    order = f"what the function gives, its slope by each of its {len(told.terms)} terms, and its slope by h"
    if not isinstance(slopes, tuple) or len(slopes) != len(arguments) + 1:
        given = f"a tuple of {len(slopes)}" if isinstance(slopes, tuple) else repr(slopes)
        raise StructureError(f"{form} derivatives give {given}; they must give a tuple of {len(arguments) + 1}: {order}")
    for place, slope in enumerate(slopes, 1):
        if not fits(slope) and (place == 1 or not isinstance(slope, int | float)):
            raise StructureError(
                f"{form} derivatives give {slope!r} in place {place}; in this order they must give {order}: each a tensor of the "
                "shape of their arguments, and a slope that is the same everywhere may be a number"
            )


class Tied(nn.Linear):
    """A linear map from a state to a score for each token, whose rows are the embeddings of the tokens."""

    def embed(self, tokens: Tensor) -> Tensor:
        """From (time, batch), whole numbers, to (time, batch, width)."""
        return embedding(tokens, self.weight)


class Stack(nn.Module):
    """Layers of cells over time, and a linear head; where the task has tokens, the head embeds them, too."""

    def __init__(self, structure: Structure, hidden: int | None, dropout: float) -> None:
        super().__init__()
        tokens, outputs = dict(structure.sizes).get("tokens"), structure.backbone.outputs
        inputs = hidden if tokens else structure.size("inputs")
        if inputs is None:
            raise StructureError(
                "hidden was left out, which makes n_h = n_x, but tokens have no width: give hidden; it is the width of their "
                "embeddings, too, since the head is tied to these (n_x = n_h)"
            )
        hidden = hidden or inputs
        self.layers = nn.ModuleList(
            RecurrentCell(type, cell, outputs(cell), hidden if i else inputs, hidden)
            for i, (type, cell) in enumerate(structure.cells)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = Tied(hidden, tokens) if tokens else nn.Linear(hidden, structure.size("outputs"))

    def entered(self, inputs: Tensor) -> Tensor:
        """What the first layer takes in: the inputs, of tokens their embeddings."""
        return self.head.embed(inputs) if isinstance(self.head, Tied) else inputs

    def forward(self, inputs: Tensor, shares: MixingWeights) -> Tensor:
        """From (time, batch, n_x) to (time, batch, n_y)."""
        inputs = self.entered(inputs)
        for layer in self.layers:
            assert isinstance(layer, RecurrentCell)
            inputs = self.dropout(unrolled(layer, inputs, shares))
        return self.head(inputs)


def unrolled(cell: RecurrentCell, inputs: Tensor, shares: MixingWeights) -> Tensor:
    """h_t at every step from h_0 = 0, one step after the other: from (time, batch, n_x) to (time, batch, n_h)."""
    h, states = inputs.new_zeros(inputs.shape[1], cell.hidden), []
    for x in inputs.unbind():
        h = cell(shares, x, h)
        states.append(h)
    return torch.stack(states)


def total(states: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    first, *rest = states
    for state in rest:
        first = first + state
    return first


def mean(states: Sequence[Tensor]) -> Tensor:
    """Their mean; the state itself where there is one."""
    return states[0] if len(states) == 1 else total(states) / len(states)
