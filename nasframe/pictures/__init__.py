"""Pictures of a run: its cells, losses, mixing weights, trials and comparison, and curves with their standard error."""

from nasframe.pictures.cell import draw_cell
from nasframe.pictures.curves import draw_curves, draw_paths
from nasframe.pictures.distribution import draw_distribution
from nasframe.pictures.learning import draw_learning
from nasframe.pictures.mixing import draw_mixing
from nasframe.pictures.trials import draw_trials

__all__ = ["draw_cell", "draw_curves", "draw_distribution", "draw_learning", "draw_mixing", "draw_paths", "draw_trials"]
