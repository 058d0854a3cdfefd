"""What the recurrent backbones share: layers of cells, each of a type of its own, and how an architecture is derived."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set
from itertools import count
from typing import Any

import attrs
from torch import Tensor, nn

from nasframe import Backbone, Candidate, Cell, Grown, Node, Operation, Site, Structure, all_but_strongest, number
from nasframe_recurrent.cell import RecurrentCell, Stack
from nasframe_recurrent.fused import sequence
from nasframe_recurrent.plan import planned


@attrs.frozen
class Recurrent(Backbone):
    """Inputs have shape (time, batch, n_x), outputs (time, batch, n_y): a linear map of h_t at every step; h_0 is zero.

    Args:
        hidden: n_h; n_x where it is left out (Jie & Gao 2021, Table 2).
        layers: stacked cells, each a cell type of its own ("layer0", "layer1", ...) with its own logits.
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

    def run(self, body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The stack, each layer in its fast form where it has one (`slow` says where not, and why)."""
        assert isinstance(body, Stack)
        for layer in body.layers:
            assert isinstance(layer, RecurrentCell)
            inputs = body.dropout(sequence(layer, inputs, weights))
        return body.head(inputs)

    def slow(self, structure: Structure) -> Sequence[str]:
        """Each layer that has no fast form."""
        plans = {type: planned(cell, self.outputs(cell)) for type, cell in structure.cells}
        return [f"{type} runs in its readable form: {reason}" for type, reason in plans.items() if isinstance(reason, str)]

    def grown(self, structure: Structure, cell: str) -> Grown:
        """One node more, wired as the backbone wires it."""
        old, ids = structure.cell(cell), count(structure.next_id)
        node = f"n{old.next_node}"
        sites = tuple(
            Site(id, node, inputs, tuple(Candidate(next(ids), o) for o in self.operations))
            for id, inputs in self.wiring(old, node).items()
        )
        new = Cell((*old.nodes, Node(node)), (*old.sites, *sites), old.next_node + 1)
        births = self.birth(old, sites) if old.nodes else {}
        return Grown(
            structure.replace_cell(cell, new, len(sites) * len(self.operations)),
            node,
            self.outputs(old) if old.nodes else (),
            {f"{cell}/{id}": birth for id, birth in births.items()},
        )

    @abstractmethod
    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """The inputs of each site that a new node gets, by the site's id."""

    @abstractmethod
    def birth(self, cell: Cell, sites: Sequence[Site]) -> Mapping[str, Mapping[int, float]]:
        """The weights at which a new node with these sites puts out the mean of what the cell puts out; none if it cannot."""

    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """All but the strongest operation of each node, and its edge with it; zero is not one (Liu et al. 2019, 2.4)."""
        return all_but_strongest(structure, weights)


def at(site: Site, weights: Mapping[int, float]) -> Mapping[int, float]:
    """These weights, and zero for the other candidates of the site."""
    return {c.id: weights.get(c.id, 0.0) for c in site.candidates}


def identity(site: Site) -> int | None:
    """The first candidate that can act as the identity."""
    return next((c.id for c in site.candidates if c.operation.residual is not None), None)


def zero(site: Site) -> int | None:
    """The first candidate that is zero."""
    return next((c.id for c in site.candidates if c.operation.zero), None)


def operations_of(arity: int) -> Any:
    """The validator of a field of candidates: operations of so many inputs, not all of them zero."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        names = [getattr(o, "name", o) for o in value]
        if not all(isinstance(o, Operation) and o.arity == arity for o in value) or all(o.zero for o in value):
            inputs = {1: "one input", 2: "two inputs"}[arity]
            raise ValueError(
                f"{attribute.name} is {names!r}; it must be one or more operations of {inputs}, not all of them zero"
            )

    return check
