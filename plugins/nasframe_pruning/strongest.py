"""Keep the strongest operations of each site (Jie & Gao 2021, 3.2.3; Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Pruner, Structure, all_but_strongest, number


@attrs.frozen
class Strongest(Pruner):
    """All but the `keep` candidates of most weight go, at every site."""

    name: ClassVar[str] = "strongest"
    keep: int = number(1, low=1, whole=True)

    def remove(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """The others' ids."""
        gone = {a: all_but_strongest(s, weights[a], self.keep) for a, s in structure.sites() if not s.decided}
        return {address: ids for address, ids in gone.items() if ids}
