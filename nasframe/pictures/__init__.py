"""Pictures: the cells that were found, how the losses fell while they grew, and curves with their spread."""

from nasframe.pictures.cell import draw_cell
from nasframe.pictures.curves import draw_curves, draw_paths
from nasframe.pictures.learning import draw_learning

__all__ = ["draw_cell", "draw_curves", "draw_learning", "draw_paths"]
