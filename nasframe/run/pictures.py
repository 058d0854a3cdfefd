"""Pictures of a run: the cells that were found, and how the losses fell while they grew.

Only matplotlib's objects are used, never pyplot, within a style of their own: a caller's settings neither reach the pictures
nor change, and one input makes one file, byte for byte.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import matplotlib.style
import networkx as nx
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, Transform

from nasframe.operation import Operation
from nasframe.structure import Cell, Node, Site, Structure

Array = np.ndarray
Record = Mapping[str, Any]
Weights = Mapping[str, Sequence[float]]

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


def draw_cell(structure: Structure, weights: Weights | None, path: Path) -> None:
    """Draw each cell type as a graph from left to right, an undecided site with the weights of its operations.

    What no site of a cell takes in is drawn as going to its output. The format is that of the path's suffix.

    Args:
        weights: by address of each undecided site, in the order of its candidates; None leaves them out.
    """
    with _style():
        panels = [(type, _diagram(type, cell, weights or {})) for type, cell in structure.cells]
        _save(_cells(panels), path)


def draw_learning(history: Sequence[Record], lineage: Sequence[Record], path: Path) -> None:
    """Draw the losses against the updates of the weights, with phases, growths, prunings and the best network.

    Losses far above the others are left out, marked at the upper edge and told in the legend. The format is that of the
    path's suffix.
    """
    with _style():
        figure = _figure(7.0, 3.6, layout="constrained")
        handles = _learning(figure.add_subplot(), [r for r in history if r["kind"] == "epoch"], lineage)
        figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.6, handlelength=2.0)
        _save(figure, path)


def _style() -> Any:
    return matplotlib.style.context(STYLE, after_reset=True)


def _figure(width: float, height: float, **options: Any) -> Figure:
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata=METADATA.get(path.suffix.lower()))


# the cell: boxes, and what runs between them. Lengths are inches, from the upper left corner

ROW, PAD, INDENT, PORT, GAP, GUTTER, TITLE, MARGIN = 0.15, 0.06, 0.04, 0.1, 0.16, 0.3, 0.24, 0.1
SWEEPS = 24
#: how far from level an edge may be before it is pulled at less, sweep by sweep: at last most edges are level, and few bend
SOFT = [0.5 * 0.97**i for i in range(200)]
#: how straight a piece is drawn, by whether it starts at a box and ends at one: rails more than where an edge turns off
STRAIGHT = {(True, True): 3.0, (True, False): 4.0, (False, False): 8.0, (False, True): 0.2}
#: how the states that backbones are given are written
SYMBOLS = {"x": "$x$", "h": "$h_{t-1}$"}

Key = tuple[str, ...]
Rows = tuple[tuple[str, float | None], ...]
OUTPUT: Key = ("output",)


@attrs.frozen
class _Box:
    """A state or a site as it is drawn: its name, an operation with its weight in each row, and a note.

    It is at least as wide as `least`, and high enough for its `arrivals`: the edges that end at it.
    """

    name: str = ""
    rows: Rows = ()
    note: str = ""
    fill: str = "white"
    arrivals: int = 0
    least: float = 0.3

    @property
    def width(self) -> float:
        number = any(weight is not None for _, weight in self.rows) * (_width("0.00") + 2 * INDENT)
        texts = [_width(self.name, weight="bold"), _width(self.note, style="italic")]
        return max([self.least, *(2 * PAD + w for w in (*texts, *(_width(n) + 2 * INDENT + number for n, _ in self.rows)))])

    @property
    def height(self) -> float:
        return max(ROW * self.lines + PAD * (1 + (self.lines > 1)), PORT * (self.arrivals + 1))

    @property
    def lines(self) -> int:
        return bool(self.name) + len(self.rows) + bool(self.note)


@attrs.frozen
class _Segment:
    """An edge, or a piece of one between neighbouring columns."""

    source: Key
    target: Key
    inherited: bool = False


@attrs.frozen
class _Diagram:
    """Columns of boxes and of rails, which carry edges past the boxes of a column: a rail is a key without a box."""

    columns: Sequence[Sequence[Key]]
    boxes: Mapping[Key, _Box]
    segments: Sequence[_Segment]

    def width(self, key: Key) -> float:
        return self.boxes[key].width if key in self.boxes else 0.0

    def height(self, key: Key) -> float:
        return self.boxes[key].height if key in self.boxes else 0.0


@functools.cache
def _width(text: str, **font: Any) -> float:
    """How wide a text is drawn."""
    if not text:
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(size=8, **font)).get_extents().width) / 72


# what is drawn


def _diagram(type: str, cell: Cell, weights: Weights) -> _Diagram:
    rows = {s.id: _rows(s, weights.get(f"{type}/{s.id}")) for s in cell.sites}
    links = _links(cell)
    boxes = {k: attrs.evolve(b, arrivals=sum(k == s.target for s in links)) for k, b in _boxes(cell, rows).items()}
    layers = _layers(boxes, links)
    segments = list(dict.fromkeys(itertools.chain.from_iterable(_routed(link, layers) for link in links)))
    places = layers | {s.target: int(s.target[1]) for s in segments if s.target not in boxes}
    columns = [[k for k, layer in places.items() if layer == i] for i in range(max(places.values()) + 1)]
    return _Diagram(_ordered(columns, segments), boxes | _even(boxes, columns), segments)


def _even(boxes: Mapping[Key, _Box], columns: Iterable[Sequence[Key]]) -> dict[Key, _Box]:
    """The sites, those of a column all as wide as the widest."""
    sites = [[k for k in column if k[0] == "site"] for column in columns]
    return {k: attrs.evolve(boxes[k], least=max(boxes[n].width for n in keys)) for keys in sites for k in keys}


def _rows(site: Site, weights: Sequence[float] | None) -> Rows:
    names = [_label(c.operation) for c in site.candidates]
    shown = [None] * len(names) if site.decided or weights is None else map(float, weights)
    return tuple(zip(names, shown, strict=True))


def _label(operation: Operation) -> str:
    """Its name, and those of its options that are not the default."""
    kind: Any = type(operation)
    values = ((f, getattr(operation, f.name)) for f in attrs.fields(kind))
    return _plain(" ".join([operation.name, *(f"{f.name}={v}" for f, v in values if v != f.default)]))


def _boxes(cell: Cell, rows: Mapping[str, Rows]) -> dict[Key, _Box]:
    inside = {n.id for n in cell.nodes}
    boxes = {_state(i): _Box(SYMBOLS.get(i, _plain(i)), fill=QUIET) for i in _taken(cell) if i not in inside}
    for node in cell.nodes:
        boxes[_state(node.id)] = _Box(_plain(node.id), note=_note(node))
    for site in cell.sites:
        key = _place(cell, site)
        boxes[key] = attrs.evolve(boxes.get(key, _Box(fill=SHADE if site.decided else "white")), rows=rows[site.id])
    return boxes | {OUTPUT: _Box("output", fill=QUIET)}


def _links(cell: Cell) -> list[_Segment]:
    taken = set(_taken(cell))
    inputs = [_Segment(_state(i), _place(cell, s)) for s in cell.sites for i in s.inputs]
    sites = [_Segment(_place(cell, s), _state(s.node)) for s in cell.sites if not _merged(cell)]
    gates = [_Segment(_state(i), _state(n.id), inherited=True) for n in cell.nodes for i in n.inherits]
    return [*inputs, *sites, *gates, *(_Segment(_state(n.id), OUTPUT) for n in cell.nodes if n.id not in taken)]


def _taken(cell: Cell) -> list[str]:
    return [i for s in cell.sites for i in s.inputs] + [i for n in cell.nodes for i in n.inherits]


def _merged(cell: Cell) -> bool:
    """Whether the operations stand in the nodes' boxes: in boxes of their own where a node has several sites."""
    return len({s.node for s in cell.sites}) == len(cell.sites)


