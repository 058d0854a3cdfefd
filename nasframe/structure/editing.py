"""Functions that add nodes to a structure, remove candidates from it, and find what a request names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from itertools import count
from typing import Any

import attrs

from nasframe.errors import ChangeError
from nasframe.interfaces.operation import Operation
from nasframe.structure.address import Address
from nasframe.structure.structure import Candidate, Cell, Node, Site, Structure


@attrs.frozen
class GrownStructure:
    """A structure with one more node, and how the new node has to start so that the network computes the same as before.

    Attributes:
        structure: the structure with the new node.
        node: the address of the new node.
        inherits: the states whose mean the new node has to output at first. Empty if it may output anything, because all
            weights that read it start at zero, as behind a concatenation.
        mixing: mixing weights at which it outputs this mean, by the address of each of its sites and the id of each candidate.
            The mixing weights of a site sum to 1, and a candidate whose weight is positive acts as the identity on the last
            input of its site (`Operation.residual`) or is zero (`Operation.zero`). Empty if `inherits` is empty, or
            if the candidates allow no such weights; the node then needs a gate.
    """

    structure: Structure
    node: Address
    inherits: tuple[str, ...] = ()
    mixing: Mapping[Address, Mapping[int, float]] = attrs.field(factory=dict)

    def gated(self) -> Structure:
        """Return the structure in which the new node is behind a gate that passes on what it inherits."""
        cell = self.structure.cell(self.node.cell)
        nodes = tuple(attrs.evolve(n, inherits=self.inherits) if n.id == self.node.id else n for n in cell.nodes)
        return self.structure.replace_cell(self.node.cell, attrs.evolve(cell, nodes=nodes))


def add_node(
    structure: Structure, cell: str, wiring: Callable[[str], Mapping[str, tuple[str, ...]]], operations: Sequence[Operation]
) -> tuple[Structure, Address]:
    """Return the structure with one more node at the end of a cell, and the address of that node.

    Args:
        structure: the structure to extend.
        cell: the cell type that receives the node.
        wiring: a function from the id of the new node to the inputs of each of its sites, by the id of the site.
        operations: the candidates of each of these sites.

    Example:
        A node with one site, which has the id of the node and the last node of the cell as its input:

        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> child, node = add_node(structure, "chain", lambda id: {id: ("n0",)}, Chain().operations)
        >>> node, child.cell("chain").site("n1").inputs
        ('chain/n1', ('n0',))
    """
    # Ids continue where the structure's counter is: those of removed nodes and candidates are not used again, because
    # names of tensors, moments and records are made of them.
    old, ids = structure.cell(cell), count(structure.next_id)
    node = f"n{old.next_node}"
    sites = tuple(
        Site(id, node, inputs, tuple(Candidate(next(ids), o) for o in operations)) for id, inputs in wiring(node).items()
    )
    new = Cell((*old.nodes, Node(node)), (*old.sites, *sites), old.next_node + 1)
    return structure.replace_cell(cell, new, len(sites) * len(operations)), Address.of(cell, node)


def initial_mixing(structure: Structure, node: Address, states: Sequence[str]) -> Mapping[Address, Mapping[int, float]]:
    """Return mixing weights at which a node outputs the mean of the given states, for `GrownStructure.mixing`.

    A node outputs the sum of its sites. With k states, a site whose last input is one of them gives 1/k to its first candidate
    that can act as the identity and the rest to its first candidate that is zero; all other sites are zero.

    Args:
        structure: a structure that has the node.
        node: the address of the node.
        states: the states that the mean is taken of.

    Returns:
        The mixing weight of each candidate by its id, for each site of the node; empty if a candidate that is required does
        not exist, or if there are no states.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> initial_mixing(structure, Address("chain/n1"), ["n0"])
        {'chain/n1': {2: 1.0, 3: 0.0}}
    """
    mixing: dict[Address, Mapping[int, float]] = {}
    for address, site in structure.sites_of(node).items() if states else ():
        # All sites together give sum_k (1/k) s_k, the mean. A site with a share of 1 needs no zero candidate, one with a
        # share of 0 no identity.
        share = 1 / len(states) if site.inputs[-1] in states else 0.0
        # the first of several, so that one candidate has the whole share
        identity = next((c.id for c in site.candidates if c.operation.residual is not None), None)
        zero = next((c.id for c in site.candidates if c.operation.zero), None)
        if (share > 0 and identity is None) or (share < 1 and zero is None):
            return {}
        weights = {identity: share, zero: 1 - share}
        mixing[address] = {c.id: weights.get(c.id, 0.0) for c in site.candidates}
    return mixing


def operations_validator(arity: int) -> Any:
    """Return an attrs validator for a field with the candidates of a backbone.

    It accepts a tuple of one or more operations, not all of them zero.

    Args:
        arity: the number of inputs that each operation must have, 1 or 2.

    Example:
        >>> import attrs
        >>> from nasframe.options import nested
        >>> from nasframe.testing.fakes import Dense
        >>> @attrs.frozen
        ... class Pairs:
        ...     operations: tuple[nasframe.Operation, ...] = nested("operation", validator=operations_validator(2))
        >>> Pairs((Dense(),))
        Traceback (most recent call last):
        ValueError: operations is ['dense']; it must be one or more operations of two inputs, not all of them zero
    """

    def check(instance: Any, attribute: Any, value: Any) -> None:
        names = [getattr(o, "name", o) for o in value]
        if not all(isinstance(o, Operation) and o.arity == arity for o in value) or all(o.zero for o in value):
            inputs = {1: "one input", 2: "two inputs"}[arity]
            raise ValueError(
                f"{attribute.name} is {names!r}; it must be one or more operations of {inputs}, not all of them zero"
            )

    return check


def candidate_at(structure: Structure, address: Any, id: Any) -> Candidate:
    """Return the candidate with this id at a site.

    Args:
        structure: the structure.
        address: the address, as a request gives it: any JSON value.
        id: the id, as a request gives it.

    Raises:
        ChangeError: if there is no such candidate.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> candidate_at(structure, "chain/n0", 1)
        Candidate(id=1, operation=Dense())
    """
    candidates = site_at(structure, address).candidates
    for candidate in candidates:
        if candidate.id == id:
            return candidate
    raise ChangeError(f"{address} has no candidate {id!r}; it has {[c.id for c in candidates]}")


def site_at(structure: Structure, address: Any) -> Site:
    """Return the site at an address, as a request gives it.

    Raises:
        ChangeError: if there is no such site.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> site_at(structure, "chain/n1").inputs
        ('n0',)
    """
    # Compared and not looked up: what a request gives may be a list, which is no key.
    for existing, site in structure.sites():
        if existing == address:
            return site
    raise ChangeError(f"there is no site {address!r}; there are {', '.join(existing for existing, _ in structure.sites())}")


def without_gates(structure: Structure) -> Structure:
    """Return the structure in which no node inherits, so that no node has a gate."""
    for type, cell in structure.cells:
        nodes = tuple(attrs.evolve(node, inherits=()) for node in cell.nodes)
        structure = structure.replace_cell(type, attrs.evolve(cell, nodes=nodes))
    return structure


def remove_from(structure: Structure, removed: Mapping[Address, AbstractSet[int]]) -> Structure:
    """Return the structure without some candidates, and without what has no use after that.

    A site without candidates is removed, and so is a node on which no output of its cell depends any more.

    Args:
        structure: the structure.
        removed: the ids of the candidates to remove, by the address of their site.

    Raises:
        ChangeError: if there is no such candidate, or a node would lose all its candidates.
    """
    for address, ids in removed.items():
        site = site_at(structure, address)
        present = {c.id for c in site.candidates}
        if not ids <= present:
            raise ChangeError(f"{address} has no candidates {sorted(ids - present)}; it has {sorted(present)}")
        kept = tuple(c for c in site.candidates if c.id not in ids)
        # A site may be left without candidates for now, which no structure allows. It is removed below.
        structure = structure.replace_site(Address(address), attrs.evolve(site, candidates=kept))
    # After all removals: a site may lose candidates in several entries, and a node is judged by what is left of all its
    # sites.
    for type, cell in structure.cells:
        rest = attrs.evolve(cell, sites=tuple(s for s in cell.sites if s.candidates))
        bare = [Address.of(type, n.id) for n in rest.nodes if not rest.sites_of(n.id)]
        if bare:
            raise ChangeError(f"all candidates of node {bare[0]} would be removed; keep at least one")
        # last: without some sites, nodes may have lost their only consumers
        structure = structure.replace_cell(type, rest.reaching(structure.backbone.outputs(rest)))
    return structure
