"""Parts for nasframe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from stranger_cells.architect import Sparse
from stranger_cells.backbone import FeedForward
from stranger_cells.criterion import Uphill
from stranger_cells.morphism import Widen
from stranger_cells.operations import Bottleneck, GatedStep
from stranger_cells.pruner import NearStrongest

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Bottleneck", "FeedForward", "GatedStep", "NearStrongest", "Sparse", "Uphill", "Widen"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The parts."""
    return [GatedStep, Bottleneck, Widen, NearStrongest, Uphill, Sparse, FeedForward]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The version of the contract that they were written for."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """What `nasframe check` tries them on."""
    from stranger_cells.examples import examples

    return examples()
