"""Multivariate time series forecasting: a task on any CSV file, the series that comes with it, and the references to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nasframe
from nasframe_forecasting.task import Forecasting

if TYPE_CHECKING:  # the conformance kit, which is there where parts are checked
    from nasframe.testing.examples import Examples

__all__ = ["Forecasting", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The task of this package."""
    return [Forecasting]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"


@nasframe.hookimpl
def nasframe_examples() -> Examples:
    """Options to draw from."""
    from nasframe_forecasting.examples import examples

    return examples()
