"""The pruning of DARTS: keep the strongest operations of each node (Liu et al. 2019, 2.4; Jie & Gao 2021, 3.2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Address, Pruner, Structure
from nasframe.interfaces.pruner import all_but_strongest
from nasframe.options import number


@attrs.frozen
class Strongest(Pruner):
    """Keep the `keep` operations of largest mixing weight at each node, over all of its edges.

    The operation `zero` is never among them, unless a node has nothing else.

    Args:
        keep: k, the number of operations of a node; the papers have k = 1 for recurrent and k = 2 for convolutional cells.
    """

    name: ClassVar[str] = "strongest"
    keep: int = number(1, low=1, whole=True)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the ids of all other candidates, by the address of their site.

        Args:
            structure: the structure to prune.
            mixing: the mixing weights of each undecided site.
        """
        return all_but_strongest(structure, mixing, self.keep)
