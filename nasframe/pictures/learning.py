"""The picture of a run: losses and score against updates, with phases, trials, growths and prunings."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nasframe.pictures.style import ACCENT, LINE, blank, plain, save, style
from nasframe.records import Changed, EpochEnded, Record, TrialEnded

Array = np.ndarray

#: the background colours of the phases, in the order in which they begin
PHASES = ("#eef2f7", "#fdf0d9", "#e4f2e4", "#f3e8f3", "#e3f1f3")
#: for each kind of change: its name, and the colour and style of its line
CHANGES = {"grow": ("growth", "#2a7f3f", "solid"), "remove": ("pruning", ACCENT, "dashed")}
#: for each loss: its label and colour
LOSSES = {"train": ("training, mean over each epoch", "#86a5c6"), "valid": ("validation", "#143d6b")}


def draw_learning(
    history: Sequence[Record],
    lineage: Sequence[Record],
    path: Path,
    score: str | None = None,
    trials: Sequence[TrialEnded] = (),
) -> None:
    """Draw the losses against the updates of the weights, with phases, growths, prunings and the best network.

    Losses far above the others are outside the axes; a mark at the upper edge and the legend show them. Curves are interrupted where
    trials were evaluated (see `draw_trials` for their losses).

    Args:
        history: the history of the run.
        lineage: the lineage of the run.
        path: the file to write. Its suffix chooses the format.
        score: the name of a validation score, which is drawn below unless it equals the loss.
        trials: the trials of the run.
    """
    epochs = [r for r in history if isinstance(r, EpochEnded)]
    changes = [r for r in lineage if isinstance(r, Changed) and _kinds(r)]
    scored = [(r.updates, r.scores.get(score or ""), r.valid) for r in epochs]
    scores = [(updates, value) for updates, value, loss in scored if value is not None and loss is not None]
    losses = [loss for _, value, loss in scored if value is not None and loss is not None]
    # where the score is the loss (an MSE), a second panel would repeat the first
    # True of no scores as well: then there is no second panel either.
    apart = not np.allclose([value for _, value in scores], losses, rtol=1e-4)
    with style():
        figure = blank(7.0, 5.0 if apart else 3.6, layout="constrained")
        upper, *lower = figure.subplots(1 + apart, sharex=True, squeeze=False, height_ratios=[5, 3][: 1 + apart])[:, 0]
        handles = _learning(upper, epochs, changes, trials)
        for axes in lower:
            _ground(axes, epochs, changes, trials)
            _curve(axes, scores, trials, *LOSSES["valid"])
            axes.set_ylabel(plain(f"validation {score}"))
        (lower or [upper])[-1].set_xlabel("updates of the weights")
        figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.6, handlelength=2.0)
        save(figure, path)


def _learning(
    axes: Axes, epochs: Sequence[EpochEnded], changes: Sequence[Changed], trials: Sequence[TrialEnded]
) -> list[Artist]:
    """Draw the axes with the losses, and return the entries of the legend."""
    axes.set_ylabel("loss per example")
    ground = _ground(axes, epochs, changes, trials)
    if not epochs:
        return []
    axes.set_xlim(0, 1.01 * epochs[-1].updates)  # room for a mark at the end
    _count_nodes(axes, epochs, changes)
    return [*_losses(axes, epochs, trials), *ground]


def _ground(axes: Axes, epochs: Sequence[EpochEnded], changes: Sequence[Changed], trials: Sequence[TrialEnded]) -> list[Artist]:
    """Draw the ticks, the phases and the changes, and return their entries of the legend."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    return [*_phases(axes, epochs, trials), *_lines(axes, changes)]


def _phases(axes: Axes, epochs: Sequence[EpochEnded], trials: Sequence[TrialEnded]) -> list[Artist]:
    # A phase may occur several times; the legend has one entry for each name.
    spans = {}
    start = 0
    # the sort is stable: a trial that is looked up in a table takes no updates, and comes after the epoch before it
    ordered = sorted([*epochs, *trials], key=lambda r: r.updates)
    names = ["trials" if isinstance(r, TrialEnded) else f"phase: {r.phase}" for r in ordered]
    colours = dict(zip(dict.fromkeys(names), itertools.cycle(PHASES), strict=False))
    for name, group in itertools.groupby(zip(names, ordered, strict=True), lambda pair: pair[0]):
        end = [record.updates for _, record in group][-1]
        # A phase begins where the one before it has ended: records say where an epoch or a trial ends.
        spans[name] = axes.axvspan(start, end, color=colours[name], linewidth=0, zorder=0, label=name)
        start = end
    return list(spans.values())


def _losses(axes: Axes, epochs: Sequence[EpochEnded], trials: Sequence[TrialEnded]) -> list[Artist]:
    """Draw the training and validation losses, as far as there are any, and the best network."""
    losses = {"train": [(r.updates, r.train) for r in epochs], "valid": [(r.updates, r.valid) for r in epochs]}
    curves = {name: [(at, loss) for at, loss in points if loss is not None] for name, points in losses.items()}
    drawn = [line for name, points in curves.items() if points for line in _curve(axes, points, trials, *LOSSES[name])]
    return [*drawn, *_mark_best(axes, epochs), *_scale(axes, curves)]


