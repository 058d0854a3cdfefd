"""Relaxations beside the softmax of DARTS, each from one paper, and a loss of the alphas for one of them."""

from __future__ import annotations

import nasframe
from nasframe_relaxations.binary_gates import BinaryGates
from nasframe_relaxations.dirichlet import Dirichlet
from nasframe_relaxations.edges import EdgeNormalisation, NodeSoftmax
from nasframe_relaxations.gumbel import Concrete, HardGumbel
from nasframe_relaxations.sigmoids import IndependentSigmoids, ZeroOne

__all__ = [
    "BinaryGates",
    "Concrete",
    "Dirichlet",
    "EdgeNormalisation",
    "HardGumbel",
    "IndependentSigmoids",
    "NodeSoftmax",
    "ZeroOne",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the relaxations and the loss of the alphas."""
    return [HardGumbel, Concrete, Dirichlet, IndependentSigmoids, BinaryGates, NodeSoftmax, EdgeNormalisation, ZeroOne]
