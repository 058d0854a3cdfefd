"""The picture of the mixing weights over time, as heat maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nasframe.pictures.learning import CHANGES
from nasframe.pictures.style import LINE, SHADE, blank, plain, save, style, width_of
from nasframe.records import EpochEnded, Record
from nasframe.structure.address import Address

#: inches: the height of a row; the width of a panel, the heights of its title and its ticks; the heading of a cell type, the gaps, the
#: margin, and the height of the legend
ROW, WIDE, TITLE, TICKS, HEAD, GAP, MARGIN, FOOT = 0.12, 1.2, 0.18, 0.2, 0.13, 0.13, 0.1, 0.42
#: inches: the least width, which the legend needs
LEAST = 4.6
#: the largest number of panels in a row, and the font size at panels
COLUMNS, SMALL = 5, 6.5
COLOURS = LinearSegmentedColormap.from_list("weights", ["#ffffff", SHADE, "#5b8fd6", "#143d6b"])
ABSENT = "#e9e2d8"


@attrs.frozen(eq=False)
class Panel:
    """The mixing weights of a site.

    Attributes:
        site: the id of the site.
        candidates: the short names of the candidates, the oldest first.
        values: the mixing weight of each candidate (row) after each epoch (column); NaN where it is not a candidate.
    """

    site: str
    candidates: tuple[str, ...]
    values: np.ndarray

    @property
    def height(self) -> float:
        """Return the height of the row of candidates in inches."""
        return ROW * len(self.candidates)


@attrs.frozen(eq=False)
class Place:
    """The place of a panel.

    Attributes:
        panel: the panel.
        left: the left edge, in inches.
        top: the upper edge, in inches from above.
        named: whether the names of its candidates are written on its left.
    """

    panel: Panel
    left: float
    top: float
    named: bool


@attrs.frozen
class Sheet:
    """The layout of all panels.

    Attributes:
        places: the places of the panels.
        headings: the vertical position of the heading of each cell type, in inches from above.
        width: the width in inches.
        height: the height in inches.
    """

    places: Sequence[Place]
    headings: Mapping[str, float]
    width: float
    height: float

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[Panel]]) -> Sheet:
        """Return the layout of panels by cell type, one type below the other, with the legend at the bottom."""
        names = {name for group in groups.values() for panel in group for name in panel.candidates}
        room = max((width_of(name, SMALL) for name in names), default=0.0) + 0.08
        places: list[Place] = []
        headings: dict[str, float] = {}
        top = MARGIN
        for type, group in groups.items():
            headings[type] = top
            top += HEAD
            for row in _rows(group):
                places += _across(row, top + TITLE, room)
                top += TITLE + max(panel.height for panel in row) + TICKS
            top += GAP
        return cls(places, headings, max([LEAST, *(place.left + WIDE + MARGIN for place in places)]), top + FOOT)

    def box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Return a box in the coordinates of matplotlib: fractions of the figure, from its lower left corner."""
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height


def draw_mixing(history: Sequence[Record], path: Path) -> None:
    """Draw the mixing weights of each site after each epoch, by cell type, until all sites are decided.

    A line marks each growth.

    Args:
        history: the history of the run.
        path: the file to write. Its suffix chooses the format.
    """
    epochs = [record for record in history if isinstance(record, EpochEnded)]
    # when all sites are decided there are no mixing weights any more
    epochs = epochs[: max((i for i, record in enumerate(epochs, 1) if record.mixing), default=0)]
    grown = [i for i, (a, b) in enumerate(itertools.pairwise(epochs), 1) if b.stage > a.stage]
    with style():
        save(_drawn(panels_of(epochs), grown), path)


def panels_of(epochs: Sequence[EpochEnded]) -> dict[str, list[Panel]]:
    """Return the panels by cell type, in the order in which their sites were added (the order of the ids of candidates)."""
    rows: dict[tuple[Address, int, str], list[float]] = {}
    for i, record in enumerate(epochs):
        for address, weights in record.mixing.items():
            for candidate, weight in weights.items():
                # The records name a candidate "id name": "17 separable kernel=5".
                id, name = candidate.split(" ", 1)
                rows.setdefault((Address(address), int(id), name), [np.nan] * len(epochs))[i] = weight
    sites: dict[Address, list[tuple[str, list[float]]]] = {}
    # ids ascend with the time at which a candidate was added
    for (address, _, name), values in sorted(rows.items(), key=lambda row: row[0][1]):
        sites.setdefault(address, []).append((name, values))
    groups: dict[str, list[Panel]] = {}
    for address, named in sites.items():
        panel = Panel(address.id, tuple(name for name, _ in named), np.array([values for _, values in named]))
        groups.setdefault(address.cell, []).append(panel)
    return groups


