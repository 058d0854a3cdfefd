"""Architects for the bilevel problem of differentiable architecture search (Liu et al. 2019)."""

import nasframe
from nasframe_bilevel.first_order import FirstOrder

__all__ = ["FirstOrder"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The architects."""
    return [FirstOrder]
