"""Methods against searches that collapse: how sites are decided, one at a time, and when the search stops."""

from __future__ import annotations

import nasframe
from nasframe_robustness.annealing import AnnealedSoftmax, AnnealedThreshold, Asap
from nasframe_robustness.curvature import Curvature
from nasframe_robustness.elimination import Elimination, LeastNeeded
from nasframe_robustness.parameter_free import ParameterFree
from nasframe_robustness.perturbation import DartsPT, Perturbation
from nasframe_robustness.sequential import MostCertain, Sgas

__all__ = [
    "AnnealedSoftmax",
    "AnnealedThreshold",
    "Asap",
    "Curvature",
    "DartsPT",
    "Elimination",
    "LeastNeeded",
    "MostCertain",
    "ParameterFree",
    "Perturbation",
    "Sgas",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the pruners, the criteria, the relaxation and the plans."""
    pruners: list[type[nasframe.Part]] = [Perturbation, MostCertain, LeastNeeded, AnnealedThreshold]
    return [*pruners, Curvature, ParameterFree, AnnealedSoftmax, DartsPT, Sgas, Asap, Elimination]
