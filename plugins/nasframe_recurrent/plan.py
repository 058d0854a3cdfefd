"""How a cell is put so that a step of it is few calls: the plan that `fused` computes by. It follows from the structure alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe import Cell, Pointwise
from nasframe_recurrent.edges import KEPT


class NoPlanError(Exception):
    """Why a cell has no fast form."""


@attrs.frozen
class Slot:
    """A term of a candidate, n_h rows of a: its weights of x and of the state, each with the input it is for, and its bias."""

    site: str
    candidate: str
    x: tuple[tuple[str, str], ...]
    s: tuple[tuple[str, str], ...]
    bias: str | None


@attrs.frozen
class Edge:
    """What a state adds to a node: told.function(*slots, state), times a share (a combination weight) and a gate, by number."""

    state: int
    node: int
    told: Pointwise
    slots: tuple[Slot, ...]
    share: int
    gate: int

    @property
    def kind(self) -> tuple[Callable[..., Tensor], tuple[bool, ...]]:
        """Edges of one kind are computed by one call."""
        return self.told.function, tuple(bool(slot.s) for slot in self.slots)


@attrs.frozen
class Call:
    """Edges of one kind from one state: what they compute, the slots of each argument, and the rows of y that come out."""

    told: Pointwise
    terms: tuple[slice, ...]
    rows: slice

    @property
    def count(self) -> int:
        """How many rows."""
        return self.rows.stop - self.rows.start


@attrs.frozen
class Fan:
    """All that goes out from a state: its slots, of which `taking` take the state in, its rows of y, and the nodes it feeds."""

    state: int
    calls: tuple[Call, ...]
    slots: slice
    taking: slice
    rows: slice
    nodes: slice

    @property
    def form(self) -> tuple[Any, ...]:
        """What is computed of its slots, counted from the first of them."""
        first = self.slots.start
        return tuple((c.told.function, c.count, *((k.start - first, k.stop - first) for k in c.terms)) for c in self.calls)

    @property
    def products(self) -> list[tuple[slice, slice]]:
        """Slots, and rows of y of which each is computed from one of them: all at once where no call has several terms."""
        if all(len(call.terms) < 2 for call in self.calls):
            return [(self.slots, slice(self.rows.start, self.rows.start + self.slots.stop - self.slots.start))]
        return [(term, call.rows) for call in self.calls for term in call.terms]


@attrs.frozen(eq=False)
class Plan:
    """A cell, put so that a step of it is few calls.

    Args:
        shape: of M: states, rows of y.
        outputs: the states whose mean is h_t.
        slots: of all fans; the first `projected` of them take in x or a bias.
        constants: the shares that are no candidate's, behind those that are.
        entries: for each edge its place in M, flat; its share; its gate, of 1, g_1, g_2, ..., 1 - g_1, 1 - g_2, ...
    """

    shape: tuple[int, int]
    outputs: tuple[int, ...]
    fans: tuple[Fan, ...]
    slots: tuple[Slot, ...]
    projected: int
    constants: tuple[float, ...]
    entries: Tensor

    @functools.cached_property
    def alike(self) -> list[list[Fan]]:
        """The fans, those together that follow each other and have one form: of a Two-to-One supernet all of them."""
        forms = ((fan.state - place, fan.form) for place, fan in enumerate(self.fans))
        groups = itertools.groupby(zip(forms, self.fans, strict=True), key=lambda pair: pair[0])
        return [[fan for _, fan in group] for _, group in groups]

    @property
    def chained(self) -> bool:
        """Whether h_t is the last node."""
        return self.outputs == (self.shape[0] - 1,)


def planned(cell: Cell, outputs: Sequence[str]) -> Plan | str:
    """The plan of a cell that puts out the mean of these states; or why there is none."""
    try:
        return _planned(cell, outputs)
    except NoPlanError as reason:
        return str(reason)


def _planned(cell: Cell, outputs: Sequence[str]) -> Plan:
    number = {"h": 0, "xh": 0} | {node.id: i for i, node in enumerate(cell.nodes, 1)}
    edges = [*candidates(cell, number), *inheritances(cell, number)]
    if not edges:
        raise NoPlanError("all of its operations are zero")
    slots: list[Slot] = []
    fans: list[Fan] = []
    places: list[tuple[int, int, Edge]] = []
    for state in sorted({edge.state for edge in edges}):
        own = [edge for edge in edges if edge.state == state]
        first = fans[-1].rows.stop if fans else 0
        calls, new, rows = grouped(own, len(slots), first)
        start, taking = len(slots), sum(bool(slot.s) for slot in new)
        slots += new
        places += [(edge.node, row, edge) for row, edge in rows]
        reached = [edge.node for edge in own]
        fans.append(
            Fan(
                state,
                calls,
                slice(start, len(slots)),
                slice(start, start + taking),
                slice(first, calls[-1].rows.stop),
                slice(min(reached), max(reached) + 1),
            )
        )
    count = fans[-1].rows.stop
    return Plan(
        (len(cell.nodes) + 1, count),
        tuple(number[o] for o in outputs),
        tuple(fans),
        tuple(slots),
        max((fan.slots.stop for fan in fans if any(s.x or s.bias for s in slots[fan.slots])), default=0),
        tuple(1 / len(node.inherits) for node in cell.nodes for _ in node.inherits),
        torch.tensor([(node * count + row, edge.share, edge.gate) for node, row, edge in places]).t().contiguous(),
    )


def grouped(edges: Sequence[Edge], slot: int, row: int) -> tuple[tuple[Call, ...], list[Slot], list[tuple[int, Edge]]]:
    """The calls for the edges from a state, their slots, and each edge's row of y, numbered from these numbers on.

    Slots that take the state in come first, and edges without any slot, which all give the same row, last.
    """
    kinds: dict[Any, list[Edge]] = {}
    for edge in sorted(edges, key=lambda e: (not e.slots, not any(e.kind[1]))):
        kinds.setdefault(edge.kind, []).append(edge)
    blocks = [(kind, k) for kind in kinds for k in range(len(kind[1]))]
    slots: list[Slot] = []
    terms: dict[Any, slice] = {}
    for kind, k in sorted(blocks, key=lambda block: not block[0][1][block[1]]):
        terms[kind, k] = slice(slot + len(slots), slot + len(slots) + len(kinds[kind]))
        slots += [edge.slots[k] for edge in kinds[kind]]
    calls: list[Call] = []
    rows: list[tuple[int, Edge]] = []
    for kind, same in kinds.items():
        count = len(same) if kind[1] else 1
        calls.append(Call(same[0].told, tuple(terms[kind, k] for k in range(len(kind[1]))), slice(row, row + count)))
        rows += [(row + i % count, edge) for i, edge in enumerate(same)]
        row += count
    return tuple(calls), slots, rows


def candidates(cell: Cell, number: Mapping[str, int]) -> Iterator[Edge]:
    """An edge for each candidate that is not zero."""
    gates = [node.id for node in cell.nodes if node.inherits]
    every = ((site, candidate) for site in cell.sites for candidate in site.candidates)
    for share, (site, candidate) in enumerate(every):
        operation, state = candidate.operation, number.get(site.inputs[-1])
        if operation.zero:
            continue
        told, what = operation.pointwise(), f"operation {operation.name!r} at {site.id}"
        if told is None:
            raise NoPlanError(f"{what} does not tell its pointwise form")
        slots = []
        for term in told.terms:
            weights = [(name, input) for name, input in zip(term.weights, site.inputs, strict=True) if name is not None]
            x, s = (tuple(pair for pair in weights if pair[1] in inputs) for inputs in ({"x", "xh"}, number))
            if any(number[input] != state for _, input in s):
                raise NoPlanError(f"{what} has a linear map of another state than its last")
            slots.append(Slot(site.id, str(candidate.id), x, s, term.bias))
        if state is None:
            raise NoPlanError(f"{what} has {site.inputs[-1]!r} for its last input, which is no state")
        gate = gates.index(site.node) + 1 if site.node in gates else 0
        yield Edge(state, number[site.node], told, tuple(slots), share, gate)


def inheritances(cell: Cell, number: Mapping[str, int]) -> Iterator[Edge]:
    """An edge for each state that a node inherits."""
    gated = [node for node in cell.nodes if node.inherits]
    shares = itertools.count(sum(len(site.candidates) for site in cell.sites))
    for gate, node in enumerate(gated, len(gated) + 1):
        for state in node.inherits:
            yield Edge(number[state], number[node.id], KEPT, (), next(shares), gate)
