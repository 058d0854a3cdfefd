"""The picture of an ask/tell search: the validation loss of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from nasframe.pictures.style import ACCENT, blank, save, style
from nasframe.records import TrialEnded

COLOUR = "#143d6b"


def draw_trials(trials: Sequence[TrialEnded], path: Path) -> None:
    """Draw the validation loss of each trial, by number, and mark each that was the best one so far.

    The area of a point shows the budget; only trials of equal budget compare. Trials that diverged are left out.

    Args:
        trials: the records of the trials.
        path: the file to write. Its suffix chooses the format.
    """
    shown = [trial for trial in trials if trial.valid is not None]
    most = max((trial.budget for trial in shown), default=1)
    with style():
        figure = blank(7.0, 3.6, layout="constrained")
        axes = figure.subplots()
        for best, colour, label in ((False, COLOUR, "trial"), (True, ACCENT, "the best trial so far")):
            chosen = [trial for trial in shown if trial.best == best]
            values = [trial.valid for trial in chosen]
            sizes = [max(4.0, 24 * trial.budget / most) for trial in chosen]
            axes.scatter([trial.number for trial in chosen], values, sizes, color=colour, label=label, linewidths=0)  # type: ignore[arg-type]
        if shown and min(trial.valid or 0.0 for trial in shown) > 0:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("trial")
        axes.set_ylabel("validation loss")
        figure.legend(loc="outside lower center", ncols=2)
        save(figure, path)
