"""The part that morphisms have in common which replace the operation of a candidate."""

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
    """A child in which a new candidate takes the place of an old one, in every instance of its site.

    Attributes:
        child: the child, built and not filled.
        alphas: entries for `Change.overrides`, by which the new candidate gets the alpha of the old one.
        modules: for each instance, the name of the old candidate's module in the parent and of the new one's in the child.
    """

    child: Network
    alphas: dict[str, Take]
    modules: tuple[tuple[str, str], ...]


def replace_candidate(parent: Network, address: Address, id: int, operation: Operation, seed: Seed) -> Replacement:
    """Replace a candidate by a new one, which has a new id and the same place among the candidates.

    Args:
        parent: the network before the change.
        address: the address of the site.
        id: the id of the candidate to replace.
        operation: the operation of the new candidate.
        seed: the seed from which the child is initialised.

    Raises:
        ChangeError: if there is no such candidate.
    """
    structure, site, old = parent.structure, site_at(parent.structure, address), candidate_at(parent.structure, address, id)
    new = Candidate(structure.next_id, operation)
    candidates = tuple(new if c is old else c for c in site.candidates)
    child = build(structure.replace_site(Address(address), attrs.evolve(site, candidates=candidates), 1), seed, like=parent)
    # by position and not by label: the new candidate has another id, and would be a new entry
    alphas = {} if site.decided else {f"alphas.{address}": Take(f"alphas.{address}")}
    names = (f"{name}.candidates" for name, _ in parent.mixed_operations(address))
    return Replacement(child, alphas, tuple((f"{name}.{old.id}", f"{name}.{new.id}") for name in names))
