"""The description of a network: one frozen type for supernets, grown, pruned and final networks.

A structure has cell types, a cell has nodes, a node is the sum of its sites, and candidate operations compete at a site. Candidates
and nodes get their ids from counters in the structure, so that an id is never used again after its candidate or node was
removed: weights, optimiser moments and histories are kept by id.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import attrs

from nasframe.errors import PluginError, StrategyError, StructureError
from nasframe.interfaces.operation import Operation
from nasframe.interfaces.part import Part, short_name, to_plain
from nasframe.structure.address import Address

#: the version of the JSON form
SCHEMA = 1


class Unchanging:
    """A value that never changes, so that copying a network, whose modules refer to such values, need not copy them."""

    __slots__ = ()

    def __deepcopy__(self, memo: object) -> Self:
        return self


@attrs.frozen
class Candidate(Unchanging):
    """An operation at a site.

    Attributes:
        id: its number, unique in the structure and never used again.
        operation: the operation.
    """

    id: int
    operation: Operation


@attrs.frozen
class Site(Unchanging):
    """A place where candidate operations compete: an edge of DARTS, or a pair of inputs in Two-to-One.

    Attributes:
        id: its name, unique among the sites of its cell.
        node: the id of the node that adds up its output.
        inputs: the states that its candidates have as inputs, one or two: inputs of the cell or ids of earlier nodes.
        candidates: the candidates.
    """

    id: str
    node: str
    inputs: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def decided(self) -> bool:
        """Return whether only one candidate is left. Such a site has no alphas, and its mixing weight is 1."""
        return len(self.candidates) == 1


@attrs.frozen
class Node(Unchanging):
    """A node of a cell: a state that is the sum of its sites, s.

    A node that inherits has a gate: its state is (1 - g) h + g s, where h is the mean of the inherited states and the trained number
    g starts at 0 (see `nasframe.network.mixing.Gate`).

    Attributes:
        id: its name, unique among the nodes of its cell and never used again.
        inherits: the states whose mean is h; empty for a node without a gate.
    """

    id: str
    inherits: tuple[str, ...] = ()


@attrs.frozen
class Cell(Unchanging):
    """The structure of a cell type, which all its instances in the network share.

    Attributes:
        nodes: the nodes, each after those it has as inputs.
        sites: the sites.
        next_node: the number of the next node, so that no id is used twice.
    """

    # Tuples and not dictionaries: structures are compared and hashed, and the order of sites is that of alphas and random
    # draws.
    nodes: tuple[Node, ...] = ()
    sites: tuple[Site, ...] = ()
    next_node: int = 0

    def site(self, id: str) -> Site:
        """Return the site with this id."""
        return next(s for s in self.sites if s.id == id)

    def sites_of(self, node: str) -> tuple[Site, ...]:
        """Return the sites of the node with this id, in order."""
        return tuple(s for s in self.sites if s.node == node)

    def replace_site(self, site: Site) -> Cell:
        """Return the same cell with `site` instead of the site with the same id."""
        return attrs.evolve(self, sites=tuple(site if s.id == site.id else s for s in self.sites))

    def reaching(self, outputs: Sequence[str]) -> Cell:
        """Return the same cell without the nodes that none of these states depends on.

        Args:
            outputs: the states that the cell outputs.
        """
        reached = set(outputs)
        # a node comes after all it depends on, so one pass from the last node to the first finds every dependency
        for node in reversed(self.nodes):
            if node.id in reached:
                reached |= {*node.inherits, *(i for s in self.sites if s.node == node.id for i in s.inputs)}
        return attrs.evolve(
            self,
            nodes=tuple(n for n in self.nodes if n.id in reached),
            sites=tuple(s for s in self.sites if s.node in reached),
        )


class BackboneBase(Part):
    """The members of a backbone that concern structures only.

    Implement `nasframe.Backbone`, which adds the members that concern modules. They are apart so that this module does not
    depend on those that build networks.
    """

    kind: ClassVar[str] = "backbone"

    #: the names of the states that a cell receives, by which the inputs of sites refer to them
    inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return the structure of a supernet.

        Args:
            sizes: the sizes that the task provides (`Data.sizes`); `require_sizes` of a backbone selects those it needs.
            nodes: the number of nodes in each cell.
        """

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """Return the states that a cell outputs, by default its last node. Optional."""
        # A slice, because a cell may have no nodes.
        return tuple(node.id for node in cell.nodes[-1:])


