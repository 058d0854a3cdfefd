"""Which candidates go."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Pruner, Structure, number


@attrs.frozen
class NearStrongest(Pruner):
    """At each site go the candidates with less than a share of the weight of the strongest that is not zero.

    That one always stays, so a node never loses all. What is left undecided is left to the backbone.
    """

    name: ClassVar[str] = "near_strongest"
    share: float = number(0.9, low=0.0, high=1.0)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """By undecided site, the weak ones."""
        gone = {}
        for address, site in structure.sites():
            if address in mixing:
                weighed = dict(zip(site.candidates, mixing[address].tolist(), strict=True))
                strongest = max((w for c, w in weighed.items() if not c.operation.zero), default=0.0)
                gone[address] = {c.id for c, w in weighed.items() if w < self.share * strongest}
        return gone
