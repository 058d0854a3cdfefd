"""Another operation in a candidate's place: what morphisms that make one operation of another have in common."""

from __future__ import annotations

import attrs

from nasframe.change.map import Take
from nasframe.interfaces.operation import Operation
from nasframe.network.network import Network, build
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import candidate_at, site_at
from nasframe.structure.structure import Candidate


@attrs.frozen(eq=False)
class Replacement:
    """A network with another operation in a candidate's place, in every instance of its site.

    Args:
        child: built, and not yet filled.
        alphas: for the change's overrides: the newcomer has the alpha that the candidate had.
        modules: for each instance, the names of the candidate's module in the parent and of the newcomer's in the child.
    """

    child: Network
    alphas: dict[str, Take]
    modules: tuple[tuple[str, str], ...]


def replace_candidate(parent: Network, address: Address, id: int, operation: Operation, seed: Seed) -> Replacement:
    """A newcomer, with an id of its own, where a candidate stood; a ChangeError if there is no such candidate."""
    structure, site, old = parent.structure, site_at(parent.structure, address), candidate_at(parent.structure, address, id)
    new = Candidate(structure.next_id, operation)
    candidates = tuple(new if c is old else c for c in site.candidates)
    child = build(structure.replace_site(Address(address), attrs.evolve(site, candidates=candidates), 1), seed, like=parent)
    alphas = {} if site.decided else {f"alphas.{address}": Take(f"alphas.{address}")}
    names = (f"{name}.candidates" for name, _ in parent.mixed_operations(address))
    return Replacement(child, alphas, tuple((f"{name}.{old.id}", f"{name}.{new.id}") for name in names))
