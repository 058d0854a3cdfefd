"""The places of boxes and edges of a diagram, in inches from the upper left corner."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from nasframe.pictures.diagram import PAD, PORT, Diagram, Key, Segment, ranks

#: inches: the distance between boxes of a column, and the least distance between columns
GAP, GUTTER = 0.16, 0.3
#: an edge pulls at its ends with a strength that falls with its slope, as 1 / (|slope| + s). The constants s of the sweeps decrease, so
#: that most edges become level and the others bend at few places
SOFT = [0.5 * 0.97**i for i in range(200)]
#: the strength of a piece of an edge, by whether it starts at a box and whether it ends at one: rails are kept straight
STRAIGHT = {(True, True): 3.0, (True, False): 4.0, (False, False): 8.0, (False, True): 0.2}


@attrs.frozen
class Placed:
    """A diagram with its layout.

    Attributes:
        diagram: the diagram.
        edges: the left and the right edge of each column.
        y: the vertical centre of each box and rail.
        ports: the vertical position at which each segment meets its target.
    """

    diagram: Diagram
    edges: Sequence[tuple[float, float]]
    y: Mapping[Key, float]
    ports: Mapping[Segment, float]

    @classmethod
    def of(cls, diagram: Diagram) -> Placed:
        """Return the layout of a diagram."""
        y = _down(diagram)
        return cls(diagram, _across(diagram, y), y, _ports(diagram, y))

    @property
    def width(self) -> float:
        """Return the width of the whole diagram in inches."""
        return self.edges[-1][1]

    @property
    def height(self) -> float:
        """Return the height of the whole diagram in inches."""
        return max(y + self.diagram.height(k) / 2 for k, y in self.y.items())


# How a layout comes about: the columns follow from the graph (diagram.py), the order within a column from counting
# crossings, and here the vertical positions from pulling all edges straight, with the order and the least distances as
# constraints. The horizontal positions and the ports follow from these.
def _down(diagram: Diagram) -> dict[Key, float]:
    """Return the vertical centre of each key: near its neighbours, so that edges are straight, with gaps between boxes.

    This minimises sum w |y_a - y_b| over the segments by iteratively reweighted least squares, one column after the other.
    """
    pulls = _pulls(diagram)
    # One inch for each rank: any start with the right order will do.
    y = {k: float(i) for k, i in ranks(diagram.columns).items()}
    for sweep, soft in enumerate(SOFT):
        # to and fro, so that neither end of the diagram decides
        # With the other columns fixed, the best positions of one column are weighted means of its neighbours' positions,
        # except that boxes may not overlap.
        for column in diagram.columns if sweep % 2 == 0 else reversed(diagram.columns):
            # The weight 1 / |y_a - y_b| turns a square into an absolute value: the sum of w (y_a - y_b)^2 is then that of
            # |y_a - y_b|. Absolute values leave most edges level, squares would tilt all of them a little. A box without
            # neighbours stays where it is.
            near = [[(y[n], pull / (abs(y[n] - y[k]) + soft)) for n, pull in pulls.get(k, [(k, 1.0)])] for k in column]
            wanted, weights = [_mean(pairs) for pairs in near], [sum(w for _, w in pairs) for pairs in near]
            y |= zip(column, _spread(wanted, weights, [diagram.height(k) for k in column]), strict=True)
    top = min(y[k] - diagram.height(k) / 2 for k in y)
    return {k: v - top for k, v in y.items()}


def _pulls(diagram: Diagram) -> dict[Key, list[tuple[Key, float]]]:
    """Return the neighbours of each key with the strength of the segment between them, divided by the segments of its source."""
    leaving = Counter(s.source for s in diagram.segments)
    pulls: dict[Key, list[tuple[Key, float]]] = {}
    for s in diagram.segments:
        strength = STRAIGHT[s.source in diagram.boxes, s.target in diagram.boxes] / leaving[s.source]
        pulls.setdefault(s.source, []).append((s.target, strength))
        pulls.setdefault(s.target, []).append((s.source, strength))
    return pulls


def _spread(wanted: Sequence[float], weights: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Return the positions nearest to the wanted ones that keep order and distances, by isotonic regression (pooling)."""
    steps = [(a + b) / 2 + GAP for a, b in itertools.pairwise(heights)]
    # without the offsets the positions have to be ascending: that is isotonic regression
    offsets = list(itertools.accumulate(steps, initial=0.0))
    pools: list[list[tuple[float, float]]] = []
    for pair in zip((w - o for w, o in zip(wanted, offsets, strict=True)), weights, strict=True):
        # Pool adjacent violators: neighbours in the wrong order get the weighted mean of both, and keep it from then on.
        # A pool is a list of (wanted position, weight); all of its boxes move together.
        pools.append([pair])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return [_mean(pool) + o for o, pool in zip(offsets, (p for p in pools for _ in p), strict=True)]


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(v * w for v, w in pairs) / sum(w for _, w in pairs)


def _across(diagram: Diagram, y: Mapping[Key, float]) -> list[tuple[float, float]]:
    """Return the left and the right edge of each column. Steep edges get more room."""
    # An edge bends in the gutter behind the column of its source. Beyond three inches a rise makes no more room.
    edges, left = [], 0.0
    for column in diagram.columns:
        right = left + max(diagram.width(k) for k in column)
        edges.append((left, right))
        rise = max((abs(y[s.source] - y[s.target]) for s in diagram.segments if s.source in column), default=0.0)
        left = right + GUTTER + 0.1 * min(rise, 3.0)
    return edges


def _ports(diagram: Diagram, y: Mapping[Key, float]) -> dict[Segment, float]:
    """Return the vertical position at which each segment meets its target: in the order of the sources, the nearest in the middle."""
    ports = {s: y[s.target] for s in diagram.segments}
    for key, box in diagram.boxes.items():
        arriving = sorted((s for s in diagram.segments if s.target == key), key=lambda s: (y[s.source], s.inherited))
        # the edge from the nearest source meets the box in its middle, so that it is straight
        middle = min(
            range(len(arriving)), key=lambda i: (abs(y[arriving[i].source] - y[key]), arriving[i].inherited), default=0
        )
        # As far apart as usual, or as far as the box is high: the outermost port must be within the side of the box.
        pitch = min(PORT, (box.height - 2 * PAD) / max(1, 2 * max(middle, len(arriving) - 1 - middle)))
        ports |= {s: y[key] + pitch * (i - middle) for i, s in enumerate(arriving)}
    return ports
