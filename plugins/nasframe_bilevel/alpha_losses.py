"""Losses of the alphas, which architects add to the loss that they descend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import AlphaLoss, Mixing
from nasframe.interfaces.relaxation import Sites
from nasframe.options import number


@attrs.frozen
class BetaDecay(AlphaLoss):
    """The mean over sites of log sum_k exp(alpha_k), times a factor that grows linearly from 0 (Ye et al. 2022, beta-DARTS).

    Its gradient by an alpha is the mixing weight of the softmax, so that the largest alphas decay most.

    Args:
        final: the factor at the end of a phase.
    """

    name: ClassVar[str] = "beta_decay"
    needs_progress: ClassVar[bool] = True
    final: float = number(50.0, low=0.0)

    def loss(self, sites: Sites, alphas: Mapping[str, Tensor], mixing: Mixing, progress: float | None) -> Tensor:
        """Return the loss at the progress of the phase."""
        assert progress is not None  # a search without it is refused
        return self.final * progress * torch.stack([alphas[address].logsumexp(0) for address in sites]).mean()
