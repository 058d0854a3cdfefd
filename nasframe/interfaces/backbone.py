"""The interface of backbones: how nodes are wired."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set

from torch import Tensor, nn

from nasframe.errors import StructureError
from nasframe.network.mixing import readable
from nasframe.network.outputs import Outputs
from nasframe.structure.address import Address
from nasframe.structure.editing import GrownStructure
from nasframe.structure.structure import BackboneBase, Structure


class Backbone(BackboneBase):
    """How the nodes of a cell are wired, what the cell puts out, and how cells make a network."""

    @abstractmethod
    def body(self, structure: Structure) -> nn.Module:
        """The module of a structure, called with (inputs, shares). It holds a MixedOperation per site and instance."""

    def run(self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
        """MAY: what `readable(body, inputs, weights)` gives, faster: the same values, gradients and second derivatives.

        It reads the body's parameters at each call, and keeps nothing from one to the next.
        """
        return readable(body, inputs, mixing)

    def slow_parts(self, structure: Structure) -> Sequence[str]:
        """MAY: for whom `run` is written: what of a structure it cannot make faster, and why, a sentence each."""
        return ()

    @abstractmethod
    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """The structure with one node more in that cell type."""

    def require_sizes(self, sizes: Mapping[str, int], *names: str) -> tuple[tuple[str, int], ...]:
        """Of a task's sizes those that the backbone needs; a task that does not give them is refused."""
        if missing := [name for name in names if name not in sizes]:
            raise StructureError(
                f"backbone {self.name!r} needs to know {', '.join(missing)} of its data, and the task tells {', '.join(sizes)}: "
                "take a backbone for data of this kind, or another task"
            )
        return tuple((name, sizes[name]) for name in names)

    @abstractmethod
    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """The candidates to remove for an architecture: by site address, ids; an edge of which all go is no edge."""
