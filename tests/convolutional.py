"""A small convolutional backbone in the manner of DARTS, as a stranger would write it, and an image task for it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import count
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from nasframe import (
    Backbone,
    Candidate,
    Cell,
    Data,
    Grown,
    Mixture,
    Node,
    Operation,
    Seed,
    Shares,
    Site,
    Split,
    Structure,
    Task,
    all_but_strongest,
    consumes,
    nested,
    number,
)

#: the units of a cell's output: its nodes' channels, in the order of the concatenation
Units = tuple[tuple[str, int], ...]


@attrs.frozen
class Convolution(Operation):
    """ReLU, convolution, BatchNorm."""

    name: ClassVar[str] = "convolution"
    arity: ClassVar[int] = 1
    kernel: int = number(3, low=1, whole=True)

    def build(self, *, channels: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(channels, channels, self.kernel, stride, self.kernel // 2, bias=False)
        return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels))


@attrs.frozen
class Skip(Operation):
    """The identity, or a mean pooling where the edge halves the resolution."""

    name: ClassVar[str] = "skip"
    arity: ClassVar[int] = 1

    def build(self, *, channels: int, stride: int) -> nn.Module:
        return nn.AvgPool2d(stride) if stride > 1 else nn.Identity()


class Nothing(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :: self.stride, :: self.stride])


@attrs.frozen
class Zero(Operation):
    """Nothing: an edge that is not there."""

    name: ClassVar[str] = "zero"
    arity: ClassVar[int] = 1
    zero: ClassVar[bool] = True

    def build(self, *, channels: int, stride: int) -> nn.Module:
        return Nothing(stride)


@attrs.frozen
class Convolutional(Backbone):
    """A node is the sum over edges from both input states and from every earlier node; a cell puts out all its nodes.

    Args:
        channels: of each node of the first cell; a reduction doubles them and halves the resolution.
        plan: the type of each instance, from the stem to the head.
        dropout: probability, before the head.
        operations: the candidates of every edge, built with `channels` and `stride`.
    """

    name: ClassVar[str] = "convolutional"
    inputs: ClassVar[tuple[str, ...]] = ("i0", "i1")
    channels: int = number(2, low=1, whole=True)
    plan: tuple[str, ...] = ("normal", "reduction", "normal", "reduction")
    dropout: float = number(0.0, low=0.0, high=1.0)
    operations: tuple[Operation, ...] = nested("operation", default=(Convolution(), Skip(), Zero()))

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        types = ("normal", "reduction")
        structure = Structure(self, tuple(sorted(sizes.items())), tuple((type, Cell()) for type in types))
        for type in types * nodes:
            structure = self.grown(structure, type).structure
        return structure

    def body(self, structure: Structure) -> nn.Module:
        return Classifier(structure, self)

    def grown(self, structure: Structure, cell: str) -> Grown:
        """A node with edges of its own: it inherits nothing, as what takes it in starts at zero."""
        old = structure.cell(cell)
        node, ids = f"n{old.next_node}", count(structure.next_id)
        sites = tuple(
            Site(f"{state}>{node}", node, (state,), tuple(Candidate(next(ids), o) for o in self.operations))
            for state in ("i0", "i1", *(n.id for n in old.nodes))
        )
        new = Cell((*old.nodes, Node(node)), old.sites + sites, old.next_node + 1)
        return Grown(structure.replace_cell(cell, new, len(sites) * len(self.operations)), node, (), {})

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        return tuple(n.id for n in cell.nodes)

    def derive(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """A node keeps two edges, those of the strongest operations but zero (Liu et al.)."""
        return all_but_strongest(structure, weights, 2)


def units(cell: Cell, channels: int) -> Units:
    """What a cell's output carries, in order."""
    return tuple((node.id, channel) for node in cell.nodes for channel in range(channels))


class Preprocess(nn.Sequential):
    """ReLU, 1 x 1 convolution, BatchNorm: from all units of a cell's output to as many channels as a node has."""

    def __init__(self, source: Units, channels: int, stride: int) -> None:
        convolution = nn.Conv2d(len(source), channels, 1, stride, bias=False)
        super().__init__(nn.ReLU(), convolution, nn.BatchNorm2d(channels))
        self.source = source

    def units(self) -> dict:
        return {"1.weight": (None, consumes(*self.source), None, None)}


