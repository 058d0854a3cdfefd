"""Pictures of a run: its cells, its losses, its mixing weights over time, its trials, and curves with their standard error."""

from nasframe.pictures.cell import draw_cell
from nasframe.pictures.curves import draw_curves, draw_paths
from nasframe.pictures.learning import draw_learning
from nasframe.pictures.mixing import draw_mixing
from nasframe.pictures.trials import draw_trials

__all__ = ["draw_cell", "draw_curves", "draw_learning", "draw_mixing", "draw_paths", "draw_trials"]
