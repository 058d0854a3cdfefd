"""The interface of backbones: how nodes are wired."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import ClassVar

import attrs
from torch import Tensor, nn

from nasframe.network import readable
from nasframe.part import Part
from nasframe.structure import Cell, Structure


@attrs.frozen
class Grown:
    """A structure with one node more, and the weights at which the grown network computes what the old one did.

    `birth` maps each new site's address to the weight of each of its candidates by id; the weights of a site sum to one,
    and a candidate with a weight acts as the identity on the site's last input (`Operation.residual`) or is zero
    (`Operation.zero`). The new node then puts out the mean of the states in `inherits`. Both are empty where whatever takes
    the new node in starts at zero, as behind a concatenation; `birth` alone is empty where no candidate can be the identity.
    """

    structure: Structure
    node: str
    inherits: tuple[str, ...]
    birth: Mapping[str, Mapping[int, float]]


class Backbone(Part):
    """How the nodes of a cell are wired, what the cell puts out, and how cells make a network."""

    kind: ClassVar[str] = "backbone"

    #: the states that a cell is given, by the names under which its sites take them in
    inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """The structure of a supernet with that many nodes in each cell, for a task with these sizes."""

    @abstractmethod
    def body(self, structure: Structure) -> nn.Module:
        """The module of a structure, called with (inputs, shares). It holds a Mixture per site and instance."""

    def run(self, body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """MAY: what `readable(body, inputs, weights)` gives, faster: the same values, gradients and second derivatives.

        It reads the body's parameters at each call, and keeps nothing from one to the next.
        """
        return readable(body, inputs, weights)

    def slow(self, structure: Structure) -> Sequence[str]:
        """MAY: for whom `run` is written: what of a structure it cannot make faster, and why, a sentence each."""
        return ()

    @abstractmethod
    def grown(self, structure: Structure, cell: str) -> Grown:
        """The structure with one node more in that cell type."""

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """MAY: the states that a cell puts out; by default its last node."""
        return tuple(node.id for node in cell.nodes[-1:])

    @abstractmethod
    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """The candidates to remove for an architecture: by site address, ids; an edge of which all go is no edge."""
