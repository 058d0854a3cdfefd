"""Methods against searches that collapse: how sites are decided, one at a time, and when the search stops."""

from __future__ import annotations

import nasframe
from nasframe_robustness.curvature import Curvature
from nasframe_robustness.perturbation import DartsPT, Perturbation
from nasframe_robustness.sequential import MostCertain, Sgas

__all__ = ["Curvature", "DartsPT", "MostCertain", "Perturbation", "Sgas"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the pruners, the criterion and the plans."""
    return [Perturbation, MostCertain, Curvature, DartsPT, Sgas]