def _drawn(groups: Mapping[str, Sequence[Panel]], grown: Sequence[int]) -> Figure:
    sheet = Sheet.of(groups)
    figure = blank(sheet.width, sheet.height)
    for type, top in sheet.headings.items():
        figure.text(*sheet.box(MARGIN, top, 0, 0)[:2], plain(type), weight="bold", va="top")
    panels = [place.panel for place in sheet.places]
    # equal mixing weights, as at the start, fill at most half of the scale, so that a site that stays there looks pale
    # One scale for all panels, so that colours can be compared between sites.
    tops = [max(float(np.nanmax(panel.values)), 2 / len(panel.candidates)) for panel in panels]
    scale = Normalize(0, max(tops, default=1.0))
    for place in sheet.places:
        _heat(figure.add_axes(sheet.box(place.left, place.top, WIDE, place.panel.height)), place, scale, grown)
    _foot(figure, sheet, scale, _legend(panels, grown))
    return figure


def _rows(panels: Sequence[Panel]) -> Iterator[Sequence[Panel]]:
    """Yield as few rows as possible, all but the last of equal length."""
    rows = -(-len(panels) // COLUMNS)
    # -(-a // b) is a / b rounded up, in integers.
    length = -(-len(panels) // rows)
    return (panels[i : i + length] for i in range(0, len(panels), length))


def _across(row: Sequence[Panel], top: float, names: float) -> Iterator[Place]:
    """Yield the places of panels side by side. The candidates are named unless the panel before has the same."""
    left = MARGIN
    for before, panel in itertools.pairwise([None, *row]):
        assert panel is not None
        named = before is None or before.candidates != panel.candidates
        left += names if named else GAP
        yield Place(panel, left, top, named)
        left += WIDE


def _heat(axes: Axes, place: Place, scale: Normalize, grown: Sequence[int]) -> None:
    panel = place.panel
    count, epochs = panel.values.shape
    axes.set_facecolor(ABSENT)
    # Each epoch is one unit wide, from epoch - 0.5 to epoch + 0.5, so that ticks are in the middle of a column.
    axes.imshow(
        # What is masked is not drawn, so that the ground shows where something is no candidate.
        np.ma.masked_invalid(panel.values),
        cmap=COLOURS,
        norm=scale,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, epochs + 0.5, count - 0.5, -0.5),
    )
    for epoch in grown:
        axes.axvline(epoch + 0.5, color=CHANGES["grow"][1], linewidth=0.9)
    axes.set_title(plain(panel.site), fontsize=SMALL, pad=2)
    axes.set_yticks(range(count), [plain(name) for name in panel.candidates] if place.named else [""] * count)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    axes.tick_params(length=0, pad=2, labelsize=SMALL)


def _legend(panels: Sequence[Panel], grown: Sequence[int]) -> list[Line2D | Patch]:
    growth, colour, _ = CHANGES["grow"]
    entries: list[Line2D | Patch] = [Line2D([], [], color=colour, linewidth=0.9, label=growth)] if grown else []
    if any(np.isnan(panel.values).any() for panel in panels):
        entries.append(Patch(facecolor=ABSENT, label="not a candidate"))
    return entries


def _foot(figure: Figure, sheet: Sheet, scale: Normalize, entries: Sequence[Line2D | Patch]) -> None:
    """Draw the scale of the colours and the legend."""
    top = sheet.height - 0.33
    axes = figure.add_axes(sheet.box(MARGIN, top, WIDE, 0.09))
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=axes, orientation="horizontal", ticks=[0, scale.vmax])
    bar.ax.set_xticklabels(["0", f"{scale.vmax:.2f}"], fontsize=SMALL)
    bar.ax.tick_params(length=0, pad=2)
    bar.outline.set(edgecolor=LINE, linewidth=0.5)
    right = MARGIN + WIDE + 0.3
    text = "mixing weight of each candidate (row) after each epoch (column)"
    figure.text(*sheet.box(right, top, 0, 0.045)[:2], text, va="center", fontsize=SMALL)
    below = sheet.box(right - 0.08, top + 0.23, 0, 0)[:2]
    figure.legend(handles=entries, loc="center left", bbox_to_anchor=below, ncols=2, fontsize=SMALL)
