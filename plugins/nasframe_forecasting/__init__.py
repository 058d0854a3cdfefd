"""Multivariate time series forecasting: a task for any CSV file, a series that comes with it, and references."""

from __future__ import annotations

import nasframe
from nasframe_forecasting.task import Forecasting

__all__ = ["Forecasting", "nasframe_parts"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the task of this package."""
    return [Forecasting]
