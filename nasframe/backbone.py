"""The interface of backbones: how nodes are wired."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import count
from typing import Any, ClassVar

import attrs
from torch import Tensor, nn

from nasframe.errors import StructureError
from nasframe.network import Outputs, readable
from nasframe.operation import Operation
from nasframe.part import Part
from nasframe.structure import Candidate, Cell, Node, Site, Structure


@attrs.frozen
class Grown:
    """A structure with one node more, and the weights at which the grown network computes what the old one did.

    `birth` maps each new site's address to the weight of each of its candidates by id; the weights of a site sum to one,
    and a candidate with a weight acts as the identity on the site's last input (`Operation.residual`) or is zero
    (`Operation.zero`). The new node then puts out the mean of the states in `inherits`. Both are empty where whatever takes
    the new node in starts at zero, as behind a concatenation; `birth` alone is empty where no candidate can be the identity.
    """

    structure: Structure
    node: str
    inherits: tuple[str, ...]
    birth: Mapping[str, Mapping[int, float]]


class Backbone(Part):
    """How the nodes of a cell are wired, what the cell puts out, and how cells make a network."""

    kind: ClassVar[str] = "backbone"

    #: the states that a cell is given, by the names under which its sites take them in
    inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """The structure of a supernet with that many nodes in each cell, for a task with these sizes."""

    @abstractmethod
    def body(self, structure: Structure) -> nn.Module:
        """The module of a structure, called with (inputs, shares). It holds a Mixture per site and instance."""

    def run(self, body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Outputs:
        """MAY: what `readable(body, inputs, weights)` gives, faster: the same values, gradients and second derivatives.

        It reads the body's parameters at each call, and keeps nothing from one to the next.
        """
        return readable(body, inputs, weights)

    def slow(self, structure: Structure) -> Sequence[str]:
        """MAY: for whom `run` is written: what of a structure it cannot make faster, and why, a sentence each."""
        return ()

    @abstractmethod
    def grown(self, structure: Structure, cell: str) -> Grown:
        """The structure with one node more in that cell type."""

    def taken(self, sizes: Mapping[str, int], *names: str) -> tuple[tuple[str, int], ...]:
        """Of a task's sizes those that the backbone needs; a task that does not give them is refused."""
        if missing := [name for name in names if name not in sizes]:
            raise StructureError(
                f"backbone {self.name!r} needs to know {', '.join(missing)} of its data, and the task tells {', '.join(sizes)}: "
                "take a backbone for data of this kind, or another task"
            )
        return tuple((name, sizes[name]) for name in names)

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """MAY: the states that a cell puts out; by default its last node."""
        return tuple(node.id for node in cell.nodes[-1:])

    @abstractmethod
    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """The candidates to remove for an architecture: by site address, ids; an edge of which all go is no edge."""


def one_more(
    structure: Structure, type: str, wiring: Callable[[str], Mapping[str, tuple[str, ...]]], operations: Sequence[Operation]
) -> Structure:
    """The structure with one node more in that cell type, each of its sites with all of these candidates.

    Args:
        wiring: from the id of the new node to the inputs of each of its sites, by the site's id.
    """
    old, ids = structure.cell(type), count(structure.next_id)
    node = f"n{old.next_node}"
    sites = tuple(
        Site(id, node, inputs, tuple(Candidate(next(ids), o) for o in operations)) for id, inputs in wiring(node).items()
    )
    new = Cell((*old.nodes, Node(node)), (*old.sites, *sites), old.next_node + 1)
    return structure.replace_cell(type, new, len(sites) * len(operations))


def births(sites: Sequence[Site], states: Sequence[str]) -> Mapping[str, Mapping[int, float]]:
    """The weights at which a node with these sites, an edge each, puts out the mean of these states: on their edges a share
    for the identity and the rest for zero, on all others zero; by the sites' ids. Empty where there is no such candidate.
    """
    born: dict[str, Mapping[int, float]] = {}
    for site in sites:
        share = 1 / len(states) if site.inputs[-1] in states else 0.0
        wanted = ((identity(site), share), (zero(site), 1 - share))
        if any(id is None and weight for id, weight in wanted):
            return {}
        weights = {id: weight for id, weight in wanted if weight}
        born[site.id] = {c.id: weights.get(c.id, 0.0) for c in site.candidates}
    return born


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
