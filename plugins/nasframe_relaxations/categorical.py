"""What relaxations that draw candidates with the probabilities softmax(alpha) have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from nasframe import Draw, Mixing, Relaxation, Seed
from nasframe.interfaces.relaxation import Sites

Tensors = Mapping[str, Tensor]


class Categorical(Relaxation):
    """Base class of relaxations that draw the candidates of a site with the probabilities p = softmax(alpha).

    Validation computes all candidates, with the mixing weights p: the mean of what a one-hot sample multiplies them by.
    """

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return p in validation, and a sample in a training step."""
        if draw is None:
            return Mixing({address: alphas[address].softmax(0) for address in sites})
        return self.sampled(sites, alphas, draw)

    @abstractmethod
    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        """Return the mixing weights of a training step.

        Args:
            sites: the undecided sites.
            alphas: the alphas of each site.
            draw: how to sample.
        """

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the wanted p, shifted to the mean 0 that alphas have at the beginning."""
        return {address: p.log() - p.log().mean() for address, p in wanted.items()}


def gumbel(like: Tensor, seed: Seed) -> Tensor:
    """Return noise from the standard Gumbel distribution, -log(-log u) for a uniform u.

    If it is added to the alphas, the largest sum is at candidate i with the probability softmax(alpha)_i (the Gumbel-max trick).

    Args:
        like: a tensor with the shape, the dtype and the device of the noise.
        seed: the seed of u.
    """
    # drawn on the CPU and in float64, so that the sample does not depend on the dtype and the device
    u = torch.rand(like.shape, generator=seed.generator(), dtype=torch.float64)
    return -(-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log().to(like)


def straight_through(place: int, soft: Tensor) -> Tensor:
    """Return the one-hot vector with a 1 at a place, with the gradient of `soft`."""
    hard = torch.zeros_like(soft)
    hard[place] = 1.0
    # The difference is exactly zero. In another order the zeros of the one-hot vector would be rounded.
    return hard + (soft - soft.detach())