class Head(nn.Linear):
    """From the means of all units to the classes."""

    def __init__(self, source: Units, classes: int) -> None:
        super().__init__(len(source), classes)
        self.source = source

    def units(self) -> dict:
        return {"weight": (None, consumes(*self.source))}


class Instance(nn.Module):
    """One cell of a type, on the outputs of the two cells before it."""

    def __init__(self, type: str, cell: Cell, before: nn.Module, last: nn.Module, channels: int) -> None:
        super().__init__()
        self.cell = cell
        self.before, self.last = before, last
        stride = 2 if type == "reduction" else 1
        self.edges = nn.ModuleDict(
            {
                s.id: Mixture(f"{type}/{s.id}", s, channels=channels, stride=stride if s.inputs[0] in ("i0", "i1") else 1)
                for s in cell.sites
            }
        )

    def forward(self, shares: Shares, before: Tensor, last: Tensor) -> Tensor:
        states = {"i0": self.before(before), "i1": self.last(last)}
        for node in self.cell.nodes:
            sites = [s for s in self.cell.sites if s.node == node.id]
            states[node.id] = sum(self.edges[s.id](shares, states[s.inputs[0]]) for s in sites)
        return torch.cat([states[node.id] for node in self.cell.nodes], 1)


class Classifier(nn.Module):
    """A stem, the instances of the plan, and a head."""

    def __init__(self, structure: Structure, backbone: Convolutional) -> None:
        super().__init__()
        channels = backbone.channels
        self.stem = nn.Conv2d(structure.size("channels"), channels, 3, padding=1)
        before = last = tuple(("stem", channel) for channel in range(channels))
        halved = False
        self.cells = nn.ModuleList()
        for type in backbone.plan:
            channels *= 2 if type == "reduction" else 1
            inputs = Preprocess(before, channels, 2 if halved else 1), Preprocess(last, channels, 1)
            self.cells.append(Instance(type, structure.cell(type), *inputs, channels))
            before, last, halved = last, units(structure.cell(type), channels), type == "reduction"
        self.dropout = nn.Dropout(backbone.dropout)
        self.head = Head(last, structure.size("classes"))

    def forward(self, inputs: Tensor, shares: Shares) -> Tensor:
        """From (batch, channels, height, width) to (batch, classes)."""
        before = last = self.stem(inputs)
        for cell in self.cells:
            before, last = last, cell(shares, before, last)
        return self.head(self.dropout(last.mean((2, 3))))


@attrs.frozen
class Blobs(Task):
    """Noisy 8 x 8 images of a blob that is round, lying or standing."""

    name: ClassVar[str] = "blobs"
    size: int = number(24, low=1, whole=True)

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        return Data(
            sizes={"channels": 1, "classes": 3},
            train=self._split("train", device, dtype),
            validation=self._split("validation", device, dtype),
            test=self._split("test", device, dtype),
            loss=nn.functional.cross_entropy,
            predict=lambda outputs: outputs.argmax(1),
            metrics=lambda: MetricCollection({"accuracy": MulticlassAccuracy(3)}),
            score="accuracy",
            references=lambda parameters: {},
        )

    def _split(self, purpose: str, device: torch.device, dtype: torch.dtype) -> Split:
        generator = Seed(("blobs", purpose)).generator()
        targets = torch.arange(self.size) % 3
        centre = 2 + 3 * torch.rand(2, self.size, 1, 1, generator=generator, dtype=torch.float64)
        width = torch.tensor([[1.0, 1.0], [0.5, 2.0], [2.0, 0.5]], dtype=torch.float64)[targets].T[..., None, None]
        place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))[:, None]
        blob = (-(((place - centre) / width) ** 2).sum(0) / 2).exp()
        noise = 0.1 * torch.randn(blob.shape, generator=generator, dtype=torch.float64)
        images, targets = (blob + noise)[:, None].to(device, dtype), targets.to(device)
        return Split(self.size, lambda index: (images[index], targets[index]))
