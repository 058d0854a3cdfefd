"""What the papers left behind: their strategies by name, and their results made again."""

import nasframe
from nasframe_papers.darts import DartsCifar10, DartsCifar10Retrain, Digits, PrDarts, PrDartsRetrain
from nasframe_papers.default import Default
from nasframe_papers.forecasting import Forecasting
from nasframe_papers.genotypes import Genotypes
from nasframe_papers.images import ImageCells
from nasframe_papers.jie_gao import Darts1, Darts2, New1, New2
from nasframe_papers.table2 import Table2

__all__ = [
    "Darts1",
    "Darts2",
    "DartsCifar10",
    "DartsCifar10Retrain",
    "Default",
    "Digits",
    "Forecasting",
    "Genotypes",
    "ImageCells",
    "New1",
    "New2",
    "PrDarts",
    "PrDartsRetrain",
    "Table2",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """The strategies and the reproductions."""
    recipes = [Default, Darts1, Darts2, New1, New2, DartsCifar10, DartsCifar10Retrain, PrDarts, PrDartsRetrain, Digits]
    return [*recipes, Table2, Forecasting, Genotypes, ImageCells]


@nasframe.hookimpl
def nasframe_contract() -> str:
    """The first."""
    return "1.0"
