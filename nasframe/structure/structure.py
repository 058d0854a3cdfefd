"""What stands where: one frozen type for the supernet, the pruned, the grown and the final network alike."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe.errors import PluginError, StrategyError, StructureError
from nasframe.interfaces.operation import Operation
from nasframe.interfaces.part import Part, to_plain
from nasframe.structure.address import Address

SCHEMA = 1


@attrs.frozen
class Candidate:
    """An operation at a site. Its id is unique in the structure and never reused: the key of weights and history."""

    id: int
    operation: Operation


@attrs.frozen
class Site:
    """A place where candidates stand: an edge (one input) or a node's pair of inputs (two)."""

    id: str
    node: str
    inputs: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def decided(self) -> bool:
        """Whether one candidate is left: such a site has no alphas, and its weight is one."""
        return len(self.candidates) == 1


@attrs.frozen
class Node:
    """A node of a cell. One that `inherits` puts out (1 - g) * inherited + g * own, where inherited is the mean of the
    states that it names, and the gate g starts at zero.
    """

    id: str
    inherits: tuple[str, ...] = ()


@attrs.frozen
class Cell:
    """The structure of a cell type, shared by its instances. `next_node` numbers nodes, so that no id comes twice."""

    nodes: tuple[Node, ...] = ()
    sites: tuple[Site, ...] = ()
    next_node: int = 0

    def site(self, id: str) -> Site:
        """The site of that id."""
        return next(s for s in self.sites if s.id == id)

    def sites_of(self, node: str) -> tuple[Site, ...]:
        """Return the sites whose outputs the node of that id adds up, in order."""
        return tuple(s for s in self.sites if s.node == node)

    def replace_site(self, site: Site) -> Cell:
        """The same cell with the site of the same id replaced."""
        return attrs.evolve(self, sites=tuple(site if s.id == site.id else s for s in self.sites))

    def reaching(self, outputs: Sequence[str]) -> Cell:
        """The same cell without the nodes that do not reach any of these states."""
        reached = set(outputs)
        for node in reversed(self.nodes):
            if node.id in reached:
                reached |= {*node.inherits, *(i for s in self.sites if s.node == node.id for i in s.inputs)}
        return attrs.evolve(
            self,
            nodes=tuple(n for n in self.nodes if n.id in reached),
            sites=tuple(s for s in self.sites if s.node in reached),
        )


