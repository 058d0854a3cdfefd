"""Pictures of curves with their standard error, and of paths in a plane."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from nasframe.pictures.style import ACCENT, LINE, blank, plain, save, style

#: colours and dashes of the curves, which differ in grey as well
LOOKS = [
    ("#5b6770", (0, (1, 1))),
    ("#9aa5b1", (0, (4, 1.5))),
    ("#d98b3a", "solid"),
    ("#9c4f12", (0, (5, 1, 1, 1))),
    ("#5b8fd6", "solid"),
    ("#143d6b", (0, (5, 1, 1, 1))),
]


Point = tuple[float, float]


def draw_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path, *, x: str, y: str) -> None:
    """Draw the mean of each curve at 1, 2, ... with a band of one standard error.

    The vertical axis ends at the 0.95 quantile of the means, so that a steep start does not compress the rest.

    Args:
        curves: by name, the means and the standard errors.
        path: the file to write. Its suffix chooses the format.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
    """
    with plane(path, 7.0, x, y) as axes:
        for (name, (mean, error)), (colour, dashes) in zip(curves.items(), itertools.cycle(LOOKS), strict=False):
            at, middle, spread = np.arange(1, len(mean) + 1), np.array(mean), np.array(error)
            axes.plot(at, middle, color=colour, linestyle=dashes, linewidth=1.3, label=plain(name))
            axes.fill_between(at, middle - spread, middle + spread, color=colour, alpha=0.18, linewidth=0)
        values = np.concatenate([np.array(mean) for mean, _ in curves.values()])
        low, high = values.min(), np.quantile(values, 0.95)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def draw_paths(
    paths: Mapping[str, Sequence[Point]], path: Path, *, x: str, y: str, line: tuple[str, Point, Point], goal: Point
) -> None:
    """Draw paths in a plane, with a line and a goal.

    Args:
        paths: the points of each path, by name. Its last point has a mark.
        path: the file to write. Its suffix chooses the format.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
        line: the label of the line and its two ends.
        goal: the goal.
    """
    with plane(path, 6.4, x, y) as axes:
        label, *ends = line
        axes.plot(*zip(*ends, strict=True), color=LINE, linewidth=0.8, linestyle="dotted", label=plain(label))
        for (name, points), (colour, dashes) in zip(paths.items(), itertools.cycle(LOOKS[2:]), strict=False):
            at = np.array(points)
            axes.plot(at[:, 0], at[:, 1], color=colour, linestyle=dashes, linewidth=1.3, label=plain(name))
            axes.plot(*at[-1], "o", color=colour, markersize=4)
        axes.plot(*goal, "*", color=ACCENT, markersize=9, label=f"solution {goal}")


@contextlib.contextmanager
def plane(path: Path, width: float, x: str, y: str) -> Iterator[Axes]:
    """Yield axes with these labels to draw on, then add the legend and write the file."""
    with style():
        figure = blank(width, 3.6, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(plain(x))
        axes.set_ylabel(plain(y))
        yield axes
        figure.legend(loc="outside right upper")
        save(figure, path)