@attrs.frozen
class Structure(Unchanging):
    """The full description of a network, from which it is built: everything but its tensors.

    Structures are frozen, hashable, and have a JSON form. Methods that change something return a new structure.

    Attributes:
        backbone: the backbone.
        sizes: the sizes of the task that the backbone needs, by name: for a recurrent task `inputs` and `outputs`.
        cells: the cell types with their cells, in order.
        next_id: the id of the next candidate, so that no id is used twice.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> [address for address, _ in structure.sites()]
        ['chain/n0', 'chain/n1']
        >>> [candidate.operation.name for candidate in structure.cell("chain").site("n0").candidates]
        ['pass_through', 'dense']
    """

    backbone: BackboneBase
    sizes: tuple[tuple[str, int], ...]
    cells: tuple[tuple[str, Cell], ...]
    next_id: int = 0

    def cell(self, type: str) -> Cell:
        """Return the cell of this type."""
        return dict(self.cells)[type]

    def size(self, name: str) -> int:
        """Return the size with this name.

        Raises:
            StructureError: if there is no such size.
        """
        sizes = dict(self.sizes)
        if name not in sizes:
            raise StructureError(
                f"the structure has no size {name!r}, which its backbone needs; it has {', '.join(sizes) or 'none'}"
            )
        return sizes[name]

    def sites(self) -> Iterator[tuple[Address, Site]]:
        """Yield the address and the site of every site, in order."""
        for type, cell in self.cells:
            for site in cell.sites:
                yield Address.of(type, site.id), site

    def nodes(self) -> Iterator[tuple[Address, Node]]:
        """Yield the address and the node of every node, in order."""
        for type, cell in self.cells:
            for node in cell.nodes:
                yield Address.of(type, node.id), node

    def sites_of(self, node: Address) -> dict[Address, Site]:
        """Return the sites of the node at that address, in order."""
        return {Address.of(node.cell, s.id): s for s in self.cell(node.cell).sites_of(node.id)}

    @property
    def decided(self) -> bool:
        """Return whether this is an architecture: one candidate at each site."""
        return all(site.decided for _, site in self.sites())

    def replace_cell(self, type: str, cell: Cell, new_candidates: int = 0) -> Structure:
        """Return the same structure with another cell of this type.

        Args:
            type: the cell type.
            cell: the new cell.
            new_candidates: the number of its candidates that have new ids: `next_id`, `next_id` + 1, ...
        """
        cells = tuple((t, cell if t == type else c) for t, c in self.cells)
        return attrs.evolve(self, cells=cells, next_id=self.next_id + new_candidates)

    def replace_site(self, address: Address, site: Site, new_candidates: int = 0) -> Structure:
        """Return the same structure with another site at this address; `new_candidates` as for `replace_cell`."""
        return self.replace_cell(address.cell, self.cell(address.cell).replace_site(site), new_candidates)

    def with_backbone(self, backbone: BackboneBase, sizes: Mapping[str, int]) -> Structure:
        """Return the same cells in another backbone with the same cell types, for example a wider or deeper one.

        Args:
            backbone: the new backbone.
            sizes: the sizes of the task.

        Raises:
            StructureError: if the cell types differ, or the cells do not fit.
        """
        # its cells do not matter: it says which cell types and sizes the backbone has
        other = backbone.initial(sizes, 1)
        if dict(self.cells).keys() != dict(other.cells).keys():
            raise StructureError(
                f"the structure has the cell types {', '.join(dict(self.cells))}, but backbone {backbone.name!r} has "
                f"{', '.join(dict(other.cells))}; give a backbone of the kind that the cells were found in, such as "
                f"{short_name(self.backbone)}"
            )
        # Widths and depth belong to the backbone, and not to the cells, so that the cells can move as they are.
        moved = attrs.evolve(self, backbone=other.backbone, sizes=other.sizes)
        moved.check()
        return moved

    def digest(self) -> str:
        """Return a short name of this structure: 16 hexadecimal digits of a hash of its JSON form."""
        # 64 bits: enough to tell the structures of a run apart, and short enough to be read
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as values that `json.dumps` accepts."""
        return {
            "schema": SCHEMA,
            "backbone": to_plain(self.backbone),
            # The order of keys is that of the structure: sizes, cells, sites and candidates are read back in the order in
            # which they were written, which decides the order of alphas and of random draws.
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
        """Return the JSON form as text. `from_json` returns an equal structure."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], make: Callable[[str, Any], Any]) -> Structure:
        """Return the structure with this JSON form.

        Args:
            data: the values that `to_dict` returned.
            make: a function from (kind, description) to the part, such as `nasframe.installed().make`.

        Raises:
            StructureError: if the values do not describe a structure, or a part of it is not installed.
        """
        try:
            if data["schema"] != SCHEMA:
                raise StructureError(
                    f"the structure has schema {data['schema']!r}; this version reads schema {SCHEMA}: "
                    "write it again with this version"
                )
            structure = cls(
                backbone=make("backbone", data["backbone"]),
                sizes=tuple((str(k), _integer(v, "a size", 1)) for k, v in data["sizes"].items()),
                cells=tuple((_name(type, "a cell type"), _cell(cell, make)) for type, cell in data["cells"].items()),
                next_id=_integer(data["next_id"], "next_id"),
            )
        # Whatever a file may contain that was edited by hand: a missing key, a list in the place of a table, a text in the
        # place of a number.
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StructureError(f"this is not the JSON of a structure ({type(error).__name__}: {error})") from error
        except (PluginError, StrategyError) as error:
            raise StructureError(
                f"the structure cannot be rebuilt here: {error} - `nasframe plugins` lists what is installed. Install the package "
                "that registers it, or give plugins=nasframe.installed().including(CLASS)"
            ) from error
        structure.check()
        return structure

    @classmethod
    def from_json(cls, text: str, make: Callable[[str, Any], Any]) -> Structure:
        """Return the structure that `to_json` wrote as `text`; `make` as for `from_dict`.

        Raises:
            StructureError: if the text does not describe a structure.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(f"the structure is not JSON: {error}") from error
        return cls.from_dict(data, make)

    def check(self) -> None:
        """Raise a StructureError if no network can be built: for a duplicate id, an empty site, or an input that does not exist."""
        # A structure may come from a file that was edited by hand. Whatever would fail later, in the building of a network,
        # is refused here with its address.
        # An id at or above the counter would be given to another candidate later on.
        ids = [c.id for _, s in self.sites() for c in s.candidates]
        if len(set(ids)) != len(ids) or any(not 0 <= i < self.next_id for i in ids):
            raise StructureError(f"candidate ids must be distinct and below next_id = {self.next_id}; they are {ids}")
        for type, cell in self.cells:
            nodes, inherits = [n.id for n in cell.nodes], {n.id: n.inherits for n in cell.nodes}
            # Nodes and sites are checked apart: a node and a site of Two-to-One have the same id.
            for kind, names in (("node", nodes), ("site", [s.id for s in cell.sites])):
                if len(set(names)) != len(names):
                    raise StructureError(f"cell {type!r} has two {kind}s with the same id: {names}")
            if cell.next_node < len(nodes):
                raise StructureError(
                    f"next_node of cell {type!r} is {cell.next_node}, but the cell has {len(nodes)} nodes already"
                )
            # A node without a site would be the sum of nothing.
            bare = set(nodes) - {s.node for s in cell.sites}
            if bare:
                raise StructureError(
                    f"cell {type!r} has no site for its nodes {', '.join(sorted(bare))}; each needs at least one"
                )
            for site in cell.sites:
                address = Address.of(type, site.id)
                if site.node not in nodes:
                    raise StructureError(f"site {address} belongs to {site.node!r}, which is not a node of the cell")
                # nodes before this one only, so that a cell has no cycle
                states = (*self.backbone.inputs, *nodes[: nodes.index(site.node)])
                unknown = [i for i in (*site.inputs, *inherits[site.node]) if i not in states]
                if unknown:
                    raise StructureError(
                        f"site {address} has the input {', '.join(map(repr, unknown))}, which is neither an input of the cell "
                        f"nor a node before {site.node}; there are {', '.join(states)}"
                    )
                if not site.candidates:
                    raise StructureError(f"site {address} has no candidate; it needs at least one")
                for candidate in site.candidates:
                    if candidate.operation.arity != len(site.inputs):
                        raise StructureError(
                            f"site {address} has {len(site.inputs)} inputs, but operation "
                            f"{candidate.operation.name!r} needs {candidate.operation.arity}"
                        )


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or "." in value or "/" in value:
        # "." separates the names of modules, "/" the parts of an address
        raise StructureError(f"{what} is {value!r}; it must be a text that is not empty and has neither '.' nor '/'")
    return value


def _integer(value: Any, what: str, low: int = 0) -> int:
    # JSON's `true` is read as a bool, which Python counts as the integer 1.
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise StructureError(f"{what} is {value!r}; it must be a whole number of at least {low}")
    return value


def _cell(data: Mapping[str, Any], make: Callable[[str, Any], Any]) -> Cell:
    return Cell(
        nodes=tuple(
            # Names become parts of the names of modules and files, so that each is checked as it is read.
            Node(_name(n["id"], "a node's id"), tuple(_name(i, "an inherited state") for i in n.get("inherits", ())))
            for n in data["nodes"]
        ),
        sites=tuple(
            Site(
                id=_name(s["id"], "a site's id"),
                node=_name(s["node"], "a site's node"),
                inputs=tuple(_name(i, "a site's input") for i in s["inputs"]),
                candidates=tuple(
                    Candidate(
                        _integer(c["id"], "a candidate's id"),
                        make("operation", {k: v for k, v in c.items() if k != "id"}),
                    )
                    for c in s["candidates"]
                ),
            )
            for s in data["sites"]
        ),
        next_node=_integer(data["next_node"], "next_node"),
    )
