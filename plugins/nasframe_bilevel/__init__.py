"""Architects for the bilevel problem of differentiable architecture search (Liu et al. 2019), and its toy problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_bilevel.first_order import FirstOrder, SingleLevel
from nasframe_bilevel.reproduction import ToyBilevel
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["ExactSecondOrder", "FirstOrder", "SecondOrder", "SingleLevel", "ToyBilevel"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The architects, and what they reproduce."""
    return [SingleLevel, FirstOrder, SecondOrder, ExactSecondOrder, ToyBilevel]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Options to draw from."""
    from nasframe_bilevel.examples import examples

    return examples()
