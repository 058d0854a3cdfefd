"""Keep the strongest operations of each node (Jie & Gao 2021, 3.2.3; Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Pruner, Structure, all_but_strongest, number


@attrs.frozen
class Strongest(Pruner):
    """All but the `keep` operations of most weight go, at every node, and zero always (k = 1 for recurrent cells)."""

    name: ClassVar[str] = "strongest"
    keep: int = number(1, low=1, whole=True)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """The others' ids."""
        return all_but_strongest(structure, mixing, self.keep)
