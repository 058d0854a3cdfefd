"""Small parts for tests of other parts: a search needs a part of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

from nasframe import (
    Address,
    AlphaLoss,
    Architect,
    Backbone,
    Bilevel,
    Cell,
    Data,
    Decision,
    Draw,
    GrowthCriterion,
    Mixing,
    Operation,
    Optimiser,
    Proposal,
    Pruner,
    Relaxation,
    Seed,
    Split,
    Structure,
    Task,
)
from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.interfaces.pruner import all_but_strongest
from nasframe.interfaces.relaxation import Sites
from nasframe.network.mixing import Gate, MixedOperation, MixingWeights
from nasframe.options import nested, number
from nasframe.records import EpochEnded
from nasframe.structure.editing import GrownStructure, add_node, initial_mixing, operations_validator

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Tensors = Mapping[str, Tensor]


def _metrics() -> MetricCollection:
    from torchmetrics import MeanSquaredError, MetricCollection  # slower to import than torch

    return MetricCollection({"mse": MeanSquaredError()})


@attrs.frozen
class Noise(Task):
    """A task of random inputs and targets, drawn independently from a normal distribution.

    Args:
        sizes: the sizes that the backbone requires, as pairs of name and number.
        inputs, outputs: the shapes of a batch of inputs and of the network's outputs, with -1 for the axis of the examples.
        examples: the number of examples of each split.
        seed: the seed of the numbers.
    """

    name: ClassVar[str] = "noise"
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    examples: int = 8
    seed: int = 0

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return numbers that depend on the seed and the split alone."""
        train, validation, test = (self._split(name, device, dtype) for name in ("train", "validation", "test"))
        return Data(
            sizes=dict(self.sizes),
            train=train,
            validation=validation,
            test=test,
            loss=lambda outputs, targets: mse_loss(self.predict(outputs), targets),
            losses=lambda outputs, targets: (self.predict(outputs) - targets).square().flatten(1).mean(1),
            predict=self.predict,
            metrics=_metrics,
            score="mse",
            references=lambda parameters: {},
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the outputs with the examples on the first axis, as in the targets."""
        return outputs.movedim(self.outputs.index(-1), 0)

    def _split(self, name: str, device: torch.device, dtype: torch.dtype) -> Split:
        # Drawn in float64 and then rounded, so that both dtypes have the same numbers.
        generator, axis = Seed((self.seed, name)).generator(), self.inputs.index(-1)
        shapes = [[self.examples if n < 0 else n for n in shape] for shape in (self.inputs, self.outputs)]
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
        inputs, targets = drawn[0], self.predict(drawn[1])
        return Split(self.examples, lambda index: (inputs.index_select(axis, index), targets[index]))


@attrs.frozen
class Shares(Relaxation):
    """The softmax of the alphas of each site."""

    name: ClassVar[str] = "shares"

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return the softmax of the alphas of each site."""
        return Mixing({address: alphas[address].softmax(0) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the mixing weights."""
        # The softmax of log w is w where the sum is 1. Any constant could be added.
        return {address: w.log() for address, w in wanted.items()}


@attrs.frozen
class Sigmoids(Relaxation):
    """Sigmoids of the alphas, so that the mixing weights of a site do not sum to one."""

    name: ClassVar[str] = "sigmoids"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return the sigmoid of each alpha."""
        return Mixing({address: alphas[address].sigmoid() for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the alphas of mixing weights between 0 and 1."""
        # log(w / (1 - w)), with log1p so that it is accurate for a small w.
        return {address: w.log() - (-w).log1p() for address, w in wanted.items()}


@attrs.frozen
class Squares(AlphaLoss):
    """The sum of the squares of all alphas and mixing weights, which depends on everything that it is given."""

    name: ClassVar[str] = "squares"

    def loss(self, sites: Sites, alphas: Tensors, mixing: Mixing, progress: float | None) -> Tensor:
        """Return the sum of squares, times 1 plus the progress."""
        factor = 1.0 if progress is None else 1.0 + progress
        return factor * torch.cat([*alphas.values(), *mixing.values()]).square().sum()


@attrs.frozen
class AdamDescent(Architect):
    """An architect that descends the validation loss at the current weights with Adam.

    Args:
        relaxation: turns alphas into mixing weights.
        terms: losses of the alphas that are added to the validation loss.
    """

    name: ClassVar[str] = "adam_descent"
    relaxation: Relaxation = nested("relaxation", default=Shares())
    terms: tuple[AlphaLoss, ...] = nested("alpha_loss", default=())

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return the gradient of the validation loss at the current weights."""
        loss = problem.valid(problem.weights, problem.alphas)
        if not loss.requires_grad:  # pruning has cut off all undecided sites
            return {name: torch.zeros_like(alpha) for name, alpha in problem.alphas.items()}
        found = torch.autograd.grad(loss, [*problem.alphas.values()], materialize_grads=True)
        return dict(zip(problem.alphas, found, strict=True))

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return Adam with the learning rate 0.01."""
        return Optimiser(learning_rate=0.01).build(alphas)


@attrs.frozen
class Endless(GrowthCriterion):
    """A criterion that always abstains, so that a search neither grows nor ends."""

    name: ClassVar[str] = "endless"

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return an abstention, whatever happened."""
        return state, ABSTAIN


@attrs.frozen
class Scripted(GrowthCriterion):
    """A criterion with a fixed schedule.

    Args:
        epochs: the number of epochs of each phase.
        growths: the number of growths, after which the search ends.
    """

    name: ClassVar[str] = "scripted"
    epochs: int = number(1, low=1, whole=True)
    growths: int = number(2, low=0, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return the scheduled decision; the state counts the calls."""
        last, calls = history[-1], (state or 0) + 1
        if isinstance(last, EpochEnded):
            return calls, Decision("end", reason="scripted") if last.epoch + 1 >= self.epochs else ABSTAIN
        return calls, Decision("continue" if last.stage < self.growths else "stop", reason="scripted")


@attrs.frozen
class Keep(Pruner):
    """A pruner that removes nothing."""

    name: ClassVar[str] = "keep"

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return no candidates, so that all are kept."""
        return {}


@attrs.frozen
class PassThrough(Operation):
    """The identity operation, o(x) = x."""

    name: ClassVar[str] = "pass_through"
    arity: ClassVar[int] = 1
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, width: int) -> nn.Module:
        """Return a module without parameters."""
        return nn.Identity()


@attrs.frozen
class Dense(Operation):
    """A dense layer, tanh(W x + b)."""

    name: ClassVar[str] = "dense"
    arity: ClassVar[int] = 1

    def build(self, *, width: int) -> nn.Module:
        """Return a linear map with its tanh."""
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())


class ChainBody(nn.Module):
    """The nodes of a chain, one after the other, and a linear map."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        cell, width = structure.cell("chain"), structure.size("inputs")
        self.links = nn.ModuleDict({s.id: MixedOperation(Address.of("chain", s.id), s, width=width) for s in cell.sites})
        self.gates = nn.ModuleDict({n.id: Gate(Address.of("chain", n.id)) for n in cell.nodes if n.inherits})
        self.head = nn.Linear(width, structure.size("outputs"))

    def forward(self, x: Tensor, mixing: MixingWeights) -> Tensor:
        """Return the outputs of shape (..., outputs) for inputs of shape (..., inputs)."""
        for name, link in self.links.items():
            output = link(mixing, x)
            x = self.gates[name](x, output) if name in self.gates else output
        return self.head(x)


@attrs.frozen
class Chain(Backbone):
    """A backbone of one cell whose nodes form a chain: the input of a node is the node before it, or the input of the network.

    Operations are built with `width`, the number of inputs.

    Args:
        operations: the candidates of each node.
    """

    name: ClassVar[str] = "chain"
    inputs: ClassVar[tuple[str, ...]] = ("x",)
    operations: tuple[Operation, ...] = nested("operation", default=(PassThrough(), Dense()), validator=operations_validator(1))

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return a chain of so many nodes; `sizes` must have `inputs` and `outputs`."""
        structure = Structure(self, self.require_sizes(sizes, "inputs", "outputs"), (("chain", Cell()),))
        for _ in range(nodes):
            structure = self.grown(structure, "chain").structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """Return the nodes of the chain and its head."""
        return ChainBody(structure)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the chain with another node at its end."""
        last = self.outputs(structure.cell(cell)) or self.inputs
        child, node = add_node(structure, cell, lambda id: {id: last}, self.operations)
        return GrownStructure(child, node, last, initial_mixing(child, node, last))

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates but the strongest of each node."""
        return all_but_strongest(structure, mixing)
