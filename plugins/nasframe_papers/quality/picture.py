"""The picture of the protocol: found cells within the distribution of random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nasframe.pictures.style import ACCENT, SHADE, blank, plain, save, style


def draw_places(random: Sequence[float], found: Mapping[str, Sequence[float]], path: Path, *, x: str) -> None:
    """Draw a line for the loss of each random cell, and for each strategy a dot for the loss of each cell that it found.

    Args:
        random: the losses of the random cells.
        found: the losses of the found cells, by strategy.
        path: the file to write. Its suffix chooses the format.
        x: the label of the axis.
    """
    with style():
        figure = blank(7.0, 0.7 + 0.22 * len(found), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        for loss in random:
            axes.axvline(loss, color=SHADE, linewidth=1.2)
        for place, losses in enumerate(found.values()):
            # Seeds lie below each other, so that equal cells are seen.
            heights = [place + 0.2 * (seed - (len(losses) - 1) / 2) for seed in range(len(losses))]
            axes.plot(losses, heights, "o", color=ACCENT, markersize=3.5)
        axes.set_yticks(range(len(found)), [plain(name) for name in found])
        axes.invert_yaxis()
        # The worst cells are many times worse than the best ones.
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:.1g}")
        axes.set_xlabel(plain(x))
        save(figure, path)
