"""What the papers left behind: their strategies by name, and their results made again."""

import nasframe
from nasframe_papers.darts import Digits, Seeds001, Seeds004, Seeds004Retraining
from nasframe_papers.forecasting import Forecasting
from nasframe_papers.genotypes import Genotypes
from nasframe_papers.images import ImageCells
from nasframe_papers.jie_gao import Darts1, Darts2, New1, New2
from nasframe_papers.table2 import Table2

__all__ = [
    "Darts1",
    "Darts2",
    "Digits",
    "Forecasting",
    "Genotypes",
    "ImageCells",
    "New1",
    "New2",
    "Seeds001",
    "Seeds004",
    "Seeds004Retraining",
    "Table2",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The strategies and the reproductions."""
    recipes = [Darts1, Darts2, New1, New2, Seeds001, Seeds004, Seeds004Retraining, Digits]
    return [*recipes, Table2, Forecasting, Genotypes, ImageCells]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"
