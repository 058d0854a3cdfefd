"""Architects for the bilevel problem of differentiable architecture search (Liu et al. 2019), and its toy problem."""

from __future__ import annotations

import nasframe
from nasframe_bilevel.alpha_losses import BetaDecay
from nasframe_bilevel.first_order import FirstOrder, SingleLevel
from nasframe_bilevel.relaxations import Softmax
from nasframe_bilevel.reproduction import ToyBilevel
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder
from nasframe_bilevel.smoothing import SmoothDarts

__all__ = ["BetaDecay", "ExactSecondOrder", "FirstOrder", "SecondOrder", "SingleLevel", "SmoothDarts", "Softmax", "ToyBilevel"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the architects, the relaxation, the loss of the alphas and the reproduction."""
    return [SingleLevel, FirstOrder, SecondOrder, ExactSecondOrder, SmoothDarts, Softmax, BetaDecay, ToyBilevel]
