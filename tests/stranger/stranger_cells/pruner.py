"""A pruner that removes weak candidates."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Pruner, Structure
from nasframe.options import number


@attrs.frozen
class NearStrongest(Pruner):
    """Remove the candidates of a site whose mixing weight is below a share of the largest one.

    The largest is that of the strongest candidate that is not zero. It is never removed, so a node keeps a candidate. What
    is left undecided is decided by the backbone.

    Args:
        share: the share of the largest mixing weight, from 0 to 1.
    """

    name: ClassVar[str] = "near_strongest"
    share: float = number(0.9, low=0.0, high=1.0)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """Return the ids of the weak candidates, by the address of each undecided site."""
        gone = {}
        for address, site in structure.sites():
            if address in mixing:
                weighed = dict(zip(site.candidates, mixing[address].tolist(), strict=True))
                strongest = max((w for c, w in weighed.items() if not c.operation.zero), default=0.0)
                gone[address] = {c.id for c, w in weighed.items() if w < self.share * strongest}
        return gone
