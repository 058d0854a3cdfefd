"""The style of all pictures.

The same input gives the same file, byte for byte. Only the objects of matplotlib are used, and not pyplot, so that the settings of the
caller neither affect the pictures nor change.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, NullLocator

INK, LINE, SHADE, QUIET, ACCENT = "#1f2933", "#64748b", "#d6e4f2", "#eceff3", "#b4540a"
STYLE = {
    "font.size": 8.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text, which can be searched and read aloud
    "svg.hashsalt": "nasframe",  # the ids of an SVG are random otherwise
}
#: the metadata about the date and the software, by format, which are omitted
METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def style() -> Any:
    """Return a context in which matplotlib has its defaults and this style."""
    return matplotlib.style.context(STYLE, after_reset=True)


def blank(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def log_ticks(axis: Axis) -> None:
    """Give a logarithmic axis the ticks 1, 2, 3, 5, 10, 20, ..., written as numbers; where these are too few, matplotlib chooses others."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the suffix of the path."""
    figure.savefig(path, metadata=METADATA.get(path.suffix.lower()))


def plain(text: str) -> str:
    """Return the text with "$" escaped, so that matplotlib does not read a formula."""
    return text.replace("$", r"\$")


@functools.cache
def width_of(text: str, size: float = 8.0, **font: Any) -> float:
    """Return the width of a text, in inches."""
    if not text:
        return 0.0
    # Measured without a figure, because the size of the figure follows from it. A path is in points, 72 to an inch.
    return float(TextPath((0, 0), text, prop=FontProperties(size=size, **font)).get_extents().width) / 72
