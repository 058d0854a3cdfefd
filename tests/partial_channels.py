"""An image backbone as somebody outside of the project would derive it: partial channels, and dropout on identities."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from nasframe_convolutional import DartsConvolutional
from torch import Tensor
from torch.nn.functional import dropout, max_pool2d

from nasframe import Address, GrownStructure, Site, Structure, number
from nasframe.errors import ChangeError
from nasframe.network.mixing import MixedOperation, MixingWeights


class PartialMixedOperation(MixedOperation):
    """The candidates of an edge on the first 1/K of the channels; the others bypass them, and all are shuffled afterwards.

    Args:
        address, site, stride, **sizes: as for `MixedOperation`.
        channels: the number of channels of the edge.
        parts: K.
        rate: the probability at the beginning of a phase that dropout sets an entry of an identity's output to zero.
    """

    def __init__(
        self, address: Address, site: Site, *, channels: int, stride: int, parts: int, rate: float, **sizes: int
    ) -> None:
        super().__init__(address, site, channels=channels // parts, stride=stride, **sizes)
        self.parts, self.stride, self.rate, self.progress = parts, stride, rate, 1.0
        self.identities = {str(c.id) for c in site.candidates if c.operation.residual == () and stride == 1}

    def forward(self, mixing: MixingWeights, *inputs: Tensor) -> Tensor:
        """Return the shuffled concatenation of the mixture of the first channels and of the others."""
        (x,) = inputs
        first, others = x.tensor_split([x.shape[1] // self.parts], dim=1)
        if self.stride == 2:
            others = max_pool2d(others, 2, ceil_mode=True)
        if self.address in mixing:  # the weight of the edge, by edge normalisation, is the sum of its mixing weights
            others = others * sum(weight for weight in mixing[self.address] if weight is not None)
        whole = torch.cat([super().forward(mixing, first), others], 1)
        # (K, C / K) -> (C / K, K): the first channels of the next edge are then from all parts
        return whole.unflatten(1, (self.parts, -1)).transpose(1, 2).flatten(1, 2)

    def evaluate(self, id: str, *inputs: Tensor) -> Tensor:
        """Return the output of a candidate, with dropout if it is an identity; the rate falls to 0 during a phase."""
        output = super().evaluate(id, *inputs)
        return dropout(output, self.rate * (1 - self.progress), self.training) if id in self.identities else output


@attrs.frozen
class PartialChannels(DartsConvolutional):
    """The cells of DARTS, whose candidates receive 1/K of the channels (Xu et al. 2020), with dropout on identities (P-DARTS).

    Args:
        parts: K, which divides the number of channels.
        rate: the rate of the dropout on identities at the beginning of a phase.
    """

    name: ClassVar[str] = "partial_channels"
    parts: int = number(4, low=2, whole=True)
    rate: float = number(0.0, low=0.0, high=1.0)

    def __attrs_post_init__(self) -> None:
        if self.channels % self.parts:
            raise ValueError(f"parts is {self.parts}; it must divide the number of channels, {self.channels}")

    def mixed_operation(self, address: Address, site: Site, **sizes: int) -> MixedOperation:
        """Return the module of an edge."""
        return PartialMixedOperation(address, site, **sizes, parts=self.parts, rate=self.rate)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node, unless this node would have to begin as the mean of the others."""
        if self.output != "concatenation":
            raise ChangeError("an edge that shuffles its channels is no identity; take the output 'concatenation' to grow")
        return super().grown(structure, cell)
