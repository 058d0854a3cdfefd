"""Edits of structures: nodes and candidates are added and removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from itertools import count
from typing import Any

import attrs

from nasframe.errors import ChangeError
from nasframe.interfaces.operation import Operation
from nasframe.structure.structure import Candidate, Cell, Node, Site, Structure


@attrs.frozen
class GrownStructure:
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


def add_node(
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


def initial_mixing(sites: Sequence[Site], states: Sequence[str]) -> Mapping[str, Mapping[int, float]]:
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


def operations_validator(arity: int) -> Any:
    """The validator of a field of candidates: operations of so many inputs, not all of them zero."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        names = [getattr(o, "name", o) for o in value]
        if not all(isinstance(o, Operation) and o.arity == arity for o in value) or all(o.zero for o in value):
            inputs = {1: "one input", 2: "two inputs"}[arity]
            raise ValueError(
                f"{attribute.name} is {names!r}; it must be one or more operations of {inputs}, not all of them zero"
            )

    return check


def candidate_at(structure: Structure, address: Any, id: Any) -> Candidate:
    """The candidate that a request names; a ChangeError if there is none."""
    candidates = site_at(structure, address).candidates
    for candidate in candidates:
        if candidate.id == id:
            return candidate
    raise ChangeError(f"{address} has no candidate {id!r}; it has {[c.id for c in candidates]}")


def site_at(structure: Structure, address: Any) -> Site:
    """The site that a request names; a ChangeError if there is none."""
    for own, site in structure.sites():
        if own == address:
            return site
    raise ChangeError(f"there is no site {address!r}; there are {', '.join(own for own, _ in structure.sites())}")


def remove_from(structure: Structure, gone: Mapping[str, AbstractSet[int]]) -> Structure:
    """The structure that a removal makes."""
    for address, ids in gone.items():
        site = site_at(structure, address)
        present = {c.id for c in site.candidates}
        if not ids <= present:
            raise ChangeError(f"{address} has no candidates {sorted(ids - present)}; it has {sorted(present)}")
        type = address.split("/", 1)[0]
        kept = tuple(c for c in site.candidates if c.id not in ids)
        cell = structure.cell(type).replace_site(attrs.evolve(site, candidates=kept))
        structure = structure.replace_cell(type, cell)
    for type, cell in structure.cells:
        left = attrs.evolve(cell, sites=tuple(s for s in cell.sites if s.candidates))
        bare = [n.id for n in left.nodes if not any(s.node == n.id for s in left.sites)]
        if bare:
            raise ChangeError(f"all candidates of node {type}/{bare[0]} would go; a node keeps one at least")
        structure = structure.replace_cell(type, left.alive(structure.backbone.outputs(left)))
    return structure
