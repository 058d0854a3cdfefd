"""Relaxations, which turn alphas into mixing weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Draw, Mixing, Relaxation
from nasframe.interfaces.relaxation import Sites

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Softmax(Relaxation):
    """The softmax of each site's alphas (Liu et al. 2019, Eq. 2)."""

    name: ClassVar[str] = "softmax"

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return exp(alpha_i) / sum_j exp(alpha_j) for each candidate i of a site."""
        return Mixing({address: alphas[address].softmax(0) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the mixing weights (Jie & Gao 2021, Eq. 16).

        The softmax leaves a constant free for each site; the alphas returned here have mean 0.
        """
        # A mean of 0, as alphas have at the beginning: weight decay then draws a new site no more than the old ones.
        return {address: w.log() - w.log().mean() for address, w in wanted.items()}
