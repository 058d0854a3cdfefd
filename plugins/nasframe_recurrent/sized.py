"""The architectures of a recurrent supernet that have about equally many parameters."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from nasframe import Address, Backbone, Space, Structure
from nasframe.errors import StructureError
from nasframe.network.network import count_parameters
from nasframe.structure.space import Choice


@attrs.frozen
class SizedSpace(Space):
    """The architectures with 1 to as many nodes as the supernet in each cell, each as wide as a number of parameters allows.

    An architecture of fewer nodes, or of operations with fewer parameters, has more units. So architectures that compete cost about the
    same, and nodes are worth their parameters only if they are better than units.

    The first decision of each node but the first of its cell has one more option, the last one: the cell ends before this node. The picks
    of the nodes behind the end change nothing.

    Args:
        parameters: the largest number of parameters of an architecture. With one unit it may have more.
    """

    unshared: ClassVar[str | None] = "the architectures have other widths; give the backbone equal = 'units'"

    parameters: int = attrs.field(kw_only=True)

    @functools.cached_property
    def decisions(self) -> tuple[Choice, ...]:
        """Return the decisions, node by node."""
        first = {Address.of(type, cell.nodes[0].id) for type, cell in self.supernet.cells}
        found: list[Choice] = []
        for node, (choice, *rest) in self.choices.items():
            found += [attrs.evolve(choice, options=choice.options + (node not in first)), *rest]
        return tuple(found)

    def architecture(self, picks: Sequence[int]) -> Structure:
        """Return the architecture that these picks describe.

        Args:
            picks: one number for each decision.

        Raises:
            StructureError: if there are not as many picks as decisions, or one is out of range.
        """
        self.check(picks)
        left, kept = iter(picks), list[int]()
        lengths, ended = {type: 0 for type, _ in self.supernet.cells}, set[str]()
        for node, choices in self.choices.items():
            chosen = [next(left) for _ in choices]
            if chosen[0] == choices[0].options:
                ended.add(node.cell)
            if node.cell not in ended:
                kept += chosen
                lengths[node.cell] += 1
        return widest(self._shorter(lengths).architecture(kept), self.parameters)

    def picks(self, architecture: Structure) -> tuple[int, ...]:
        """Return the picks that describe an architecture of the space, or one of the supernet, which has other widths.

        Raises:
            StructureError: if it is neither.
        """
        ids = {type: [node.id for node in cell.nodes] for type, cell in self.supernet.cells}
        # The last node of a cell is one of its outputs, so that it is never removed.
        last = {type: cell.nodes[-1].id for type, cell in architecture.cells}
        if last.keys() != ids.keys() or not all(node in ids[type] for type, node in last.items()):
            raise StructureError(
                f"the structure is no architecture of the space: its cells end with {last}, and the nodes there are {ids}"
            )
        lengths = {type: 1 + ids[type].index(node) for type, node in last.items()}
        plain = attrs.evolve(architecture, backbone=self.supernet.backbone)
        kept, found = iter(self._shorter(lengths).picks(plain)), list[int]()
        for node, (first, *rest) in self.choices.items():
            ends = ids[node.cell].index(node.id) >= lengths[node.cell]
            found += [first.options, *(0 for _ in rest)] if ends else [next(kept) for _ in (first, *rest)]
        if architecture not in (plain, self.architecture(found)):
            raise StructureError(
                f"the structure is no architecture of the space: its widths are neither those of the supernet nor those that "
                f"{self.parameters} parameters allow; make it with Space.architecture(picks)"
            )
        return tuple(found)

    def _shorter(self, lengths: Mapping[str, int]) -> Space:
        """Return the space of supernets with so many nodes in their cells."""
        structure = self.supernet
        for type, length in lengths.items():
            cell = structure.cell(type)
            ids = {node.id for node in cell.nodes[:length]}
            sites = tuple(site for site in cell.sites if site.node in ids)
            structure = structure.replace_cell(type, attrs.evolve(cell, nodes=cell.nodes[:length], sites=sites))
        return Space(structure, self.keep)


def most_parameters(space: Space) -> int:
    """Return the largest number of parameters of an architecture of a space."""
    picks = [0] * len(space.decisions)
    # The numbers of parameters of candidates add up, so that each decision can be made for itself.
    for place, choice in enumerate(space.decisions):
        options = [[*picks[:place], option, *picks[place + 1 :]] for option in range(choice.options)]
        picks = max(options, key=lambda each: count_parameters(space.architecture(each)))
    return count_parameters(space.architecture(picks))


@functools.lru_cache(maxsize=1024)
def widest(structure: Structure, parameters: int) -> Structure:
    """Return the structure with as many units as a number of parameters allows, and at least one."""
    backbone = structure.backbone
    assert isinstance(backbone, Backbone)

    def wide(units: int) -> Structure:
        changed: Backbone = attrs.evolve(backbone, hidden=units, parameters=parameters)  # type: ignore[misc]
        return attrs.evolve(structure, backbone=changed)

    def count(units: int) -> int:
        return count_parameters(wide(units))

    low = 1
    while count(2 * low) <= parameters:
        low *= 2
    # the number of widths above `low` and below twice as many that are allowed
    return wide(low + bisect.bisect_right(range(low + 1, 2 * low), parameters, key=count))
