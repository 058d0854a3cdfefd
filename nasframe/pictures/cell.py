"""Pictures of cells as graphs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.transforms import Affine2D, Transform

from nasframe.pictures.diagram import INDENT, PAD, ROW, Box, Diagram, Mixing, Segment, diagram
from nasframe.pictures.layout import Placed
from nasframe.pictures.style import ACCENT, LINE, QUIET, SHADE, blank, plain, save, style
from nasframe.structure.structure import Structure

#: inches: the height of a title, and the margin
TITLE, MARGIN = 0.24, 0.1


def draw_cell(structure: Structure, mixing: Mixing | None, path: Path) -> None:
    """Draw each cell type as a graph from left to right.

    Args:
        structure: the structure.
        mixing: the mixing weights of each undecided site, by address and in the order of its candidates. They are written beside the
            operations; None omits them.
        path: the file to write. Its suffix chooses the format, for example ".svg".
    """
    with style():
        panels = [(type, diagram(structure, type, mixing or {})) for type, _ in structure.cells]
        save(_cells(panels), path)


def _cells(panels: Sequence[tuple[str, Diagram]]) -> Figure:
    """Return a figure with one panel below the other, as large as they need."""
    # All lengths are known before there is a figure, which is then made as large as its content. Matplotlib's layout
    # engines do the opposite: they fit content into a given figure.
    placed = [Placed.of(diagram) for _, diagram in panels]
    tops = list(itertools.accumulate((TITLE + p.height + 2 * MARGIN for p in placed), initial=0.0))
    width = max([p.width for p in placed], default=1.0) + 2 * MARGIN
    figure = blank(width, tops[-1])
    # matplotlib counts from below, and a layout from above
    inches = Affine2D().scale(1, -1).translate(0, tops[-1]) + figure.dpi_scale_trans
    # `tops` has one entry more: the lower end of the last panel, which is the height of the figure.
    for (type, _), panel, top in zip(panels, placed, tops, strict=False):
        pen = _Pen(figure, Affine2D().translate(MARGIN, top + MARGIN) + inches)
        pen.text(0, 0.07, plain(type), weight="bold", ha="left")
        _draw(attrs.evolve(pen, transform=Affine2D().translate(MARGIN, top + MARGIN + TITLE) + inches), panel)
    return figure


@attrs.frozen
class _Pen:
    """Draws on a figure in the coordinates of a transform."""

    figure: Figure
    transform: Transform

    def add(self, artist: Artist) -> None:
        # First, because `add_artist` gives an artist without a transform that of the figure.
        artist.set_transform(self.transform)
        self.figure.add_artist(artist)

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        self.figure.text(x, y, text, transform=self.transform, **{"ha": "center", "va": "center_baseline"} | options)

    def box(self, left: float, top: float, width: float, height: float, **options: Any) -> None:
        self.add(
            FancyBboxPatch((left, top), width, height, boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.9, **options)
        )


def _draw(pen: _Pen, panel: Placed) -> None:
    # First the edges and then the boxes, which hide the ends of the edges.
    layer = {k: i for i, column in enumerate(panel.diagram.columns) for k in column}
    for segment in panel.diagram.segments:
        _draw_edge(pen, panel, segment, layer[segment.source])
    for key, box in panel.diagram.boxes.items():
        left, right = panel.edges[layer[key]]
        _draw_box(pen, box, (left + right) / 2, panel.y[key])


def _draw_edge(pen: _Pen, panel: Placed, segment: Segment, layer: int) -> None:
    """Draw an edge, which is level within columns and bends between them, so that no box hides it."""
    (left, right), (far_left, far_right) = panel.edges[layer], panel.edges[layer + 1]
    arrives = segment.target in panel.diagram.boxes
    width, far_width = panel.diagram.width(segment.source), panel.diagram.width(segment.target)
    # An edge starts at the side of its box, or, at a rail, where the piece before it has ended: at the right edge of the
    # column.
    start = (left + right + width) / 2 if width else right
    end = (far_left + far_right - far_width) / 2 if arrives else far_right
    curve = _bend((start, panel.y[segment.source]), right, far_left, (end, panel.ports[segment]))
    look = {"color": ACCENT, "linestyle": (0, (3, 1.5))} if segment.inherited else {"color": LINE}
    if arrives:
        pen.add(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=7, linewidth=0.9, **look))
    else:
        pen.add(PathPatch(curve, fill=False, linewidth=0.9, **look))


def _bend(start: tuple[float, float], leave: float, arrive: float, end: tuple[float, float]) -> Curve:
    """Return a curve that is level from the start to `leave`, bends until `arrive`, and is level to the end."""
    middle = (leave + arrive) / 2
    points = [start, (leave, start[1]), (middle, start[1]), (middle, end[1]), (arrive, end[1])]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    # the direction of an arrow head is that of the last piece, which must have a length
    return Curve([*points, end], [*codes, Curve.LINETO]) if end[0] - arrive > 1e-6 else Curve(points, codes)


def _draw_box(pen: _Pen, box: Box, x: float, y: float) -> None:
    """Draw a box with its lines in the middle, one below the other."""
    left, width = x - box.width / 2, box.width
    pen.box(left, y - box.height / 2, width, box.height, facecolor=box.fill, edgecolor=ACCENT if box.note else LINE)
    lines = iter(y + ROW * (i + 0.5 - box.lines / 2) for i in range(box.lines))
    if box.name:
        pen.text(x, next(lines), box.name, weight="normal" if box.fill == QUIET else "bold")
    for row in box.rows:
        _draw_row(pen, *row, left + PAD, width - 2 * PAD, next(lines), alone=len(box.rows) == 1)
    if box.note:
        pen.text(x, next(lines), box.note, style="italic", color=ACCENT)


def _draw_row(pen: _Pen, name: str, weight: float | None, left: float, width: float, y: float, *, alone: bool) -> None:
    """Write the name of an operation, with a bar as long as its mixing weight behind it."""
    # Whatever a relaxation returns, the bar stays in its box. The number says what the weight is.
    share = 1.0 if alone else min(max(weight or 0.0, 0.0), 1.0)
    pen.add(Rectangle((left, y - 0.065), width * share, 0.13, facecolor=SHADE, linewidth=0))
    if alone:
        pen.text(left + width / 2, y, name)
    else:
        pen.text(left + INDENT, y, name, ha="left")
    if weight is not None:
        pen.text(left + width - INDENT, y, f"{weight:.2f}", ha="right")
