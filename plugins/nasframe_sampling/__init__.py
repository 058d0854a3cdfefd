"""Architects that sample architectures and compare their outcomes: random search, successive halving and evolution."""

from __future__ import annotations

import nasframe
from nasframe_sampling.evolution import RegularisedEvolution
from nasframe_sampling.halving import SuccessiveHalving
from nasframe_sampling.plans import Finals, Trials
from nasframe_sampling.random_search import RandomSearch

__all__ = ["RandomSearch", "RegularisedEvolution", "SuccessiveHalving"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the architects and the plans."""
    return [RandomSearch, RegularisedEvolution, SuccessiveHalving, Finals, Trials]
