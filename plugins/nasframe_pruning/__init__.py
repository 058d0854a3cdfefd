"""Pruners, which decide what a supernet's architecture keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_pruning.strongest import Strongest

if TYPE_CHECKING:  # the conformance kit needs hypothesis, which users need not have installed
    from nasframe.testing.examples import Examples

__all__ = ["Strongest"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the pruners."""
    return [Strongest]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """Return the version of nasframe's interfaces that this plugin is written for."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Return the options that the conformance kit draws from."""
    from nasframe_pruning.examples import examples

    return examples()
