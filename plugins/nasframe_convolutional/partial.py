"""The convolutional backbone of DARTS with partial channels (PC-DARTS, Xu et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

import attrs

from nasframe import Address, Site, Structure
from nasframe.errors import ChangeError
from nasframe.network.mixing import MixedOperation
from nasframe.options import number
from nasframe.structure.editing import GrownStructure
from nasframe_convolutional.backbone import DartsConvolutional
from nasframe_convolutional.edges import PartialMixedOperation


@attrs.frozen
class PartialChannels(DartsConvolutional):
    """The cells of DARTS for a search with less memory: the candidates of an edge receive 1/K of its channels (Xu et al. 2020, 3.2).

    The other channels bypass them, multiplied by the sum of the edge's mixing weights, which is its weight by `edge_normalisation`. The
    cells that are found belong to `darts_convolutional`: their candidates have all channels there.

    Args:
        parts: K, which divides the number of channels.
    """

    name: ClassVar[str] = "partial_channels"
    parts: int = number(4, low=2, whole=True)

    def __attrs_post_init__(self) -> None:
        if self.channels % self.parts:
            raise ValueError(f"parts is {self.parts}; it must divide the number of channels, {self.channels}")

    def mixed_operation(self, address: Address, site: Site, **sizes: int) -> MixedOperation:
        """Return the module of an edge."""
        return PartialMixedOperation(address, site, **sizes, parts=self.parts, rate=self.identity_dropout)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node, unless this node would have to begin as the mean of the others."""
        if self.output != "concatenation":
            raise ChangeError("an edge that shuffles its channels is no identity; take the output 'concatenation' to grow")
        return super().grown(structure, cell)
