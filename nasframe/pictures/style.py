"""How pictures look: one style of their own, so that one input makes one file, byte for byte.

Only matplotlib's objects are used, never pyplot: a caller's settings neither reach the pictures nor change.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

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
#: what a format would write of the day or the machine
METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def style() -> Any:
    """Matplotlib as it comes, in our style, for as long as it is entered."""
    return matplotlib.style.context(STYLE, after_reset=True)


def blank(width: float, height: float, **options: Any) -> Figure:
    """A figure of that many inches."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write it in the format of the path's suffix."""
    figure.savefig(path, metadata=METADATA.get(path.suffix.lower()))


def plain(text: str) -> str:
    """The text as it is, where matplotlib would read a formula."""
    return text.replace("$", r"\$")


@functools.cache
def width_of(text: str, size: float = 8.0, **font: Any) -> float:
    """How wide a text is drawn, in inches."""
    if not text:
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(size=size, **font)).get_extents().width) / 72
