"""Multivariate time series forecasting: a task on any CSV file, the series that comes with it, and the references to compare with."""

from __future__ import annotations

import nasframe
from nasframe_forecasting.task import Forecasting

__all__ = ["Forecasting", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The task of this package."""
    return [Forecasting]
