"""What all morphisms need that replace the operation of a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from nasframe.change.map import FRESH, Take
from nasframe.errors import ChangeError
from nasframe.interfaces.operation import Operation
from nasframe.network.network import Network
from nasframe.structure.address import Address
from nasframe.structure.editing import candidate_at, site_at
from nasframe.structure.structure import Candidate, Structure


@attrs.frozen
class Replacement:
    """A structure in which a new candidate takes the place of an old one.

    Attributes:
        structure: the structure.
        address: the address of the site.
        old: the id of the old candidate.
        new: the id of the new one.
    """

    structure: Structure
    address: Address
    old: int
    new: int

    def alphas(self, parent: Network, child: Network) -> dict[str, Take]:
        """Return entries for `Filling.overrides`, by which the new candidate gets the alpha of the old one.

        Args:
            parent: the network before the change.
            child: the network after it.
        """
        name = f"alphas.{self.address}"
        if self.address not in parent.alphas or self.address not in child.alphas:
            return {}
        before, after = ([c.id for c in site_at(network.structure, self.address).candidates] for network in (parent, child))
        # the new candidate has another id, and would be a new entry by its label
        sources = [self.old if id == self.new else id for id in after]
        positions = [before.index(id) if id in before else FRESH for id in sources]
        return {name: Take(name, (torch.tensor(positions, device=child.alphas[self.address].device),))}

    def modules(self, parent: Network, child: Network) -> Sequence[tuple[str, str]]:
        """Return the names of the old module in the parent and of the new one in the child, for each instance of the site.

        Args:
            parent: the network before the change.
            child: the network after it.

        Raises:
            ChangeError: if one of them does not have its candidate, because another edit of the same change adds or replaces it.
        """
        for network, id in ((parent, self.old), (child, self.new)):
            if id not in [c.id for address, s in network.structure.sites() if address == self.address for c in s.candidates]:
                raise ChangeError(
                    f"candidate {id} of {self.address} is added and replaced in the same change, so it has no weights that its "
                    "replacement could get; make two changes, one after the other"
                )
        # Parent and child have the same instances with the same names, as the replacement leaves the wiring as it is.
        names = (f"{name}.candidates" for name, _ in parent.mixed_operations(self.address))
        return [(f"{name}.{self.old}", f"{name}.{self.new}") for name in names]


def replace_candidate(structure: Structure, address: Address, id: int, operation: Operation) -> Replacement:
    """Replace a candidate by a new one, which has a new id and the same place among the candidates.

    Args:
        structure: the structure before the edit.
        address: the address of the site.
        id: the id of the candidate to replace.
        operation: the operation of the new candidate.

    Raises:
        ChangeError: if there is no such candidate.

    Example:
        >>> from nasframe.testing.fakes import Chain, Dense
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> made = replace_candidate(structure, Address("chain/n0"), 0, Dense())
        >>> [candidate.id for candidate in made.structure.cell("chain").site("n0").candidates]
        [2, 1]
    """
    site, old = site_at(structure, address), candidate_at(structure, address, id)
    # A new id although the place is the old one: with the same id, the map would copy tensors of the old operation whose
    # names and shapes happen to agree.
    new = Candidate(structure.next_id, operation)
    edited = attrs.evolve(site, candidates=tuple(new if c is old else c for c in site.candidates))
    return Replacement(structure.replace_site(Address(address), edited, 1), Address(address), old.id, new.id)
