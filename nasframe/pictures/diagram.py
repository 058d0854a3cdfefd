"""The diagram of a cell: boxes in columns, and edges from one column to the next."""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
import numpy as np

from nasframe.interfaces.part import short_name
from nasframe.pictures.style import QUIET, SHADE, plain, width_of
from nasframe.structure.address import Address
from nasframe.structure.structure import Cell, Node, Site, Structure

#: inches: the height of a line, the padding of a box, the padding of a bar, the distance between edges that end at a box
ROW, PAD, INDENT, PORT = 0.15, 0.06, 0.04, 0.1
#: the number of sweeps that look for an order with few crossings
SWEEPS = 24
#: the symbols of the inputs of a cell
SYMBOLS = {"x": "$x$", "h": "$h_{t-1}$"}

Key = tuple[str, ...]
Rows = tuple[tuple[str, float | None], ...]
#: the mixing weights of each undecided site, by address
Mixing = Mapping[str, Sequence[float]]
OUTPUT: Key = ("output",)


@attrs.frozen
class Box:
    """A state or a site as it is drawn.

    Attributes:
        name: the first line.
        rows: an operation with its mixing weight, if any, for each further line.
        note: the last line.
        fill: the colour.
        arrivals: the number of edges that end at it, which the height has to allow.
        least: the least width in inches.
    """

    name: str = ""
    rows: Rows = ()
    note: str = ""
    fill: str = "white"
    arrivals: int = 0
    least: float = 0.3

    @property
    def width(self) -> float:
        """Return the width of its widest line, in inches."""
        # room for a number behind the name, in boxes that show mixing weights
        number = any(weight is not None for _, weight in self.rows) * (width_of("0.00") + 2 * INDENT)
        texts = [width_of(self.name, weight="bold"), width_of(self.note, style="italic")]
        return max([self.least, *(2 * PAD + w for w in (*texts, *(width_of(n) + 2 * INDENT + number for n, _ in self.rows)))])

    @property
    def height(self) -> float:
        """Return the height that its lines and edges need, in inches."""
        return max(ROW * self.lines + PAD * (1 + (self.lines > 1)), PORT * (self.arrivals + 1))

    @property
    def lines(self) -> int:
        """Return the number of lines of text."""
        return bool(self.name) + len(self.rows) + bool(self.note)


@attrs.frozen
class Segment:
    """An edge, or its piece between two neighbouring columns."""

    source: Key
    target: Key
    inherited: bool = False


@attrs.frozen
class Diagram:
    """Columns of boxes and rails. A rail is the place where an edge passes a column; it is a key without a box."""

    columns: Sequence[Sequence[Key]]
    boxes: Mapping[Key, Box]
    segments: Sequence[Segment]

    def width(self, key: Key) -> float:
        """Return the width of a box, and 0 for a rail."""
        return self.boxes[key].width if key in self.boxes else 0.0

    def height(self, key: Key) -> float:
        """Return the height of a box, and 0 for a rail."""
        return self.boxes[key].height if key in self.boxes else 0.0


def diagram(structure: Structure, type: str, mixing: Mixing) -> Diagram:
    """Return the diagram of a cell type; `mixing` as for `draw_cell`."""
    cell = structure.cell(type)
    rows = {s.id: _rows(s, mixing.get(Address.of(type, s.id))) for s in cell.sites}
    links = _links(cell, structure.backbone.outputs(cell) if cell.nodes else ())
    # the height of a box depends on the edges that end at it, so that the links come first
    boxes = {k: attrs.evolve(b, arrivals=sum(k == s.target for s in links)) for k, b in _boxes(cell, rows).items()}
    # An edge over several columns is divided into pieces, so that each piece connects neighbouring columns. What remains is
    # the layered graph for which the methods of Sugiyama et al. are made.
    layers = _layers(boxes, links)
    segments = list(dict.fromkeys(itertools.chain.from_iterable(_routed(link, layers) for link in links)))
    # The key of a rail contains its column: ("rail", column, source).
    places = layers | {s.target: int(s.target[1]) for s in segments if s.target not in boxes}
    columns = [[k for k, layer in places.items() if layer == i] for i in range(max(places.values()) + 1)]
    return Diagram(_ordered(columns, segments), boxes | _even(boxes, columns), segments)


def _even(boxes: Mapping[Key, Box], columns: Iterable[Sequence[Key]]) -> dict[Key, Box]:
    """Return the boxes of the sites, those of a column all as wide as the widest of them."""
    sites = [[k for k in column if k[0] == "site"] for column in columns]
    return {k: attrs.evolve(boxes[k], least=max(boxes[n].width for n in keys)) for keys in sites for k in keys}


def _rows(site: Site, weights: Sequence[float] | None) -> Rows:
    names = [plain(short_name(c.operation)) for c in site.candidates]
    shown = [None] * len(names) if site.decided or weights is None else map(float, weights)
    return tuple(zip(names, shown, strict=True))


