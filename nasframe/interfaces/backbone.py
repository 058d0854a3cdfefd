"""The interface of backbones, which say how nodes are wired and how a network is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set

from torch import Tensor, nn

from nasframe.errors import ChangeError, StructureError
from nasframe.network.mixing import readable
from nasframe.network.observing import Calls, observed
from nasframe.network.outputs import Outputs
from nasframe.structure.address import Address
from nasframe.structure.editing import GrownStructure
from nasframe.structure.space import Space
from nasframe.structure.structure import BackboneBase, Structure


class Backbone(BackboneBase):
    """Base class of backbones: how nodes are wired, what a cell outputs, and how cells form a network.

    Required: `name`, the class variable `inputs` (the states that a cell receives), `initial`, `body`, `grown` and `derive`.
    Optional: `outputs` (by default, a cell outputs its last node), `space` (by default, an architecture keeps one candidate of
    each site), `run` with `slow_parts` and `observed`, which compute the same faster, and what lets networks grow beside their nodes:
    `widths` with `example`, and `deepened`.

    Example:
        `nasframe.testing.fakes.Chain` is a complete backbone. Its growth, where each node reads the node before::

            def grown(self, structure, cell):
                last = self.outputs(structure.cell(cell)) or self.inputs
                child, node = add_node(structure, cell, lambda id: {id: last}, self.operations)
                return GrownStructure(child, node, last, initial_mixing(child, node, last))
    """

    @abstractmethod
    def body(self, structure: Structure) -> nn.Module:
        """Return the module of a structure, freshly initialised from torch's global generator.

        It is called with (inputs, mixing), where `mixing` maps the address of each undecided site to one number per candidate
        (`nasframe.network.mixing.MixingWeights`). It contains a `MixedOperation` for each site in each instance of its cell type,
        and a `Gate` for each node that inherits.

        Args:
            structure: the structure, whose backbone is this one.
        """

    def run(self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
        """Return the outputs of the body, by default by calling its modules. Optional.

        A faster form must have the same values, gradients and second derivatives. It reads the parameters of the body at each call,
        and keeps nothing between calls, so that it cannot become stale. It is called with plain tensors: while a program is
        captured or transformed, and under autocast, `Network` runs the readable form instead.

        Args:
            body: the module that `body` returned.
            inputs: the inputs of the network.
            mixing: the mixing weights of each undecided site, of shape (candidates,), by address.
        """
        return readable(body, inputs, mixing)

    def observed(
        self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor], candidates: Collection[nn.Module]
    ) -> tuple[Outputs, Calls]:
        """Return what `run` returns, and the calls of candidates, by default by hooks on their modules. Optional.

        Args:
            body: the module that `body` returned.
            inputs: the inputs of the network.
            mixing: the mixing weights of each undecided site, of shape (candidates,), by address.
            candidates: the modules of the candidates. One that is not computed has no calls.
        """
        return observed(body, inputs, mixing, candidates)

    def slow_parts(self, structure: Structure) -> Sequence[str]:
        """Return one sentence for each part of a structure that `run` cannot compute faster, with the reason. Optional."""
        return ()

    @abstractmethod
    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node at the end of a cell, and how the node has to start.

        Use `add_node` and `initial_mixing` of `nasframe.structure.editing`.

        Args:
            structure: the structure to extend.
            cell: the cell type.

        Raises:
            ChangeError: if the cell cannot grow.
        """

    def widths(self, structure: Structure) -> Mapping[str, int]:
        """Return the present widths of a structure's network, by the name of the backbone's field that sets them. Optional.

        A larger value of such a field makes tensors of the same names with larger shapes, and changes no cell. Which units of
        which tensors belong together is read from a network that is traced with `example`.

        Args:
            structure: the structure, whose backbone is this one.
        """
        return {}

    def example(self, structure: Structure) -> Tensor:
        """Return small inputs with which a network of the structure can be traced. Needed with `widths`.

        Args:
            structure: the structure, whose backbone is this one.
        """
        raise ChangeError(
            f"backbone {self.name!r} has widths and no inputs to trace a network with; implement example(structure), which returns "
            "inputs of the shape and dtype that the networks have, with few examples"
        )

    def deepened(self, structure: Structure) -> Sequence[Structure]:
        """Return the structures with one more layer or cell, at each place where it can start as the identity. Optional.

        A network of such a structure has all tensors of the old one, under their names. With these, and the initial values of
        all others, its outputs are the same: what is new is behind a gate (`nasframe.network.mixing.Gate`), which starts at zero.

        Args:
            structure: the structure to extend.
        """
        return ()

    def require_sizes(self, sizes: Mapping[str, int], *names: str) -> tuple[tuple[str, int], ...]:
        """Return the sizes with these names, for `Structure.sizes`.

        Args:
            sizes: the sizes of the task.
            *names: the names of the sizes that the backbone needs.

        Raises:
            StructureError: if the task does not provide one of them.
        """
        # A recurrent backbone on images, or the reverse, is found here, before anything is built.
        if missing := [name for name in names if name not in sizes]:
            raise StructureError(
                f"backbone {self.name!r} needs the sizes {', '.join(missing)}, and the task provides {', '.join(sizes)}; choose a "
                "backbone for data of this kind, or another task"
            )
        return tuple((name, sizes[name]) for name in names)

    @abstractmethod
    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the candidates to remove so that one candidate per site remains: the discretisation of the supernet.

        Args:
            structure: the structure of the supernet, which may be pruned already.
            mixing: the mixing weights of each undecided site, of shape (candidates,), by address.

        Returns:
            The ids of the candidates to remove, by the address of their site. A site that loses all candidates is removed; each
            node keeps at least one candidate.
        """

    def space(self, structure: Structure) -> Space:
        """Return the architectures of a supernet as a sequence of decisions. Optional.

        It contains every architecture that `derive` can return for this supernet.

        Args:
            structure: the structure of a supernet, as `initial` returns it.
        """
        return Space(structure)
