"""Pruners."""

import nasframe
from nasframe_pruning.strongest import Strongest

__all__ = ["Strongest"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The pruners."""
    return [Strongest]
