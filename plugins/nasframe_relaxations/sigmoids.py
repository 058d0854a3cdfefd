"""The relaxation of FairDARTS: independent sigmoids, and the loss that draws them to 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import AlphaLoss, Draw, Mixing, Relaxation
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites
from nasframe.options import number

Tensors = Mapping[str, Tensor]


@attrs.frozen
class IndependentSigmoids(Relaxation):
    """The sigmoid of each alpha, so that the candidates of a site do not compete (Chu et al. 2020, FairDARTS)."""

    name: ClassVar[str] = "independent_sigmoids"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return 1 / (1 + exp(-alpha_i)) for each candidate i of a site."""
        return Mixing({address: alphas[address].sigmoid() for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return log(w / (1 - w)) for mixing weights w between 0 and 1.

        Raises:
            ChangeError: if one of them is 1 or more.
        """
        for address, w in wanted.items():
            if float(w.max()) >= 1:
                raise ChangeError(f"a mixing weight of {address} would be {float(w.max()):.4g}, and a sigmoid is below 1")
        return {address: w.log() - (-w).log1p() for address, w in wanted.items()}


@attrs.frozen
class ZeroOne(AlphaLoss):
    """-w mean((m - 1/2)^2) over all mixing weights m, which draws sigmoids to 0 and 1 (Chu et al. 2020, FairDARTS).

    Args:
        weight: the factor w.
    """

    name: ClassVar[str] = "zero_one"
    weight: float = number(10.0, low=0.0)

    def loss(self, sites: Sites, alphas: Tensors, mixing: Mixing, progress: float | None) -> Tensor:
        """Return -w mean((m - 1/2)^2)."""
        return -self.weight * (torch.cat([mixing[address] for address in sites]) - 0.5).square().mean()