def _place(cell: Cell, site: Site) -> Key:
    return _state(site.node) if _merged(cell) else ("site", site.id)


def _state(id: str) -> Key:
    return ("state", id)


def _note(node: Node) -> str:
    return _plain("inherits " + ", ".join(node.inherits)) if node.inherits else ""


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar would begin a formula


# where it stands


def _layers(boxes: Iterable[Key], links: Iterable[_Segment]) -> dict[Key, int]:
    """The column of each box: behind all that it takes in, and of a site just before its node."""
    graph = nx.DiGraph()
    graph.add_nodes_from(boxes)
    graph.add_edges_from((s.source, s.target) for s in links)
    layers = {key: i for i, keys in enumerate(nx.topological_generations(graph)) for key in keys}
    return {k: min(layers[n] for n in graph[k]) - 1 if k[0] == "site" else layers[k] for k in boxes}


def _routed(link: _Segment, layers: Mapping[Key, int]) -> Iterator[_Segment]:
    """The pieces of an edge. All edges from a state share its rails, so that they run as one until they turn off."""
    kind = "inherited" if link.inherited else "rail"
    between = range(layers[link.source] + 1, layers[link.target])
    stops = [link.source, *((kind, str(i), *link.source) for i in between), link.target]
    return (_Segment(a, b, link.inherited) for a, b in itertools.pairwise(stops))