def _boxes(cell: Cell, rows: Mapping[str, Rows]) -> dict[Key, Box]:
    inside = {n.id for n in cell.nodes}
    # First the input states, in the order in which the sites read them: before any sweep, the boxes of a column have the
    # order of this dictionary.
    boxes = {_state(i): Box(SYMBOLS.get(i, plain(i)), fill=QUIET) for i in _read_states(cell) if i not in inside}
    for node in cell.nodes:
        boxes[_state(node.id)] = Box(plain(node.id), note=_note(node))
    for site in cell.sites:
        key = _place(cell, site)
        boxes[key] = attrs.evolve(boxes.get(key, Box(fill=SHADE if site.decided else "white")), rows=rows[site.id])
    return boxes | {OUTPUT: Box("output", fill=QUIET)}


def _links(cell: Cell, outputs: Sequence[str]) -> list[Segment]:
    inputs = [Segment(_state(i), _place(cell, s)) for s in cell.sites for i in s.inputs]
    sites = [Segment(_place(cell, s), _state(s.node)) for s in cell.sites if not _merged(cell)]
    gates = [Segment(_state(i), _state(n.id), inherited=True) for n in cell.nodes for i in n.inherits]
    return [*inputs, *sites, *gates, *(Segment(_state(o), OUTPUT) for o in outputs)]


def _read_states(cell: Cell) -> list[str]:
    return [i for s in cell.sites for i in s.inputs] + [i for n in cell.nodes for i in n.inherits]


def _merged(cell: Cell) -> bool:
    """Return whether operations are written in the boxes of their nodes, because each node has one site."""
    # As in Two-to-One, where site and node have the same name: two boxes for each of them would double the picture.
    return len({s.node for s in cell.sites}) == len(cell.sites)


def _place(cell: Cell, site: Site) -> Key:
    return _state(site.node) if _merged(cell) else ("site", site.id)


def _state(id: str) -> Key:
    return ("state", id)


def _note(node: Node) -> str:
    return plain("inherits " + ", ".join(node.inherits)) if node.inherits else ""


def _layers(boxes: Iterable[Key], links: Iterable[Segment]) -> dict[Key, int]:
    """Return the column of each box: after all its inputs, and for a site just before its node."""
    before: dict[Key, set[Key]] = {key: set() for key in boxes}
    behind: dict[Key, set[Key]] = {key: set() for key in boxes}
    for link in links:
        before[link.target].add(link.source)
        behind[link.source].add(link.target)
    layers: dict[Key, int] = {}
    # the longest path from an input gives the column
    for key in graphlib.TopologicalSorter(before).static_order():
        layers[key] = 1 + max((layers[k] for k in before[key]), default=-1)
    # The longest path puts a site right behind its input. Before its node it is easier to read, as all sites of a node are
    # then in one column.
    return {k: min(layers[n] for n in behind[k]) - 1 if k[0] == "site" else layers[k] for k in boxes}


def _routed(link: Segment, layers: Mapping[Key, int]) -> Iterator[Segment]:
    """Yield the pieces of an edge. All edges from a state share its rails, so that they are one line until they separate."""
    # Dashed edges have rails of their kind, and do not share a line with the others.
    kind = "inherited" if link.inherited else "rail"
    between = range(layers[link.source] + 1, layers[link.target])
    stops = [link.source, *((kind, str(i), *link.source) for i in between), link.target]
    return (Segment(a, b, link.inherited) for a, b in itertools.pairwise(stops))


def _ordered(columns: Sequence[Sequence[Key]], segments: Sequence[Segment]) -> Sequence[Sequence[Key]]:
    """Return the columns in the order with the fewest crossings that barycentric sweeps find (Sugiyama et al. 1981)."""
    tried = [columns]
    for sweep in range(SWEEPS):
        tried.append(_swept(tried[-1], segments, forward=sweep % 2 == 0))
    # sweeps do not always improve the order, so that the best of all is taken
    return min(tried, key=lambda columns: _crossings(columns, segments))


def _swept(columns: Sequence[Sequence[Key]], segments: Sequence[Segment], forward: bool) -> Sequence[Sequence[Key]]:
    """Sort each column by the mean position of its neighbours in the previous column of the sweep."""
    rank = ranks(columns)
    near = _neighbours((s.target, s.source) if forward else (s.source, s.target) for s in segments)
    for column in columns if forward else reversed(columns):
        # A key without neighbours on that side keeps its position.
        mean = {k: float(np.mean([rank[n] for n in near.get(k, [k])])) for k in column}
        # At once, so that the next column of the sweep sees the new order of this one.
        rank |= {k: i for i, k in enumerate(sorted(column, key=mean.__getitem__))}
    return [sorted(column, key=rank.__getitem__) for column in columns]


def _crossings(columns: Sequence[Sequence[Key]], segments: Sequence[Segment]) -> int:
    rank = ranks(columns)
    # Two pieces between the same columns cross if their ends are in opposite orders. Pairs are few enough to try all of
    # them.
    gaps = ([s for s in segments if s.source in column] for column in columns)
    pairs = itertools.chain.from_iterable(itertools.combinations(gap, 2) for gap in gaps)
    return sum((rank[a.source] - rank[b.source]) * (rank[a.target] - rank[b.target]) < 0 for a, b in pairs)


def ranks(columns: Iterable[Sequence[Key]]) -> dict[Key, int]:
    """Return the position of each key in its column."""
    return {k: i for column in columns for i, k in enumerate(column)}


def _neighbours(pairs: Iterable[tuple[Key, Key]]) -> dict[Key, list[Key]]:
    found: dict[Key, list[Key]] = {}
    for key, other in pairs:
        found.setdefault(key, []).append(other)
    return found
