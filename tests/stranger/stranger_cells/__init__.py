"""Parts for nasframe: operations, a backbone, and what searches with them."""

from __future__ import annotations

import nasframe
from stranger_cells.architect import Sparse, Sparsemax
from stranger_cells.backbone import FeedForward
from stranger_cells.criterion import Uphill
from stranger_cells.morphism import Widen
from stranger_cells.operations import Bottleneck, GatedStep
from stranger_cells.pruner import NearStrongest

__all__ = ["Bottleneck", "FeedForward", "GatedStep", "NearStrongest", "Sparse", "Sparsemax", "Uphill", "Widen"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the parts of this plugin."""
    return [GatedStep, Bottleneck, Widen, NearStrongest, Uphill, Sparsemax, Sparse, FeedForward]
