"""Another operation in a candidate's place: what morphisms that make one operation of another have in common."""

from __future__ import annotations

from typing import Any

import attrs

from nasframe.change.map import Take
from nasframe.errors import ChangeError
from nasframe.network import Network, build
from nasframe.operation import Operation
from nasframe.seeds import Seed
from nasframe.structure import Candidate, Site, Structure


@attrs.frozen(eq=False)
class Replacement:
    """A network with another operation in a candidate's place, in every instance of its site.

    Args:
        child: built, and not yet filled.
        logits: for the change's overrides: the newcomer has the logit that the candidate had.
        modules: for each instance, the names of the candidate's module in the parent and of the newcomer's in the child.
    """

    child: Network
    logits: dict[str, Take]
    modules: tuple[tuple[str, str], ...]


def replacement(parent: Network, address: str, id: int, operation: Operation, seed: Seed) -> Replacement:
    """A newcomer, with an id of its own, where a candidate stood; a ChangeError if there is no such candidate."""
    structure, site, old = parent.structure, site_at(parent.structure, address), candidate_at(parent.structure, address, id)
    new = Candidate(structure.next_id, operation)
    candidates = tuple(new if c is old else c for c in site.candidates)
    type = address.split("/", 1)[0]
    cell = structure.cell(type).replace_site(attrs.evolve(site, candidates=candidates))
    child = build(structure.replace_cell(type, cell, 1), seed, like=parent)
    logits = {} if site.decided else {f"logits.{address}": Take(f"logits.{address}")}
    names = (f"{name}.candidates" for name, _ in parent.mixtures(address))
    return Replacement(child, logits, tuple((f"{name}.{old.id}", f"{name}.{new.id}") for name in names))


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
