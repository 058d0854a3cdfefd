"""Pruners, which decide what a supernet's architecture keeps."""

from __future__ import annotations

import nasframe
from nasframe_pruning.strongest import Strongest

__all__ = ["Strongest"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the pruners of this package."""
    return [Strongest]