def _ordered(columns: Sequence[Sequence[Key]], segments: Sequence[_Segment]) -> Sequence[Sequence[Key]]:
    """The columns in the order with fewest crossings among those that sweeps to and fro come by (Sugiyama et al. 1981)."""
    tried = [columns]
    for sweep in range(SWEEPS):
        tried.append(_swept(tried[-1], segments, forward=sweep % 2 == 0))
    return min(tried, key=lambda columns: _crossings(columns, segments))


def _swept(columns: Sequence[Sequence[Key]], segments: Sequence[_Segment], forward: bool) -> Sequence[Sequence[Key]]:
    """Each column in the order of the means of its neighbours' positions in the column that comes first in the sweep."""
    rank = _ranks(columns)
    near = _neighbours((s.target, s.source) if forward else (s.source, s.target) for s in segments)
    for column in columns if forward else reversed(columns):
        mean = {k: float(np.mean([rank[n] for n in near.get(k, [k])])) for k in column}
        rank |= {k: i for i, k in enumerate(sorted(column, key=mean.__getitem__))}
    return [sorted(column, key=rank.__getitem__) for column in columns]


def _crossings(columns: Sequence[Sequence[Key]], segments: Sequence[_Segment]) -> int:
    rank = _ranks(columns)
    gaps = ([s for s in segments if s.source in column] for column in columns)
    pairs = itertools.chain.from_iterable(itertools.combinations(gap, 2) for gap in gaps)
    return sum((rank[a.source] - rank[b.source]) * (rank[a.target] - rank[b.target]) < 0 for a, b in pairs)


def _ranks(columns: Iterable[Sequence[Key]]) -> dict[Key, int]:
    return {k: i for column in columns for i, k in enumerate(column)}


def _neighbours(pairs: Iterable[tuple[Key, Key]]) -> dict[Key, list[Key]]:
    found: dict[Key, list[Key]] = {}
    for key, other in pairs:
        found.setdefault(key, []).append(other)
    return found


def _down(diagram: _Diagram) -> dict[Key, float]:
    """How far down each key stands: near its neighbours, so that edges are straight, with room between the boxes."""
    pulls = _pulls(diagram)
    y = {k: float(i) for k, i in _ranks(diagram.columns).items()}
    for sweep, soft in enumerate(SOFT):
        for column in diagram.columns if sweep % 2 == 0 else reversed(diagram.columns):
            near = [[(y[n], pull / (abs(y[n] - y[k]) + soft)) for n, pull in pulls.get(k, [(k, 1.0)])] for k in column]
            wanted, weights = [_mean(pairs) for pairs in near], [sum(w for _, w in pairs) for pairs in near]
            y |= zip(column, _spread(wanted, weights, [diagram.height(k) for k in column]), strict=True)
    top = min(y[k] - diagram.height(k) / 2 for k in y)
    return {k: v - top for k, v in y.items()}


def _pulls(diagram: _Diagram) -> dict[Key, list[tuple[Key, float]]]:
    """The neighbours of each key, and how straight the edge to it should be: the more of them leave one place, the less."""
    leaving = Counter(s.source for s in diagram.segments)
    pulls: dict[Key, list[tuple[Key, float]]] = {}
    for s in diagram.segments:
        strength = STRAIGHT[s.source in diagram.boxes, s.target in diagram.boxes] / leaving[s.source]
        pulls.setdefault(s.source, []).append((s.target, strength))
        pulls.setdefault(s.target, []).append((s.source, strength))
    return pulls


