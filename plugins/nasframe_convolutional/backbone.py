"""The convolutional backbone of DARTS (Liu et al. 2019, 2.1 and 3.1.1; PR-DARTS for the mean)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Address, Backbone, Cell, Operation, Seed, Site, Space, Structure
from nasframe.errors import ChangeError
from nasframe.interfaces.pruner import all_but_strongest
from nasframe.network.mixing import MixedOperation, readable
from nasframe.network.outputs import Outputs
from nasframe.options import choice, flag, nested, number
from nasframe.structure.editing import GrownStructure, add_node, initial_mixing, operations_validator
from nasframe_convolutional.adjust import channels_last_is_safe
from nasframe_convolutional.cell import (
    AddedCell,
    Auxiliary,
    CifarStem,
    Classifier,
    Head,
    ImageBody,
    ImageCell,
    ImageNetStem,
    Units,
    channels_of,
)
from nasframe_convolutional.edges import DroppedIdentities
from nasframe_convolutional.operations import AvgPool, Identity, MaxPool, SeparableConvolution, Zero

STEMS: Mapping[str, type[CifarStem | ImageNetStem]] = {"cifar": CifarStem, "imagenet": ImageNetStem}

#: the candidates of DARTS (Liu et al. 2019, 3.1.1)
DARTS = (
    Zero(),
    MaxPool(),
    AvgPool(),
    Identity(),
    SeparableConvolution(3, expansion=(1,)),
    SeparableConvolution(5, expansion=(1,)),
    SeparableConvolution(3, dilation=2),
    SeparableConvolution(5, dilation=2),
)


class ImageBackbone(Backbone):
    """Base class of backbones of images, which run in the memory layout in which most operations are faster.

    Its bodies are `ImageBody`, and its operations are built with `channels`, `stride` and `affine`.
    """

    channels: int
    affine: bool

    def run(self, body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
        """Return what the body computes, with the channels of a pixel side by side in memory, where most operations are faster.

        A body with a convolution for which this layout is not known to be safe keeps torch's default layout.
        """
        last = isinstance(body, ImageBody) and body.channels_last and inputs.dim() == 4
        layout = torch.channels_last if last else torch.contiguous_format
        return readable(body, inputs.contiguous(memory_format=layout), mixing)

    def slow_parts(self, structure: Structure) -> Sequence[str]:
        """Return a sentence if an operation rules the faster layout out."""
        # without duplicates and in a fixed order, which a set would not keep
        operations = dict.fromkeys(c.operation for _, s in structure.sites() for c in s.candidates)
        with Seed(("layout",)).as_global():  # building draws weights, and must not move the global generator
            unsafe = [
                operation.name
                for operation in operations
                if not channels_last_is_safe(operation.build(channels=self.channels, stride=2, affine=self.affine))
            ]
        if not unsafe:
            return ()
        return [
            f"the network runs in torch's default layout, which is slower: {', '.join(dict.fromkeys(unsafe))} may run into a fault of "
            "oneDNN in channels last; build strided 1 x 1 convolutions with nasframe_convolutional.Convolution"
        ]


@attrs.frozen
class DartsConvolutional(ImageBackbone):
    """Image networks of cells of two types: "normal", and "reduction", which halves the resolution and doubles the channels.

    The inputs of a cell are the outputs of the two cells before it, projected to its number of channels. A node is the sum over
    edges from both inputs and from every node before it. The cells at one and at two thirds of the depth are reductions.
    All cells of a type share structure and alphas. A task must give the sizes channels, classes, height and width.

    Args:
        channels: the number of channels of each node of the first cell, C.
        cells: the number of cells, L.
        output: what a cell outputs: the "concatenation" of its nodes, as in DARTS; their "mean", as in PR-DARTS's text; or the
            concatenation of its "loose_ends", the nodes that are no input of another node, as in NASNet. A cell with loose ends
            cannot grow.
        stem: "cifar", one convolution, or "imagenet", three convolutions that reduce the resolution to an eighth.
        affine: whether BatchNorms scale and shift. False for a search, so that the alphas of candidates compare; then poolings are
            followed by a BatchNorm, too. True for a network that is trained with fixed cells, where they are not.
        auxiliary: the weight of the loss of an auxiliary head at two thirds of the depth; 0 for no such head.
        drop_path: the probability that an edge is dropped for an example in training (never an identity). It rises linearly from 0
            over the optimiser's `epochs`, if these are given.
        identity_dropout: the probability that dropout sets an entry of an identity's output to zero, at the beginning of a phase. It
            falls linearly to 0 over the `epochs` of the phase, if these are given (P-DARTS, Chen et al. 2019).
        operations: the candidates of every edge, built with `channels`, `stride` and `affine`.
        added: the places of the cells behind which the network grew by a normal cell, in the order of growth, counted from 0. Each
            is behind a gate (`nasframe_convolutional.cell.AddedCell`).
    """

    name: ClassVar[str] = "darts_convolutional"
    inputs: ClassVar[tuple[str, ...]] = ("i0", "i1")
    channels: int = number(16, low=1, whole=True)
    cells: int = number(8, low=1, high=100, whole=True)
    output: str = choice("concatenation", "mean", "loose_ends", default="concatenation")
    stem: str = choice(*STEMS, default="cifar")
    affine: bool = flag(False)
    auxiliary: float = number(0.0, low=0.0)
    drop_path: float = number(0.0, low=0.0, high=1.0)
    identity_dropout: float = number(0.0, low=0.0, high=1.0)
    operations: tuple[Operation, ...] = nested("operation", default=DARTS, validator=operations_validator(1))
    added: tuple[int, ...] = attrs.field(default=())

    @added.validator
    def _check_added(self, attribute: object, value: object) -> None:
        if not isinstance(value, tuple) or any(type(place) is not int or place not in self.places for place in value):
            raise ValueError(
                f"added is {value!r}; it must list the places of normal cells behind which a cell can be added. With {self.cells} cells "
                f"these are {[*self.places]}"
            )

    @property
    def places(self) -> tuple[int, ...]:
        """Return the places of the cells behind which a normal cell can be added.

        These are the normal cells behind another normal cell, and the last cell if it is normal: the cells behind
        them then read outputs of the shape of a normal cell's, however the cell types grow.
        """
        plan, last = self.plan, self.cells - 1
        return tuple(i for i in range(1, self.cells) if plan[i] == "normal" and (plan[i - 1] == "normal" or i == last))

    @property
    def plan(self) -> tuple[str, ...]:
        """Return the type of each cell, from the stem to the head."""
        # counted from 0 (Liu et al. 2019, 3.1.1)
        reductions = (self.cells // 3, 2 * self.cells // 3)
        return tuple("reduction" if i in reductions else "normal" for i in range(self.cells))

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return the structure with the cell types of the plan, each with that many nodes."""
        types = [type for type in ("normal", "reduction") if type in self.plan]
        structure = Structure(
            self, self.require_sizes(sizes, "channels", "classes", "height", "width"), tuple((t, Cell()) for t in types)
        )
        for type in types:
            for _ in range(nodes):
                # not by `grown`: a first node has nothing to preserve, and cells with loose ends can be built but not grown
                structure, _ = self._extended(structure, type)
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """Return the classifier: the stem, the cells of the plan, and the heads."""
        stem, middle = STEMS[self.stem](structure.size("channels"), self.channels), 2 * self.cells // 3
        # both inputs of the first cell are outputs of the stem, with the same number of channels
        before = last = channels_of("stem", channels=stem.channels)
        halved, channels, cells, behind = stem.halved, self.channels, [], []
        size = (structure.size("height"), structure.size("width"))
        # the stem for ImageNet halves the resolution three times
        for _ in range(3 if halved else 0):
            size = half(size)
        auxiliary = None
        for place, type in enumerate(self.plan):
            if type == "reduction":
                channels, size = 2 * channels, half(size)
            cells.append(self._cell(structure, type, (before, last), halved, channels))
            # behind a reduction, the earlier input of the next cell has twice the resolution of the later one
            halved = type == "reduction"
            # Channels are labelled by the node that makes them, so that after a growth the consumers find the old ones by
            # their labels. A mean keeps its label however many nodes it is taken of.
            made_by = ("mean",) if self.output == "mean" else self.outputs(structure.cell(type))
            before, last = last, channels_of(*made_by, channels=channels)
            behind.append((before, last, channels))
            if place == middle and self.auxiliary:
                auxiliary = Auxiliary(last, size, structure.size("classes"), normalised=self.stem == "cifar")
        head = Head(last, structure.size("classes"))
        added = []
        for turn, place in enumerate(self.added):
            before, last, channels = behind[place]
            at_end = place == self.cells - 1
            # what precedes a further cell at the end is the last cell of the plan, and not the one before that
            sources = (last if at_end and place in self.added[:turn] else before, last)
            cell = self._cell(structure, "normal", sources, False, channels)
            added.append(AddedCell(cell, Address.of("normal", f"added{turn}"), place, at_end))
        images = structure.size("channels")
        return Classifier(images, stem, cells, added, head, auxiliary=auxiliary, middle=middle, weight=self.auxiliary)

    def _cell(self, structure: Structure, type: str, sources: tuple[Units, Units], halved: bool, channels: int) -> ImageCell:
        cell = structure.cell(type)
        return ImageCell(
            type,
            cell,
            self.outputs(cell),
            mean=self.output == "mean",
            sources=sources,
            halved=halved,
            channels=channels,
            affine=self.affine,
            drop_path=self.drop_path,
            mixed_operation=self.mixed_operation,
        )

    def mixed_operation(self, address: Address, site: Site, **sizes: int) -> MixedOperation:
        """Return the module of an edge in one cell: the sum of its candidates, times their mixing weights.

        A subclass overrides it to change how the candidates of all edges are evaluated, for example on a part of the channels.

        Args:
            address: the address of the edge.
            site: the edge.
            **sizes: what its operations are built with: channels, stride and affine.
        """
        if self.identity_dropout:
            return DroppedIdentities(address, site, rate=self.identity_dropout, **sizes)
        return MixedOperation(address, site, **sizes)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node, which has an edge from each input and node before it.

        If the cell outputs a concatenation, the node inherits nothing, because the consumers of its channels start with weights
        of zero. If it outputs a mean, the node starts as the mean of the old nodes, provided that candidates can be the identity
        and zero.

        Raises:
            ChangeError: the cell outputs its loose ends.
        """
        if self.output == "loose_ends":
            raise ChangeError(
                "a cell that outputs its loose ends cannot grow, because a new node would use them as inputs; take the output "
                "'concatenation'"
            )
        child, node = self._extended(structure, cell)
        if self.output == "concatenation":
            return GrownStructure(child, node)
        outputs = self.outputs(structure.cell(cell))
        return GrownStructure(child, node, outputs, initial_mixing(child, node, outputs))

    def deepened(self, structure: Structure) -> Sequence[Structure]:
        """Return the structures with one more normal cell, behind each cell where its inputs and its output have one shape."""
        deeper = (attrs.evolve(self, added=(*self.added, place)) for place in self.places)
        return tuple(attrs.evolve(structure, backbone=backbone) for backbone in deeper)

    def _extended(self, structure: Structure, type: str) -> tuple[Structure, Address]:
        old = structure.cell(type)
        # The order of the edges of a node is that of their sources, as in the published cells.
        sources = (*self.inputs, *(node.id for node in old.nodes))
        return add_node(structure, type, lambda node: {f"{s}-{node}": (s,) for s in sources}, self.operations)

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """Return the nodes that a cell outputs: all, or those that are no input of another node."""
        taken = {i for s in cell.sites for i in s.inputs} if self.output == "loose_ends" else set()
        return tuple(node.id for node in cell.nodes if node.id not in taken)

    def widths(self, structure: Structure) -> Mapping[str, int]:
        """Return the number of channels of the first cell, of which all others are multiples; nothing if it is 1."""
        # The depthwise convolution of a single channel is like a dense one, so how its weight grows cannot be seen.
        return {"channels": self.channels} if self.channels > 1 else {}

    def example(self, structure: Structure) -> Tensor:
        """Return two images."""
        return torch.zeros(2, *(structure.size(name) for name in ("channels", "height", "width")))

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates but the strongest ones of each node's two strongest edges, without zero (Liu et al. 2019, 2.4)."""
        return all_but_strongest(structure, mixing, 2, distinct=True)

    def space(self, structure: Structure) -> Space:
        """Return the architectures in which each node has two edges with one operation each, which is not zero."""
        return Space(structure, keep=2)


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return half of a height and a width, rounded up."""
    return -(-size[0] // 2), -(-size[1] // 2)
