"""The picture of an ask/tell search: the validation loss of each trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from nasframe.pictures.style import ACCENT, blank, log_ticks, save, style
from nasframe.records import TrialEnded

COLOUR = "#143d6b"


def draw_trials(trials: Sequence[TrialEnded], path: Path) -> None:
    """Draw the validation loss of each trial, in their order, and mark each that was the best one so far in its step of the plan.

    The area of a point shows the budget; only trials of equal budget compare. Trials that diverged are left out.

    Args:
        trials: the records of the trials.
        path: the file to write. Its suffix chooses the format.
    """
    # by place and not by number: the trials of each step of a plan are counted from 0
    shown = {place: trial for place, trial in enumerate(trials) if trial.valid is not None}
    most = max((trial.budget for trial in shown.values()), default=1)
    with style():
        figure = blank(7.0, 3.6, layout="constrained")
        axes = figure.subplots()
        # The best ones are drawn last, above the others.
        for best, colour, label in ((False, COLOUR, "trial"), (True, ACCENT, "the best trial so far")):
            chosen = {place: trial for place, trial in shown.items() if trial.best == best}
            values = [trial.valid for trial in chosen.values()]
            sizes = [max(4.0, 24 * trial.budget / most) for trial in chosen.values()]
            axes.scatter([*chosen], values, sizes, color=colour, label=label, linewidths=0)  # type: ignore[arg-type]
        losses = [trial.valid or 0.0 for trial in shown.values()]
        if losses and min(losses) > 0:
            axes.set_yscale("log")
            log_ticks(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("trial")
        axes.set_ylabel("validation loss")
        figure.legend(loc="outside lower center", ncols=2)
        save(figure, path)