def _spread(wanted: Sequence[float], weights: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The positions nearest to the wanted ones that keep the order and the distances: isotonic regression by pooling."""
    steps = [(a + b) / 2 + GAP for a, b in itertools.pairwise(heights)]
    offsets = list(itertools.accumulate(steps, initial=0.0))
    pools: list[list[tuple[float, float]]] = []
    for pair in zip((w - o for w, o in zip(wanted, offsets, strict=True)), weights, strict=True):
        pools.append([pair])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [_mean(pool) + o for o, pool in zip(offsets, (p for p in pools for _ in p), strict=True)]


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(v * w for v, w in pairs) / sum(w for _, w in pairs)


def _across(diagram: _Diagram, y: Mapping[Key, float]) -> list[tuple[float, float]]:
    """The left and the right edge of each column: steep edges get more room."""
    edges, left = [], 0.0
    for column in diagram.columns:
        right = left + max(diagram.width(k) for k in column)
        edges.append((left, right))
        rise = max((abs(y[s.source] - y[s.target]) for s in diagram.segments if s.source in column), default=0.0)
        left = right + GUTTER + 0.1 * min(rise, 3.0)
    return edges


def _ports(diagram: _Diagram, y: Mapping[Key, float]) -> dict[_Segment, float]:
    """How far down each edge meets its target: in the order of the sources, and the one from nearest in the middle."""
    ports = {s: y[s.target] for s in diagram.segments}
    for key, box in diagram.boxes.items():
        arriving = sorted((s for s in diagram.segments if s.target == key), key=lambda s: (y[s.source], s.inherited))
        middle = min(
            range(len(arriving)), key=lambda i: (abs(y[arriving[i].source] - y[key]), arriving[i].inherited), default=0
        )
        pitch = min(PORT, (box.height - 2 * PAD) / max(1, 2 * max(middle, len(arriving) - 1 - middle)))
        ports |= {s: y[key] + pitch * (i - middle) for i, s in enumerate(arriving)}
    return ports


# how it is drawn


def _cells(panels: Sequence[tuple[str, _Diagram]]) -> Figure:
    """A figure that is as large as its panels, one below the other."""
    placed = [_Placed.of(diagram) for _, diagram in panels]
    tops = list(itertools.accumulate((TITLE + p.height + 2 * MARGIN for p in placed), initial=0.0))
    width = max([p.width for p in placed], default=1.0) + 2 * MARGIN
    figure = _figure(width, tops[-1])
    inches = Affine2D().scale(1, -1).translate(0, tops[-1]) + figure.dpi_scale_trans
    for (type, _), panel, top in zip(panels, placed, tops, strict=False):
        pen = _Pen(figure, Affine2D().translate(MARGIN, top + MARGIN) + inches)
        pen.text(0, 0.07, _plain(type), weight="bold", ha="left")
        panel.draw(attrs.evolve(pen, transform=Affine2D().translate(MARGIN, top + MARGIN + TITLE) + inches))
    return figure


@attrs.frozen
class _Pen:
    """Draws on a figure in lengths of its own."""

    figure: Figure
    transform: Transform

    def add(self, artist: Artist) -> None:
        artist.set_transform(self.transform)
        self.figure.add_artist(artist)

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        self.figure.text(x, y, text, transform=self.transform, **{"ha": "center", "va": "center_baseline"} | options)

    def box(self, left: float, top: float, width: float, height: float, **options: Any) -> None:
        self.add(
            FancyBboxPatch((left, top), width, height, boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.9, **options)
        )


@attrs.frozen
class _Placed:
    """A diagram with the places of its columns, its keys and the ends of its edges."""

    diagram: _Diagram
    edges: Sequence[tuple[float, float]]
    y: Mapping[Key, float]
    ports: Mapping[_Segment, float]

    @classmethod
    def of(cls, diagram: _Diagram) -> _Placed:
        y = _down(diagram)
        return cls(diagram, _across(diagram, y), y, _ports(diagram, y))

    @property
    def width(self) -> float:
        return self.edges[-1][1]

    @property
    def height(self) -> float:
        return max(y + self.diagram.height(k) / 2 for k, y in self.y.items())

    def draw(self, pen: _Pen) -> None:
        layer = {k: i for i, column in enumerate(self.diagram.columns) for k in column}
        for segment in self.diagram.segments:
            self._edge(pen, segment, layer[segment.source])
        for key, box in self.diagram.boxes.items():
            left, right = self.edges[layer[key]]
            _draw_box(pen, box, (left + right) / 2, self.y[key])

    def _edge(self, pen: _Pen, segment: _Segment, layer: int) -> None:
        """An edge is level within a column and bends between two: so it never runs behind a box."""
        (left, right), (far_left, far_right) = self.edges[layer], self.edges[layer + 1]
        arrives = segment.target in self.diagram.boxes
        width, far_width = self.diagram.width(segment.source), self.diagram.width(segment.target)
        start = (left + right + width) / 2 if width else right
        end = (far_left + far_right - far_width) / 2 if arrives else far_right
        curve = _bend((start, self.y[segment.source]), right, far_left, (end, self.ports[segment]))
        look = {"color": ACCENT, "linestyle": (0, (3, 1.5))} if segment.inherited else {"color": LINE}
        if arrives:
            pen.add(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=7, linewidth=0.9, **look))
        else:
            pen.add(PathPatch(curve, fill=False, linewidth=0.9, **look))


def _bend(start: tuple[float, float], leave: float, arrive: float, end: tuple[float, float]) -> Curve:
    """Level from the start, bent between two columns, level to the end."""
    middle = (leave + arrive) / 2
    points = [start, (leave, start[1]), (middle, start[1]), (middle, end[1]), (arrive, end[1])]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    # an arrow's head takes its direction from the last piece, which must not be a point
    return Curve([*points, end], [*codes, Curve.LINETO]) if end[0] - arrive > 1e-6 else Curve(points, codes)


def _draw_box(pen: _Pen, box: _Box, x: float, y: float) -> None:
    """The lines stand in the middle of the box, one below the other."""
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
    """An operation on a ground as long as its weight."""
    share = 1.0 if alone else min(max(weight or 0.0, 0.0), 1.0)
    pen.add(Rectangle((left, y - 0.065), width * share, 0.13, facecolor=SHADE, linewidth=0))
    if alone:
        pen.text(left + width / 2, y, name)
    else:
        pen.text(left + INDENT, y, name, ha="left")
    if weight is not None:
        pen.text(left + width - INDENT, y, f"{weight:.2f}", ha="right")


# the learning curves

#: the colours of a phase's ground
PHASES = {"search": "#eef2f7", "tune": "#fdf0d9", "retune": "#e4f2e4"}
#: a change's name, and its line's colour and style
CHANGES = {"grow": ("growth", "#2a7f3f", "solid"), "remove": ("pruning", ACCENT, "dashed")}
LOSSES = {"train": ("training, mean over each epoch", "#86a5c6"), "valid": ("validation", "#143d6b")}


def _learning(axes: Axes, epochs: Sequence[Record], lineage: Sequence[Record]) -> list[Artist]:
    """Draw the axes; what belongs into the legend."""
    axes.set_xlabel("updates of the weights")
    axes.set_ylabel("loss per example")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    if not epochs:
        return []
    axes.set_xlim(0, 1.01 * epochs[-1]["updates"])  # room for a mark at the end
    changes = list(_changes(epochs, lineage))
    _count_nodes(axes, epochs, changes)
    return [*_losses(axes, epochs), *_phases(axes, epochs), *_lines(axes, changes)]


def _phases(axes: Axes, epochs: Sequence[Record]) -> list[Artist]:
    spans = {}
    start = 0
    for phase, group in itertools.groupby(epochs, lambda r: r["phase"]):
        end = list(group)[-1]["updates"]
        spans[phase] = axes.axvspan(start, end, color=PHASES[phase], linewidth=0, zorder=0, label=f"phase: {phase}")
        start = end
    return list(spans.values())


def _losses(axes: Axes, epochs: Sequence[Record]) -> list[Artist]:
    updates = [r["updates"] for r in epochs]
    dot = "-" if len(epochs) > 1 else "."
    drawn: list[Artist] = []
    for name, (label, colour) in LOSSES.items():
        drawn += axes.plot(updates, [r[name] for r in epochs], dot, color=colour, linewidth=1.2, label=label)
    return [*drawn, *_mark_best(axes, _best(epochs)), *_scale(axes, epochs)]


def _mark_best(axes: Axes, best: Record) -> list[Line2D]:
    look: dict[str, Any] = {"color": "white", "markeredgecolor": LOSSES["valid"][1], "markersize": 5}
    return axes.plot(best["updates"], best["valid"], "o", label=f"best network, {best['valid']:.4g}", **look)


def _best(epochs: Sequence[Record]) -> Record:
    """The epoch whose network was kept: only networks of the latest kind of phase are compared."""
    kinds = list(PHASES)
    latest = max((r["phase"] for r in epochs), key=kinds.index)
    return min((r for r in epochs if r["phase"] == latest), key=lambda r: r["valid"])


def _scale(axes: Axes, epochs: Sequence[Record]) -> list[Artist]:
    """Scale the axis of the losses; mark what lies above it."""
    losses = np.array([[r[name] for r in epochs] for name in LOSSES], dtype=float)
    scale, bottom, top = _range(losses)
    axes.set_yscale(scale)
    axes.set_ylim(bottom, top)
    for (_, colour), values in zip(LOSSES.values(), losses, strict=True):
        at = [epochs[i]["updates"] for i in _peaks(values, top)]
        axes.plot(at, [0.98] * len(at), "^", color=colour, markersize=4, transform=axes.get_xaxis_transform())
    if losses.max() <= top:
        return []
    label = f"above the axis, up to {losses.max():.4g}"
    return [Line2D([], [], linestyle="", marker="^", color=LINE, markersize=4, label=label)]


def _range(losses: Array) -> tuple[str, float, float]:
    """The scale and the ends of the axis: logarithmic if most losses span a decade, and up to where outliers begin."""
    scale = "log" if losses.min() > 0 and np.quantile(losses, 0.9) > 10 * losses.min() else "linear"
    to, back = (np.log, np.exp) if scale == "log" else (np.array, np.array)
    low, high = np.quantile(to(losses), (0.25, 0.75))
    # Tukey's outer fence, and more than that where a long flat end makes the quartiles one
    top = min(to(losses).max(), high + max(3 * (high - low), abs(high) / 4))
    bottom = to(losses).min()
    room = 0.05 * (top - bottom) or 1.0
    return scale, float(back(bottom - room)), float(back(top + room))


def _peaks(values: Array, top: float) -> Iterator[int]:
    """The position of the largest value of each run of values above the top."""
    for above, run in itertools.groupby(range(len(values)), lambda i: bool(values[i] > top)):
        if above:
            yield max(run, key=values.__getitem__)


def _changes(epochs: Sequence[Record], lineage: Sequence[Record]) -> Iterator[tuple[str, int, Record]]:
    """Growths and prunings, each with the updates behind it: those of the last epoch before it, as its stage tells."""
    searched = {"search"}
    for record in lineage:
        stage, kind = record["stage"], record["kind"]
        if kind == "restore":  # the search is over: what is pruned now is pruned for the retuning
            searched = {"search", "tune"}
        if kind in CHANGES:
            here = set() if kind == "grow" else searched
            before = (r["updates"] for r in epochs if r["stage"] < stage or (r["stage"] == stage and r["phase"] in here))
            yield kind, max(before, default=0), record


def _lines(axes: Axes, changes: Sequence[tuple[str, int, Record]]) -> list[Artist]:
    drawn = {}
    for kind, at, _ in changes:
        name, colour, style = CHANGES[kind]
        drawn[kind] = axes.axvline(at, color=colour, linestyle=style, linewidth=0.9, zorder=1, label=name)
    return [drawn[kind] for kind in CHANGES if kind in drawn]


def _count_nodes(axes: Axes, epochs: Sequence[Record], changes: Sequence[tuple[str, int, Record]]) -> None:
    """Write how many nodes there are above each growth, as far as there is room."""
    counted = [(0, epochs[0]["nodes"]), *((at, record["nodes"]) for kind, at, record in changes if kind == "grow")]
    shown: list[tuple[int, str]] = []
    for at, nodes in counted:
        text = "+".join(map(str, nodes.values()))
        room = epochs[-1]["updates"] * 0.014 * (len(text) + 1)
        if not shown or at - shown[-1][0] > room:
            shown.append((at, text))
    top = axes.secondary_xaxis("top")
    top.set_xticks([at for at, _ in shown], [text for _, text in shown])
    top.tick_params(length=0, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("nodes in " + " + ".join(map(_plain, epochs[0]["nodes"])))
