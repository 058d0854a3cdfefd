"""What the papers left behind: their strategies by name, and their results made again."""

import nasframe
from nasframe_papers.forecasting import Forecasting
from nasframe_papers.jie_gao import Darts1, Darts2, New1, New2
from nasframe_papers.table2 import Table2

__all__ = ["Darts1", "Darts2", "Forecasting", "New1", "New2", "Table2"]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The strategies and the reproductions."""
    return [Darts1, Darts2, New1, New2, Table2, Forecasting]
