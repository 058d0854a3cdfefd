"""Architects for the bilevel problem of differentiable architecture search (Liu et al. 2019), and its toy problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_bilevel.first_order import FirstOrder, SingleLevel
from nasframe_bilevel.reproduction import ToyBilevel
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder

if TYPE_CHECKING:  # the conformance kit needs hypothesis, which users need not have installed
    from nasframe.testing.examples import Examples

__all__ = ["ExactSecondOrder", "FirstOrder", "SecondOrder", "SingleLevel", "ToyBilevel"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the architects and the reproduction."""
    return [SingleLevel, FirstOrder, SecondOrder, ExactSecondOrder, ToyBilevel]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """Return the version of nasframe's interfaces that this plugin is written for."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Return the options that the conformance kit draws from."""
    from nasframe_bilevel.examples import examples

    return examples()
