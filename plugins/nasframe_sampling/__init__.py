"""Architects that sample architectures and compare their outcomes: random search, successive halving and evolution."""

from __future__ import annotations

import nasframe
from nasframe_sampling.evolution import RegularisedEvolution
from nasframe_sampling.halving import SuccessiveHalving
from nasframe_sampling.inherited import Inherited
from nasframe_sampling.plans import Finals, SinglePath, Trials
from nasframe_sampling.random_search import RandomSearch

__all__ = ["Finals", "Inherited", "RandomSearch", "RegularisedEvolution", "SinglePath", "SuccessiveHalving", "Trials"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the architects, the evaluator and the plans."""
    return [RandomSearch, RegularisedEvolution, SuccessiveHalving, Inherited, Finals, SinglePath, Trials]