class BackboneBase(Part):
    """The part of a backbone that concerns structures alone: which states a cell receives and returns.

    `nasframe.Backbone` extends it by what concerns modules, so that a structure can be described, edited and stored
    without building a network.
    """

    kind: ClassVar[str] = "backbone"

    #: the states that a cell receives, by the names under which its sites refer to them
    inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return the structure of a supernet with `nodes` nodes in each cell, for a task with these sizes."""

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """Return the states that a cell outputs; by default its last node. Optional."""
        return tuple(node.id for node in cell.nodes[-1:])


@attrs.frozen
class Structure:
    """All that is needed to rebuild a network but its numbers.

    `sizes` are what the task asks for (for a recurrent task: inputs, outputs). `cells` maps each cell type to its cell.
    """

    backbone: BackboneBase
    sizes: tuple[tuple[str, int], ...]
    cells: tuple[tuple[str, Cell], ...]
    next_id: int = 0

    def __deepcopy__(self, memo: object) -> Structure:
        return self  # nothing of it ever changes, and a copy of a network need not copy it

    def cell(self, type: str) -> Cell:
        """The cell of that type."""
        return dict(self.cells)[type]

    def size(self, name: str) -> int:
        """The size of that name, as the task gave it."""
        sizes = dict(self.sizes)
        if name not in sizes:
            raise StructureError(
                f"the structure has no size {name!r}, which its backbone needs; it has {', '.join(sizes) or 'none'}"
            )
        return sizes[name]

    def sites(self) -> Iterator[tuple[Address, Site]]:
        """Every site with its address, in order."""
        for type, cell in self.cells:
            for site in cell.sites:
                yield Address.of(type, site.id), site

    def nodes(self) -> Iterator[tuple[Address, Node]]:
        """Every node with its address, in order."""
        for type, cell in self.cells:
            for node in cell.nodes:
                yield Address.of(type, node.id), node

    def sites_of(self, node: Address) -> dict[Address, Site]:
        """Return the sites of the node at that address, in order."""
        return {Address.of(node.cell, s.id): s for s in self.cell(node.cell).sites_of(node.id)}

    @property
    def decided(self) -> bool:
        """Whether this is an architecture: one candidate at each site."""
        return all(site.decided for _, site in self.sites())

    def replace_cell(self, type: str, cell: Cell, new_candidates: int = 0) -> Structure:
        """The same structure with another cell of that type, which used `new_candidates` ids from `next_id` on."""
        cells = tuple((t, cell if t == type else c) for t, c in self.cells)
        return attrs.evolve(self, cells=cells, next_id=self.next_id + new_candidates)

    def replace_site(self, address: Address, site: Site, new_candidates: int = 0) -> Structure:
        """The same structure with another site of the same id at that address; `new_candidates` as for `replace_cell`."""
        return self.replace_cell(address.cell, self.cell(address.cell).replace_site(site), new_candidates)

    def with_backbone(self, backbone: BackboneBase, sizes: Mapping[str, int]) -> Structure:
        """The same cells in another backbone of their kind, of other width or depth, say, for a task of these sizes."""
        own = backbone.initial(sizes, 1)
        if dict(self.cells).keys() != dict(own.cells).keys():
            raise StructureError(
                f"the structure has the cells {', '.join(dict(self.cells))}, but backbone {backbone.name!r} has "
                f"{', '.join(dict(own.cells))}; give a backbone of the kind that the cells were found in"
            )
        moved = attrs.evolve(self, backbone=own.backbone, sizes=own.sizes)
        moved.check()
        return moved

    def digest(self) -> str:
        """A short name for exactly this structure."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": SCHEMA,
            "backbone": to_plain(self.backbone),
            "sizes": dict(self.sizes),
            "next_id": self.next_id,
            "cells": {
                type: {
                    "next_node": cell.next_node,
                    "nodes": [{"id": n.id} | ({"inherits": list(n.inherits)} if n.inherits else {}) for n in cell.nodes],
                    "sites": [
                        {
                            "id": s.id,
                            "node": s.node,
                            "inputs": list(s.inputs),
                            "candidates": [{"id": c.id} | to_plain(c.operation) for c in s.candidates],
                        }
                        for s in cell.sites
                    ],
                }
                for type, cell in self.cells
            },
        }

    def to_json(self) -> str:
        """The structure as text, from which `from_json` makes an equal one."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], make: Callable[[str, Any], Any]) -> Structure:
        """The structure that these plain values describe; `make(kind, description)` resolves its parts."""
        try:
            if data["schema"] != SCHEMA:
                raise StructureError(
                    f"the structure has schema {data['schema']!r}; this version reads schema {SCHEMA}: "
                    "write it again with this version"
                )
            structure = cls(
                backbone=make("backbone", data["backbone"]),
                sizes=tuple((str(k), _whole(v, "a size", 1)) for k, v in data["sizes"].items()),
                cells=tuple((_word(type, "a cell type"), _cell(cell, make)) for type, cell in data["cells"].items()),
                next_id=_whole(data["next_id"], "next_id"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StructureError(f"this is not the JSON of a structure ({type(error).__name__}: {error})") from error
        except (PluginError, StrategyError) as error:
            raise StructureError(
                f"the structure cannot be rebuilt here: {error}. `nasframe plugins` lists what is installed"
            ) from error
        structure.check()
        return structure

    @classmethod
    def from_json(cls, text: str, make: Callable[[str, Any], Any]) -> Structure:
        """The structure that this text describes; `make`, as of `nasframe.installed()`, resolves its parts."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(f"the structure is not JSON: {error}") from error
        return cls.from_dict(data, make)

    def check(self) -> None:
        """Refuse what no network can be built from: ids that come twice, empty sites, inputs that do not exist."""
        ids = [c.id for _, s in self.sites() for c in s.candidates]
        if len(set(ids)) != len(ids) or any(not 0 <= i < self.next_id for i in ids):
            raise StructureError(f"candidate ids must be distinct and below next_id = {self.next_id}; they are {ids}")
        for type, cell in self.cells:
            nodes = [n.id for n in cell.nodes]
            for kind, names in (("node", nodes), ("site", [s.id for s in cell.sites])):
                if len(set(names)) != len(names):
                    raise StructureError(f"a {kind} id comes twice in cell {type!r}: {names}")
            if cell.next_node < len(nodes):
                raise StructureError(f"next_node of cell {type!r} is {cell.next_node}, but it has {len(nodes)} nodes already")
            bare = set(nodes) - {s.node for s in cell.sites}
            if bare:
                raise StructureError(
                    f"cell {type!r} has no site for its nodes {', '.join(sorted(bare))}; each needs one at least"
                )
            for site in cell.sites:
                address = Address.of(type, site.id)
                if site.node not in nodes:
                    raise StructureError(f"site {address} belongs to {site.node!r}, which is no node of the cell")
                states = (*self.backbone.inputs, *nodes[: nodes.index(site.node)])
                unknown = [
                    i for i in (*site.inputs, *dict(self.nodes())[Address.of(type, site.node)].inherits) if i not in states
                ]
                if unknown:
                    raise StructureError(
                        f"site {address} takes {', '.join(map(repr, unknown))}, which is no input of the cell and "
                        f"no node before its own; there are {', '.join(states)}"
                    )
                if not site.candidates:
                    raise StructureError(f"site {address} has no candidate; it needs one at least")
                for candidate in site.candidates:
                    if candidate.operation.arity != len(site.inputs):
                        raise StructureError(
                            f"site {address} has {len(site.inputs)} inputs, but operation "
                            f"{candidate.operation.name!r} takes {candidate.operation.arity}"
                        )


def _word(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or "." in value or "/" in value:
        raise StructureError(
            f"{what} is {value!r}; it must be a text without '.' and '/', which part the names of tensors and sites"
        )
    return value


def _whole(value: Any, what: str, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise StructureError(f"{what} is {value!r}; it must be a whole number of at least {low}")
    return value


def _cell(data: Mapping[str, Any], make: Callable[[str, Any], Any]) -> Cell:
    return Cell(
        nodes=tuple(
            Node(_word(n["id"], "a node's id"), tuple(_word(i, "an inherited state") for i in n.get("inherits", ())))
            for n in data["nodes"]
        ),
        sites=tuple(
            Site(
                id=_word(s["id"], "a site's id"),
                node=_word(s["node"], "a site's node"),
                inputs=tuple(_word(i, "a site's input") for i in s["inputs"]),
                candidates=tuple(
                    Candidate(
                        _whole(c["id"], "a candidate's id"),
                        make("operation", {k: v for k, v in c.items() if k != "id"}),
                    )
                    for c in s["candidates"]
                ),
            )
            for s in data["sites"]
        ),
        next_node=_whole(data["next_node"], "next_node"),
    )
