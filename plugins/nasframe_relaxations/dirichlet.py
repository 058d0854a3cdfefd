"""The relaxation of DrNAS: mixing weights from a Dirichlet distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Draw, Mixing, Relaxation
from nasframe.interfaces.relaxation import Sites

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Dirichlet(Relaxation):
    """A sample theta from the Dirichlet distribution with the concentrations beta = ELU(alpha) + 1 (Chen et al. 2021, DrNAS).

    All candidates are computed. The gradient passes through the sample by implicit reparametrisation: with the distribution function
    F_j of theta_j, d theta_j / d beta_j = -(dF_j / d beta_j) / F_j', and the other components share the change in proportion.
    Validation computes the mean of theta, beta / sum(beta).

    The paper adds a distance of beta from 1 to the loss, with the factor 0.001. Its code uses a weight decay of 0.001 of the alphas for
    it: give the optimiser of the architect `weight_decay=0.001`.
    """

    name: ClassVar[str] = "dirichlet"

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return the mean of theta in validation, and a sample in a training step."""
        found = dict[str, Tensor]()
        for address in sites:
            log_beta = _log_concentration(alphas[address])
            # The sampler may not end if an alpha is NaN. The mean is NaN as well, so that the search reports a loss that is not finite.
            if draw is None or not bool(log_beta.isfinite().all()):
                found[address] = log_beta.softmax(0)
                continue
            # On the CPU and in float64, as all samples. A concentration that is rounded to zero is not allowed.
            beta = log_beta.to("cpu", torch.float64).exp().clamp(min=torch.finfo(torch.float64).tiny)
            # rsample() accepts no generator
            with draw.seed(address).as_global():
                found[address] = torch.distributions.Dirichlet(beta).rsample().to(log_beta)
        return Mixing(found)

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return alphas whose beta / sum(beta) is wanted.

        The mean leaves the sum of the concentrations free. It is the number of candidates, as at the beginning of a search.
        """
        found = {}
        for address, mean in wanted.items():
            beta = len(mean) * mean
            found[address] = torch.where(beta < 1, beta.log(), beta - 1)
        return found


def _log_concentration(alpha: Tensor) -> Tensor:
    """Return log(ELU(alpha) + 1), which is alpha itself below 0; ELU(alpha) + 1 would be rounded to 0 there."""
    # log1p of numbers below -1 would be NaN, and so would its gradient, although `where` does not select it
    return torch.where(alpha < 0, alpha, torch.where(alpha < 0, 0.0, alpha).log1p())
