"""The modules of edges that evaluate their candidates otherwise: with dropout on identities, or on a part of the channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout, max_pool2d

from nasframe import Address, Site
from nasframe.network.mixing import MixedOperation, MixingWeights


class DroppedIdentities(MixedOperation):
    """The candidates of an edge, with dropout on the outputs of identities (P-DARTS, Chen et al. 2019).

    Args:
        address, site, stride, **sizes: as for `MixedOperation`.
        rate: the probability at the beginning of a phase that an entry of an identity's output is set to zero; it falls linearly to 0.
    """

    def __init__(self, address: Address, site: Site, *, stride: int, rate: float, **sizes: int) -> None:
        super().__init__(address, site, stride=stride, **sizes)
        self.rate, self.progress = rate, 1.0
        self.identities = {str(c.id) for c in site.candidates if c.operation.residual == () and stride == 1}

    def evaluate(self, id: str, *inputs: Tensor) -> Tensor:
        """Return the output of a candidate."""
        output = super().evaluate(id, *inputs)
        return dropout(output, self.rate * (1 - self.progress), self.training) if id in self.identities else output


class PartialMixedOperation(DroppedIdentities):
    """The candidates of an edge on the first 1/K of its channels; the others bypass them, and all are shuffled (Xu et al. 2020, 3.2).

    Args:
        address, site, stride, rate, **sizes: as for `DroppedIdentities`.
        channels: the number of channels of the edge.
        parts: K.
    """

    def __init__(
        self, address: Address, site: Site, *, channels: int, stride: int, parts: int, rate: float, **sizes: int
    ) -> None:
        super().__init__(address, site, channels=channels // parts, stride=stride, rate=rate, **sizes)
        self.parts, self.stride = parts, stride

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
