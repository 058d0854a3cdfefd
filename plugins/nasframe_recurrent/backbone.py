"""The base class of the recurrent backbones: how layers of cells make a network, grow, and become an architecture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set

import attrs
import torch
from torch import Tensor, nn

from nasframe import Address, Backbone, Cell, Operation, Space, Structure
from nasframe.interfaces.pruner import all_but_strongest
from nasframe.network.observing import Call, Calls
from nasframe.options import choice, number
from nasframe.structure.editing import GrownStructure, add_node, initial_mixing
from nasframe_recurrent.cell import RecurrentCell, RecurrentStack
from nasframe_recurrent.fused import observe_layer, plan_of, run_layer
from nasframe_recurrent.plan import plan_cell
from nasframe_recurrent.sized import SizedSpace, most_parameters


@attrs.frozen
class Recurrent(Backbone):
    """Layers of recurrent cells and a linear map of h_t at every time step; h_0 is zero.

    Inputs have the shape (time, batch, n_x), outputs the shape (time, batch, n_y). Where the task has `tokens` in the place of
    `inputs` and `outputs`, the inputs are whole numbers of shape (time, batch), and the outputs a score for each token, of
    shape (time, batch, tokens). x_t is then the embedding of a token, n_x = n_h wide, which is also the token's row in the
    linear map.

    Args:
        hidden: n_h, the width of the state; if it is left out, n_x, such as the number of columns (Jie & Gao 2021, Table 2).
        layers: the number of stacked cells. Each is a cell type ("layer0", "layer1", ...) with its structure and its alphas.
        dropout: the dropout probability on the output of every layer but one that the layer above it inherits.
        equal: what architectures that compete in trials have in common. "units": all have the width and the nodes of the supernet.
            "parameters": they have 1 to as many nodes as the supernet, and as many units as the number of parameters allows.
        parameters: the largest number of parameters of an architecture, if equal is "parameters"; by default that of the largest
            architecture of the supernet, with its width and nodes.
    """

    hidden: int | None = number(None, low=1, whole=True, optional=True)
    layers: int = number(1, low=1, high=1000, whole=True)
    dropout: float = number(0.0, low=0.0, high=1.0)
    equal: str = choice("units", "parameters", default="units", kw_only=True)
    parameters: int | None = number(None, low=1, whole=True, optional=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.parameters is not None and self.equal != "parameters":
            raise ValueError(
                f"parameters is {self.parameters} and equal is {self.equal!r}; parameters needs equal = 'parameters'"
            )

    @property
    @abstractmethod
    def operations(self) -> tuple[Operation, ...]:
        """Return the candidates of every site."""

    @abstractmethod
    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """Return the inputs of each site that a new node of the cell gets, by the id of the site."""

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return the structure of a supernet with that many nodes in every layer.

        Args:
            sizes: the sizes of the task: `inputs` (n_x) and `outputs` (n_y), or `tokens`.
            nodes: the number of nodes.
        """
        cells = tuple((f"layer{i}", Cell()) for i in range(self.layers))
        names = ("tokens",) if "tokens" in sizes else ("inputs", "outputs")
        structure = Structure(self, self.require_sizes(sizes, *names), cells)
        for type, _ in cells:
            # An initial structure is grown as well, node by node, so that a cell that was grown to n nodes and one that
            # began with n nodes are wired alike.
            for _ in range(nodes):
                structure = self.grown(structure, type).structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """Return the layers and the head of a structure."""
        body = RecurrentStack(structure, self.hidden, self.dropout)
        for layer in body.layers:
            assert isinstance(layer, RecurrentCell)
            # The plan refuses a `pointwise()` that does not fit its module, before anything is trained. It is kept and used by
            # every later call; a network without values is never called.
            if torch.get_default_device().type != "meta":
                plan_of(layer)
        return body

    def run(self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of the body, with each layer computed in its fast form where it has one."""
        assert isinstance(body, RecurrentStack)
        return body.through(inputs, lambda layer, states: run_layer(layer, states, mixing))

    def observed(
        self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor], candidates: Collection[nn.Module]
    ) -> tuple[Tensor, Calls]:
        """Return what `run` returns, and the calls of candidates."""
        assert isinstance(body, RecurrentStack)
        calls: dict[nn.Module, list[Call]] = {module: [] for module in candidates}

        def observe(layer: RecurrentCell, states: Tensor) -> Tensor:
            outputs, found = observe_layer(layer, states, mixing, candidates)
            calls.update(found)
            return outputs

        return body.through(inputs, observe), calls

    def slow_parts(self, structure: Structure) -> Sequence[str]:
        """Return a sentence for each layer that has no fast form, with the reason."""
        plans = {type: plan_cell(cell, self.outputs(cell)) for type, cell in structure.cells}
        return [f"{type} runs in its readable form: {reason}" for type, reason in plans.items() if isinstance(reason, str)]

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node, which starts as the mean of the states that the cell outputs."""
        old = structure.cell(cell)
        # in an empty cell there is no state to preserve: `outputs` is empty, and so is the initial mixing
        child, node = add_node(structure, cell, lambda id: self.wiring(old, id), self.operations)
        outputs = self.outputs(old)
        return GrownStructure(child, node, outputs, initial_mixing(child, node, outputs))

    def widths(self, structure: Structure) -> Mapping[str, int]:
        """Return the width of the state, n_h, by its field."""
        return {"hidden": self.hidden or structure.size("inputs")}

    def example(self, structure: Structure) -> Tensor:
        """Return two examples of two time steps: the second step is the first one that reads a state other than zero."""
        if "tokens" in dict(structure.sizes):
            return torch.zeros(2, 2, dtype=torch.long)
        return torch.zeros(2, 2, structure.size("inputs"))

    def deepened(self, structure: Structure) -> Sequence[Structure]:
        """Return the structure with one more layer on top, of as many nodes as the layer below it.

        Node 0 inherits x, and each further node what the cell would output without it, so that the layer returns its inputs as
        long as all of its gates are zero.
        """
        type, below = f"layer{self.layers}", structure.cells[-1][1]
        deeper = attrs.evolve(self, layers=self.layers + 1)
        child = attrs.evolve(structure, backbone=deeper, cells=(*structure.cells, (type, Cell())))
        for _ in below.nodes:
            grown = self.grown(child, type)
            child = attrs.evolve(grown, inherits=grown.inherits or ("x",)).gated()
        return (child,)

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates but the strongest of each node, where zero does not count (Liu et al. 2019, 2.4)."""
        return all_but_strongest(structure, mixing)

    def space(self, structure: Structure) -> Space:
        """Return the architectures in which each node has one operation, which is not zero."""
        space = Space(structure, keep=1)
        if self.equal == "units":
            return space
        return SizedSpace(structure, keep=1, parameters=self.parameters or most_parameters(space))
