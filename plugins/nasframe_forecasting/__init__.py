"""Multivariate time series forecasting: a task for any CSV file, a series that comes with it, and references."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_forecasting.task import Forecasting

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Forecasting", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the task of this package."""
    return [Forecasting]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """Return the version of the contract that the parts follow."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Return what the conformance kit tries the task on."""
    from nasframe_forecasting.examples import examples

    return examples()
