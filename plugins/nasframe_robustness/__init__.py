"""Methods against searches that collapse: selection by perturbation, and early stopping by the curvature of the validation loss."""

from __future__ import annotations

import nasframe
from nasframe_robustness.curvature import Curvature
from nasframe_robustness.perturbation import DartsPT, Perturbation

__all__ = ["Curvature", "DartsPT", "Perturbation"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the pruner, the criterion and the plan."""
    return [Perturbation, Curvature, DartsPT]
