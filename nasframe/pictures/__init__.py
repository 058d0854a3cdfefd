"""Pictures of a run: the cells that were found, and how the losses fell while they grew."""

from nasframe.run.pictures.cell import draw_cell
from nasframe.run.pictures.learning import draw_learning

__all__ = ["draw_cell", "draw_learning"]
