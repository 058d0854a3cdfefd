"""Pruners."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_pruning.strongest import Strongest

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Strongest"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The pruners."""
    return [Strongest]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Options to draw from."""
    from nasframe_pruning.examples import examples

    return examples()
