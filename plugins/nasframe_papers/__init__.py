"""The searches of the papers by name, reproductions of their results, and a protocol for the quality of searches."""

import nasframe
from nasframe_papers.darts import DartsCifar10, DartsCifar10Retrain, Digits, PrDarts, PrDartsRetrain
from nasframe_papers.default import Default
from nasframe_papers.forecasting import Forecasting
from nasframe_papers.genotypes import Genotypes
from nasframe_papers.images import ImageCells
from nasframe_papers.jie_gao import DartsGrowEnd, DartsGrowStage, TwoToOneGrowEnd, TwoToOneGrowStage
from nasframe_papers.nas_bench_201 import NasBench201Searches
from nasframe_papers.quality import SearchQuality
from nasframe_papers.table2 import Table2

__all__ = [
    "DartsCifar10",
    "DartsCifar10Retrain",
    "DartsGrowEnd",
    "DartsGrowStage",
    "Default",
    "Digits",
    "Forecasting",
    "Genotypes",
    "ImageCells",
    "NasBench201Searches",
    "PrDarts",
    "PrDartsRetrain",
    "SearchQuality",
    "Table2",
    "TwoToOneGrowEnd",
    "TwoToOneGrowStage",
]


@nasframe.hookimpl
def nasframe_parts() -> list[type[nasframe.Part]]:
    """Return the recipes and the reproductions."""
    growing = [DartsGrowStage, DartsGrowEnd, TwoToOneGrowStage, TwoToOneGrowEnd]
    images = [DartsCifar10, DartsCifar10Retrain, PrDarts, PrDartsRetrain, Digits]
    return [Default, *growing, *images, Table2, Forecasting, Genotypes, ImageCells, NasBench201Searches, SearchQuality]
