"""The readable form of a cell: how the states of its nodes follow from its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nasframe.network.mixing import Gate, MixedOperation, MixingWeights
from nasframe.structure.address import Address
from nasframe.structure.structure import Cell, Site


class CellModule(nn.Module):
    """An instance of a cell type: a mixed operation for each site and a gate for each node that inherits.

    A backbone derives its cells from this class. It chooses the sizes of the operations, the input states, and what it makes of
    the states of the nodes; how these states follow from the inputs is defined here and nowhere else. A fast form computes the
    same in another way and is tested against it.

    Args:
        type: the name of the cell type. A mixed operation has the address of its site, a gate the address of its node.
        cell: the structure of the cell type.
        sizes: the function that returns, for a site, the sizes that its operations are built with.
        mixed_operation: the class of the sites' modules, or a function with the same arguments (address, site, **sizes).

    Example:
        >>> from nasframe import Candidate, Cell, Node, Site
        >>> from nasframe.network.cell import CellModule
        >>> from nasframe_recurrent import TanhEdge
        >>> import torch
        >>> cell = Cell((Node("n0"),), (Site("x-n0", "n0", ("x",), (Candidate(0, TanhEdge()),)),))
        >>> module = CellModule("normal", cell, lambda site: {"inputs": 3, "hidden": 2})
        >>> states = module.states({"x": torch.zeros(5, 3)}, mixing={})
        >>> states["n0"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        type: str,
        cell: Cell,
        sizes: Callable[[Site], Mapping[str, int]],
        mixed_operation: Callable[..., MixedOperation] = MixedOperation,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.sites = nn.ModuleDict({s.id: mixed_operation(Address.of(type, s.id), s, **sizes(s)) for s in cell.sites})
        self.gates = nn.ModuleDict({n.id: Gate(Address.of(type, n.id)) for n in cell.nodes if n.inherits})
        # a recurrent cell is evaluated at every time step, so that the sites of each node are looked up once
        self._nodes = [(node, [s for s in cell.sites if s.node == node.id]) for node in cell.nodes]

    def states(
        self,
        inputs: Mapping[str, Tensor],
        mixing: MixingWeights,
        edge: Callable[[Site, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the input states and the state of each node, by name.

        The state of a node is the sum over its sites of the mixed operations, s = sum_i o_i(inputs of site i). A node that
        inherits has the state (1 - g) m + g s, where m is the mean of the states that it inherits and g is its gate.

        Args:
            inputs: the input states of the cell, by the names that the sites use.
            mixing: for each undecided site its mixing weights, by address.
            edge: an optional function that is applied to the output of each site, such as drop path.
        """
        states = dict(inputs)
        # a node reads inputs and earlier nodes only, so that one pass in their order is enough
        for node, sites in self._nodes:
            outputs = []
            for site in sites:
                output = self.sites[site.id](mixing, *(states[name] for name in site.inputs))
                outputs.append(output if edge is None else edge(site, output))
            # `reduce` and not `sum`, which would begin with the integer 0 and add an operation to every node.
            state = functools.reduce(torch.add, outputs)
            if node.inherits:
                # `inherits` names inputs or earlier nodes, as sites do (see `Structure.check`).
                state = self.gates[node.id](mean([states[name] for name in node.inherits]), state)
            states[node.id] = state
        return states


def mean(states: Sequence[Tensor]) -> Tensor:
    """Return the mean of states of one shape; a single state is returned as it is."""
    return states[0] if len(states) == 1 else functools.reduce(torch.add, states) / len(states)
