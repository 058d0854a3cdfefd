"""The interface of pruners: which candidates go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import ClassVar

from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.structure.address import Address
from nasframe.structure.structure import Site, Structure


class Pruner(Part):
    """Names the candidates that go; the core removes them, as a change like any other."""

    kind: ClassVar[str] = "pruner"

    @abstractmethod
    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """By site address, the ids of the candidates to remove, never all of a node.

        Args:
            weights: for each undecided site its candidates' weights, of shape (candidates,).
        """


def all_but_strongest(
    structure: Structure, mixing: Mapping[str, Tensor], keep: int = 1, distinct: bool = False
) -> Mapping[Address, Set[int]]:
    """What goes if each node retains its `keep` strongest operations, from distinct edges as far as it has so many, or from
    distinct edges alone (Liu et al. 2019, 2.4; Jie & Gao 2021, 3.2.3).

    Zero is retained where there is nothing else alone. Among equals the earlier ones stay; a decided site weighs one.
    """
    gone: dict[Address, Set[int]] = {}
    for type, cell in structure.cells:
        for node in cell.nodes:
            sites = structure.sites_of(Address.of(type, node.id))
            kept = set(_strongest(sites, mixing, keep, distinct))
            gone |= {a: {c.id for c in s.candidates} - kept for a, s in sites.items()}
    return {address: ids for address, ids in gone.items() if ids}


def _strongest(sites: Mapping[Address, Site], mixing: Mapping[str, Tensor], keep: int, distinct: bool) -> Sequence[int]:
    """The ids of the strongest operations of a node: the best of each edge first, then the others."""
    ranked: list[tuple[tuple[bool, bool, float], int]] = []
    for address, site in sites.items():
        shares = mixing[address].tolist() if address in mixing else [1.0]
        order = sorted(zip(site.candidates, shares, strict=True), key=lambda cw: (cw[0].operation.zero, -cw[1]))
        ranked += [((c.operation.zero, place > 0, -w), c.id) for place, (c, w) in enumerate(order[: 1 if distinct else None])]
    alive = [item for item in ranked if not item[0][0]]
    return [id for _, id in sorted(alive or ranked, key=lambda item: item[0])[: keep if alive else 1]]
