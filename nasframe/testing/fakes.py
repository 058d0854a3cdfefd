"""The parts that a search needs and a law does not care about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer
from torchmetrics import MeanSquaredError, MetricCollection

from nasframe import (
    Address,
    Architect,
    Backbone,
    Bilevel,
    Cell,
    Data,
    Decision,
    Gate,
    GrownStructure,
    GrowthCriterion,
    MixedOperation,
    Operation,
    Optimiser,
    Proposal,
    Pruner,
    Seed,
    Split,
    Structure,
    Task,
    add_node,
    all_but_strongest,
    initial_mixing,
    nested,
    number,
)
from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.network.mixing import MixingWeights
from nasframe.records import EpochEnded
from nasframe.structure.editing import operations_validator

Tensors = Mapping[str, Tensor]


@attrs.frozen
class Noise(Task):
    """Inputs and targets that have nothing to do with each other: normal numbers, by which no gradient is zero.

    Args:
        sizes: what the backbone must know.
        inputs, outputs: the shapes of what the network takes and gives, with -1 on the axis of the examples.
        examples: in each split.
    """

    name: ClassVar[str] = "noise"
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    examples: int = 8
    seed: int = 0

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Numbers that depend on the seed and the split alone."""
        train, validation, test = (self._split(name, device, dtype) for name in ("train", "validation", "test"))
        return Data(
            sizes=dict(self.sizes),
            train=train,
            validation=validation,
            test=test,
            loss=lambda outputs, targets: mse_loss(self.predict(outputs), targets),
            predict=self.predict,
            metrics=lambda: MetricCollection({"mse": MeanSquaredError()}),
            score="mse",
            references=lambda parameters: {},
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """The outputs with the examples first, as targets have them."""
        return outputs.movedim(self.outputs.index(-1), 0)

    def _split(self, name: str, device: torch.device, dtype: torch.dtype) -> Split:
        generator, axis = Seed((self.seed, name)).generator(), self.inputs.index(-1)
        shapes = [[self.examples if n < 0 else n for n in shape] for shape in (self.inputs, self.outputs)]
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
        inputs, targets = drawn[0], self.predict(drawn[1])
        return Split(self.examples, lambda index: (inputs.index_select(axis, index), targets[index]))


@attrs.frozen
class Descent(Architect):
    """Logits whose softmax is the weights, down the gradient of the validation loss."""

    name: ClassVar[str] = "descent"

    def mixing(self, alphas: Tensors) -> Tensors:
        """The softmax at each site."""
        return {address: alpha.softmax(0) for address, alpha in alphas.items()}

    def invert(self, mixing: Tensors) -> Tensors:
        """The logarithms of the weights."""
        return {address: w.log() for address, w in mixing.items()}

    def gradient(self, problem: Bilevel) -> Tensors:
        """The slope of the validation loss at the present weights."""
        loss = problem.valid(problem.weights, problem.alphas)
        if not loss.requires_grad:  # where all that is undecided stands behind edges that were pruned to nothing
            return {name: torch.zeros_like(alpha) for name, alpha in problem.alphas.items()}
        found = torch.autograd.grad(loss, [*problem.alphas.values()], materialize_grads=True)
        return dict(zip(problem.alphas, found, strict=True))

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Adam."""
        return Optimiser(learning_rate=0.01).build(alphas)


@attrs.frozen
class Endless(GrowthCriterion):
    """Nothing ever grows or stops."""

    name: ClassVar[str] = "endless"

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """No opinion."""
        return state, ABSTAIN


@attrs.frozen
class Scripted(GrowthCriterion):
    """Each phase takes so many epochs, and the search so many growths."""

    name: ClassVar[str] = "scripted"
    epochs: int = number(1, low=1, whole=True)
    growths: int = number(2, low=0, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """As it is written, whatever comes; the state counts how often it was asked."""
        last, calls = history[-1], (state or 0) + 1
        if isinstance(last, EpochEnded):
            return calls, Decision("grow", "scripted") if last.epoch + 1 >= self.epochs else ABSTAIN
        return calls, Decision("grow" if last.stage < self.growths else "stop", "scripted")


@attrs.frozen
class Keep(Pruner):
    """Nothing goes."""

    name: ClassVar[str] = "keep"

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """No candidate."""
        return {}


@attrs.frozen
class Kept(Operation):
    """x."""

    name: ClassVar[str] = "kept"
    arity: ClassVar[int] = 1
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, width: int) -> nn.Module:
        """No parameters."""
        return nn.Identity()


@attrs.frozen
class Turned(Operation):
    """tanh(W x + b)."""

    name: ClassVar[str] = "turned"
    arity: ClassVar[int] = 1

    def build(self, *, width: int) -> nn.Module:
        """A linear map and its tanh."""
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class Links(nn.Module):
    """The nodes of a chain, one behind the other, and a linear map."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        cell, width = structure.cell("chain"), structure.size("inputs")
        self.links = nn.ModuleDict({s.id: MixedOperation(Address.of("chain", s.id), s, width=width) for s in cell.sites})
        self.gates = nn.ModuleDict({n.id: Gate(Address.of("chain", n.id)) for n in cell.nodes if n.inherits})
        self.head = nn.Linear(width, structure.size("outputs"))

    def forward(self, x: Tensor, shares: MixingWeights) -> Tensor:
        """From (..., inputs) to (..., outputs)."""
        for name, link in self.links.items():
            own = link(shares, x)
            x = self.gates[name](x, own) if name in self.gates else own
        return self.head(x)


@attrs.frozen
class Chain(Backbone):
    """A node takes in the one before it, the first one the inputs. Operations are built with `width`, that of the inputs."""

    name: ClassVar[str] = "chain"
    inputs: ClassVar[tuple[str, ...]] = ("x",)
    operations: tuple[Operation, ...] = nested("operation", default=(Kept(), Turned()), validator=operations_validator(1))

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """One cell. `sizes` has `inputs` and `outputs`."""
        structure = Structure(self, self.require_sizes(sizes, "inputs", "outputs"), (("chain", Cell()),))
        for _ in range(nodes):
            structure = self.grown(structure, "chain").structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """The chain and its head."""
        return Links(structure)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """One node more at the end, born as the one before."""
        last = self.outputs(structure.cell(cell)) or self.inputs
        child, node = add_node(structure, cell, lambda id: {id: last}, self.operations)
        return GrownStructure(child, node, last, initial_mixing(child, node, last))

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """All but the strongest of each node."""
        return all_but_strongest(structure, mixing)
