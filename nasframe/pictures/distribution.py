"""The picture of a comparison: the validation losses of all networks that a run trained, and among them the one handed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasframe.pictures.style import ACCENT, SHADE, blank, log_ticks, plain, save, style
from nasframe.records import Evaluated, TrialEnded

COLOUR = "#143d6b"

#: the losses of a row of the picture, and whether each is that of the architecture that the trials chose
Losses = list[tuple[float, bool]]


def draw_distribution(evaluations: Sequence[Evaluated], trials: Sequence[TrialEnded], path: Path) -> None:
    """Draw the validation loss of each network: a row for each kind of network of the comparison, and for each budget of trials.

    Trainings that diverged are left out. Only losses in the same row, or of different rows of the comparison, can be compared: trials
    are trained for a shorter time.

    Args:
        evaluations: the records of the comparison.
        trials: the records of the trials of the search, if it had any.
        path: the file to write. Its suffix chooses the format.
    """
    compared: dict[str, Losses] = {}
    for each in evaluations:
        if each.valid is not None:
            compared.setdefault(each.name, []).append((each.valid, False))
    rows = compared | _by_budget(trials)
    # Each network that was the best so far is marked, and so the last one is the best of all.
    best = [e.valid for e in evaluations if e.best][-1]
    with style():
        figure = blank(7.0, 1.0 + 0.2 * len(rows), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for place, losses in enumerate(rows.values()):
            axes.axhline(place, color=SHADE, linewidth=0.6, zorder=0)
            # The found one is drawn last, above the others.
            for found, marker, colour in ((False, "o", COLOUR), (True, "D", ACCENT)):
                values = [loss for loss, is_found in losses if is_found == found]
                axes.plot(values, [place] * len(values), marker, color=colour, alpha=0.6, markersize=4, markeredgewidth=0)
        if best is not None:
            axes.axvline(best, color=ACCENT, linewidth=0.9, linestyle="dashed", zorder=0, label="handed over")
        # Nothing is drawn here: entries of the legend for points that were drawn row by row.
        axes.plot([], [], "o", color=COLOUR, alpha=0.6, markersize=4, markeredgewidth=0, label="trained network")
        if any(found for losses in rows.values() for _, found in losses):
            axes.plot([], [], "D", color=ACCENT, markersize=4, markeredgewidth=0, label="found cell in its trials")
        axes.set_yticks(range(len(rows)), [plain(name) for name in rows])
        axes.tick_params("y", length=0)
        # The first row at the top, as in a table.
        axes.invert_yaxis()
        if min(loss for losses in rows.values() for loss, _ in losses) > 0:
            axes.set_xscale("log")
            log_ticks(axes.xaxis)
        axes.set_xlabel("validation loss")
        figure.legend(loc="outside lower center", ncols=3)
        save(figure, path)


def _by_budget(trials: Sequence[TrialEnded]) -> dict[str, Losses]:
    """Return the losses of the trials of the last step of trials, by budget, the largest one first."""
    # the trials of each step of a plan are counted from 0
    last = trials[-(trials[-1].number + 1) :] if trials else ()
    best = next((trial for trial in reversed(last) if trial.best), None)
    rows: dict[int, Losses] = {}
    for trial in last:
        if trial.valid is not None and best is not None:
            rows.setdefault(trial.budget, []).append((trial.valid, trial.picks == best.picks))
    return {f"trials of budget {budget}": rows[budget] for budget in sorted(rows, reverse=True)}