def _curve(
    axes: Axes, points: Sequence[tuple[int, float]], trials: Sequence[TrialEnded], label: str, colour: str
) -> list[Line2D]:
    """Draw a line for all points between which there is no trial, and return one of them for the legend."""
    evaluated = sorted(trial.updates for trial in trials)
    # Points with as many trials before them are a part; a part of one point is drawn as a dot, as it has no line.
    parts = [[*part] for _, part in itertools.groupby(points, lambda point: bisect.bisect_left(evaluated, point[0]))]
    look: dict[str, Any] = {"color": colour, "linewidth": 1.2, "label": label}
    lines = [axes.plot(*zip(*part, strict=True), "-" if len(part) > 1 else ".", **look)[0] for part in parts]
    # A line rather than a dot, if there is one.
    return sorted(lines, key=lambda line: line.get_linestyle() == "None")[:1]


def _mark_best(axes: Axes, epochs: Sequence[EpochEnded]) -> list[Line2D]:
    """Mark the best network. Only networks of the phase that began last are compared: a supernet is not a pruned network."""
    *_, latest = dict.fromkeys(r.phase for r in epochs)
    compared = [(r.valid, r.updates) for r in epochs if r.phase == latest and r.valid is not None]
    if not compared:
        return []
    best, updates = min(compared)
    look: dict[str, Any] = {"color": "white", "markeredgecolor": LOSSES["valid"][1], "markersize": 5}
    return axes.plot(updates, best, "o", label=f"best network of {latest}, {best:.4g}", **look)


def _scale(axes: Axes, curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[Artist]:
    """Set the range of the vertical axis, and mark losses above it."""
    losses = np.array([value for points in curves.values() for _, value in points], dtype=float)
    if not losses.size:  # every epoch diverged
        return []
    scale, bottom, top = _range(losses)
    axes.set_yscale(scale)
    axes.set_ylim(bottom, top)
    for name, points in curves.items():
        at = [points[i][0] for i in _peaks([value for _, value in points], top)]
        # In this transform x is in updates and y a fraction of the height.
        axes.plot(at, [0.98] * len(at), "^", color=LOSSES[name][1], markersize=4, transform=axes.get_xaxis_transform())
    if losses.max() <= top:
        return []
    # the largest value is in the legend, as the marks do not show it
    label = f"above the axis, up to {losses.max():.4g}"
    return [Line2D([], [], linestyle="", marker="^", color=LINE, markersize=4, label=label)]


def _range(losses: Array) -> tuple[str, float, float]:
    """Return the scale and the ends of an axis: logarithmic if most losses span a decade, without outliers."""
    # By a quantile and not by the largest loss: a single bad epoch is no reason for another scale.
    scale = "log" if losses.min() > 0 and np.quantile(losses, 0.9) > 10 * losses.min() else "linear"
    to, back = (np.log, np.exp) if scale == "log" else (np.array, np.array)
    low, high = np.quantile(to(losses), (0.25, 0.75))
    # Tukey's outer fence, or a quarter above the upper quartile where a long flat end makes the quartiles equal
    top = min(to(losses).max(), high + max(3 * (high - low), abs(high) / 4))
    bottom = to(losses).min()
    # Losses that are all equal span nothing, and an axis must.
    room = 0.05 * (top - bottom) or 1.0
    return scale, float(back(bottom - room)), float(back(top + room))


def _peaks(values: Sequence[float], top: float) -> Iterator[int]:
    """Yield the position of the largest value in each series of consecutive values above the top."""
    for above, run in itertools.groupby(range(len(values)), lambda i: values[i] > top):
        if above:
            yield max(run, key=values.__getitem__)


def _lines(axes: Axes, changes: Sequence[Changed]) -> list[Artist]:
    drawn = {}
    for record in changes:
        for kind in _kinds(record):
            name, colour, style = CHANGES[kind]
            drawn[kind] = axes.axvline(record.updates, color=colour, linestyle=style, linewidth=0.9, zorder=1, label=name)
    return [drawn[kind] for kind in CHANGES if kind in drawn]


def _kinds(record: Changed) -> list[str]:
    """Return what a change did of what is drawn: a change of a plan may add and remove candidates at once."""
    if record.change == "edit":
        return [kind for kind, done in (("grow", "added"), ("remove", "removed")) if record.request[done]]
    return [record.change] if record.change in CHANGES else []


def _count_nodes(axes: Axes, epochs: Sequence[EpochEnded], changes: Sequence[Changed]) -> None:
    """Write the number of nodes above each growth, unless the previous number is too close."""
    counted = [(0, epochs[0].nodes), *((r.updates, r.nodes) for r in changes if "grow" in _kinds(r))]
    shown: list[tuple[int, str]] = []
    for at, nodes in counted:
        text = "+".join(map(str, nodes.values()))
        # About the width of the text: 1.4 % of the axis for each character.
        room = epochs[-1].updates * 0.014 * (len(text) + 1)
        if not shown or at - shown[-1][0] > room:
            shown.append((at, text))
    top = axes.secondary_xaxis("top")
    top.set_xticks([at for at, _ in shown], [text for _, text in shown])
    top.tick_params(length=0, pad=1)
    top.spines["top"].set_visible(False)
    # the last growth may have added a cell type
    top.set_xlabel("nodes in " + " + ".join(map(plain, counted[-1][1])))
