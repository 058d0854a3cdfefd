"""The search space of NAS-Bench-201 (Dong & Yang 2020, sections 2.1 and 2.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
from torch import Tensor, nn
from torch.nn.functional import relu

from nasframe import Address, Cell, Operation, Site, Structure
from nasframe.network.cell import CellModule
from nasframe.network.mixing import MixingWeights
from nasframe.options import flag, nested, number
from nasframe.structure.editing import GrownStructure, add_node, initial_mixing, operations_validator
from nasframe_convolutional.adjust import ConvolutionLayer
from nasframe_convolutional.backbone import ImageBackbone
from nasframe_convolutional.cell import ImageBody, checked_images
from nasframe_convolutional.operations import AvgPool, DenseConvolution, Identity, Zero

#: the candidates of every edge, by their published names, in the order of the digits of a cell
OPERATIONS: Mapping[str, Operation] = {
    "none": Zero(),
    "skip_connect": Identity(),
    "nor_conv_1x1": DenseConvolution(1),
    "nor_conv_3x3": DenseConvolution(3),
    "avg_pool_3x3": AvgPool(3, normalised=False),
}


@attrs.frozen
class NasBench201(ImageBackbone):
    """Image networks of three stages of equal cells, with residual blocks that halve the resolution between the stages.

    A node is the sum of one edge from the input of the cell and from each node before it; the cell outputs its last node. All cells
    share structure and alphas. The cells of the benchmark have three nodes beside their input. A task must give the sizes channels
    and classes.

    Args:
        channels: the number of channels of the first stage, C. It doubles from stage to stage.
        cells: the number of cells of each stage, N.
        affine: whether the BatchNorms of the candidates scale and shift. False for a search, true for a network that is trained
            with fixed cells.
        operations: the candidates of every edge, built with `channels`, `stride` and `affine`.
    """

    name: ClassVar[str] = "nas_bench_201"
    inputs: ClassVar[tuple[str, ...]] = ("input",)
    channels: int = number(16, low=1, whole=True)
    cells: int = number(5, low=1, high=100, whole=True)
    affine: bool = flag(False)
    operations: tuple[Operation, ...] = nested("operation", default=(*OPERATIONS.values(),), validator=operations_validator(1))

    def initial(self, sizes: Mapping[str, int], nodes: int) -> Structure:
        """Return the structure with one cell type of that many nodes; the benchmark has three."""
        structure = Structure(self, self.require_sizes(sizes, "channels", "classes"), (("cell", Cell()),))
        for _ in range(nodes):
            structure, _ = self._extended(structure)
        return structure

    def body(self, structure: Structure) -> nn.Module:
        """Return the classifier."""
        cell = structure.cell("cell")
        layers: list[nn.Module] = []
        for stage in range(3):
            channels = self.channels * 2**stage
            if stage:
                layers.append(ResidualBlock(channels // 2, channels))
            sizes = functools.partial(_sizes, channels, self.affine)
            layers += [CellModule("cell", cell, sizes) for _ in range(self.cells)]
        return Body(structure.size("channels"), structure.size("classes"), layers, self.channels)

    def grown(self, structure: Structure, cell: str) -> GrownStructure:
        """Return the structure with one more node, which starts as a copy of the node that was the last."""
        outputs = self.outputs(structure.cell(cell))
        child, node = self._extended(structure)
        return GrownStructure(child, node, outputs, initial_mixing(child, node, outputs))

    def _extended(self, structure: Structure) -> tuple[Structure, Address]:
        # For three nodes the order of the edges is that of the published digits: 0->1, 0->2, 1->2, 0->3, 1->3, 2->3.
        sources = (*self.inputs, *(node.id for node in structure.cell("cell").nodes))
        return add_node(structure, "cell", lambda node: {f"{s}-{node}": (s,) for s in sources}, self.operations)

    def derive(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all candidates but the strongest of each edge, which may be zero, as in the published code."""
        sites = {address: site for address, site in structure.sites() if not site.decided}
        strongest = {address: site.candidates[int(mixing[address].argmax())].id for address, site in sites.items()}
        return {address: {c.id for c in site.candidates} - {strongest[address]} for address, site in sites.items()}


def _sizes(channels: int, affine: bool, site: Site) -> Mapping[str, int]:
    return {"channels": channels, "stride": 1, "affine": affine}


class ResidualBlock(nn.Module):
    """A residual block of two 3 x 3 convolutions, which halves the resolution.

    The shortcut is a 2 x 2 average pooling of stride 2 and a 1 x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ConvolutionLayer(inputs, outputs, 3, 2, affine=True)
        self.second = ConvolutionLayer(outputs, outputs, 3, 1, affine=True)
        # ceil_mode: the convolution of stride 2 rounds the sides of an image up, too
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the height and width, rounded up."""
        return self.shortcut(self.pool(x)) + self.second(self.first(x))


class Body(ImageBody):
    """A classifier: a 3 x 3 convolution, cells and residual blocks, BatchNorm, ReLU, the mean over all pixels, and a linear map.

    Args:
        inputs: the number of channels of the images.
        classes: the number of classes.
        layers: the cells and residual blocks. Each residual block doubles the number of channels.
        channels: the number of channels of the first cell.
    """

    def __init__(self, inputs: int, classes: int, layers: list[nn.Module], channels: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.BatchNorm2d(4 * channels)
        self.linear = nn.Linear(4 * channels, classes)

    def forward(self, images: Tensor, mixing: MixingWeights) -> Tensor:
        """Return the class scores (batch, classes) of images (batch, channels, height, width)."""
        with checked_images(images, self.inputs):
            x = self.stem(images)
            for layer in self.layers:
                # the states of a cell by name, the last of which is that of its last node
                x = [*layer.states({"input": x}, mixing).values()][-1] if isinstance(layer, CellModule) else layer(x)
            return self.linear(relu(self.norm(x)).mean((2, 3)))
