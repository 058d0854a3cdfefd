"""The modules of an image network: stems, cells and heads (Liu et al. 2019; Zoph et al. 2018)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from nasframe import Address, Cell, Site
from nasframe.errors import DataError
from nasframe.network.axes import Axis, consumes
from nasframe.network.cell import CellModule, mean
from nasframe.network.mixing import Gate, MixedOperation, MixingWeights
from nasframe.network.outputs import AuxiliaryOutputs
from nasframe_convolutional.adjust import FactorisedReduction, Projection, channels_last_is_safe

#: the labels of the channels of a tensor: the node that makes a channel, and its index
Units = tuple[tuple[str, int], ...]


def channels_of(*sources: str, channels: int) -> Units:
    """Return the labels of the concatenated channels of these sources."""
    return tuple((source, channel) for source in sources for channel in range(channels))


class ImageCell(CellModule):
    """One cell on the outputs of the two before it. A node is the sum of its edges' mixtures.

    Args:
        outputs: the nodes that the cell outputs.
        mean: whether it outputs their mean, instead of their concatenation.
        sources: the labels of the outputs of the two cells before it, the earlier one first.
        halved: whether the later of these has half the resolution of the earlier one.
        channels: the number of channels of each node.
        affine: whether BatchNorms scale and shift.
        drop_path: the probability, at the end of training, that an edge other than an identity is dropped for an example.
        mixed_operation: makes the module of each edge (`DartsConvolutional.mixed_operation`).
    """

    def __init__(
        self,
        type: str,
        cell: Cell,
        outputs: Sequence[str],
        *,
        mean: bool,
        sources: tuple[Units, Units],
        halved: bool,
        channels: int,
        affine: bool,
        drop_path: float,
        mixed_operation: Callable[..., MixedOperation] = MixedOperation,
    ) -> None:
        first = FactorisedReduction if halved else Projection
        # built before the sites: the order of construction decides the initial weights
        adjust = nn.ModuleList([first(len(sources[0]), channels, affine), Projection(len(sources[1]), channels, affine)])
        # only the inputs of a reduction cell have the full resolution; its nodes have half of it
        strides = {s.id: 2 if type == "reduction" and s.inputs[0] in ("i0", "i1") else 1 for s in cell.sites}
        sizes = {s.id: {"channels": channels, "stride": strides[s.id], "affine": affine} for s in cell.sites}
        super().__init__(type, cell, lambda site: sizes[site.id], mixed_operation)
        self.outputs, self.mean, self.sources, self.drop_path = outputs, mean, sources, drop_path
        self.progress = 1.0
        self.adjust = adjust
        self.kept = {s.id for s in cell.sites if is_identity(s, strides[s.id])}

    def forward(self, mixing: MixingWeights, before: Tensor, last: Tensor) -> Tensor:
        """Return the output of the cell from the outputs of the two cells before it."""
        # Both inputs are brought to the channels of the cell, and the earlier one to the resolution of the later one, so
        # that the states can be added.
        inputs = {"i0": self.adjust[0](before), "i1": self.adjust[1](last)}
        states = self.states(inputs, mixing, self._dropped)
        outputs = [states[node] for node in self.outputs]
        return mean(outputs) if self.mean else torch.cat(outputs, 1)

    def _dropped(self, site: Site, output: Tensor) -> Tensor:
        if site.id in self.kept or not self.training:
            return output
        # The probability rises in proportion to the progress of the training (Zoph et al. 2018): `set_progress` sets it
        # before each epoch.
        return drop_examples(output, self.drop_path * self.progress)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """Return the labels of the channels that the first layers consume."""
        return {
            f"adjust.{i}.{name}.weight": (None, consumes(*source), None, None)
            for i, (adjust, source) in enumerate(zip(self.adjust, self.sources, strict=True))
            for name, module in adjust.named_modules()
            if isinstance(module, nn.Conv2d)
        }


class AddedCell(nn.Module):
    """A cell that was added to a network behind a gate g, without a change of what the network computes.

    The outputs (b, l) of the two cells before it become ((1 - g) b + g l, (1 - g) l + g cell(b, l)). At g = 0, the initial value,
    this is (b, l), and at g = 1 the ordinary stack of cells, (l, cell(b, l)).

    Args:
        cell: the cell, whose output has the shape of its later input.
        address: the address of the gate.
        place: the place of the cell behind which this one is.
        at_end: whether no cell but added ones follow. Then the head does not read b, which may have another shape and becomes l.
    """

    def __init__(self, cell: ImageCell, address: Address, place: int, at_end: bool) -> None:
        super().__init__()
        self.cell, self.gate, self.place, self.at_end = cell, Gate(address), place, at_end

    def forward(self, mixing: MixingWeights, before: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the next cell from the outputs of the two cells before this one."""
        computed = self.gate(last, self.cell(mixing, before, last))
        return last if self.at_end else self.gate(before, last), computed


def is_identity(site: Site, stride: int) -> bool:
    """Return whether the edge returns its input."""
    return site.decided and stride == 1 and site.candidates[0].operation.residual == ()


def drop_examples(o: Tensor, probability: float) -> Tensor:
    """Return features with examples set to zero at random, and the others scaled so that the mean stays (Larsson et al. 2017).

    Args:
        o: features of shape (batch, channels, height, width).
        probability: the probability of each example to be dropped.
    """
    if probability == 0:
        return o
    # one factor for each example: a path is dropped with all of its channels and pixels
    factors = torch.empty((len(o), 1, 1, 1), dtype=o.dtype, device=o.device).bernoulli_(1 - probability)
    # at a probability of 1 all factors are 0, and there is nothing to scale
    return o * (factors / (1 - probability) if probability < 1 else factors)


class CifarStem(nn.Module):
    """A 3 x 3 convolution to three times the channels of a node of the first cell, and BatchNorm."""

    halved: ClassVar[bool] = False

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, 3 * channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3 * channels)
        self.channels = 3 * channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two inputs of the first cell, which are the same."""
        x = self.norm(self.convolution(x))
        return x, x


class ImageNetStem(nn.Module):
    """Three 3 x 3 convolutions of stride 2, each with BatchNorm. The outputs of the last two are the inputs of the first cell."""

    halved: ClassVar[bool] = True

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first = convolved(inputs, max(channels // 2, 1))
        self.second = convolved(max(channels // 2, 1), channels)
        self.third = convolved(channels, channels)
        self.channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features at a quarter and at an eighth of the resolution."""
        x = self.second(relu(self.first(x)))
        return x, self.third(relu(x))


def convolved(inputs: int, channels: int) -> nn.Sequential:
    """Return a 3 x 3 convolution of stride 2 and a BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels))


class Auxiliary(nn.Module):
    """A small classifier on the output of a cell within the network (Liu et al. 2019, A.2).

    It pools to 2 x 2 and has a 1 x 1 convolution to 128 and a 2 x 2 convolution to 768 channels.

    Args:
        source: the labels of the input's channels.
        size: the height and width of the input. From 6 to 9, windows of five are averaged, as in the published code.
        classes: the number of classes.
        normalised: whether a BatchNorm follows the second convolution; in the published network for ImageNet none does.
    """

    def __init__(self, source: Units, size: tuple[int, int], classes: int, normalised: bool) -> None:
        super().__init__()
        self.source = source
        # The published code knows the sizes 8 (CIFAR, stride 3) and 7 (ImageNet, stride 2). Adaptive pooling accepts all.
        published = all(5 < length < 10 for length in size)
        # with windows of 5, a stride of size - 5 gives 2 x 2 outputs
        self.pool = nn.AvgPool2d(5, (size[0] - 5, size[1] - 5)) if published else nn.AdaptiveAvgPool2d(2)
        self.first = nn.Sequential(nn.Conv2d(len(source), 128, 1, bias=False), nn.BatchNorm2d(128))
        second: list[nn.Module] = [nn.BatchNorm2d(768)] if normalised else []
        self.second = nn.Sequential(nn.Conv2d(128, 768, 2, bias=False), *second)
        self.linear = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of shape (batch, classes)."""
        return self.linear(relu(self.second(relu(self.first(self.pool(relu(x)))))).flatten(1))

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """Return the labels of the channels that the first layer consumes."""
        return {"first.0.weight": (None, consumes(*self.source), None, None)}


@contextlib.contextmanager
def checked_images(inputs: Tensor, channels: int) -> Iterator[None]:
    """Raise a DataError if inputs are no images with so many channels, or a single one on which a BatchNorm cannot train."""
    # a trace would keep the outcome of the comparison as a constant, with a warning
    if not torch.jit.is_tracing() and (inputs.dim() != 4 or inputs.shape[1] != channels):  # type: ignore[attr-defined, no-untyped-call]
        hint = "; write x.permute(0, 3, 1, 2)" if inputs.dim() == 4 and inputs.shape[3] == channels else ""
        raise DataError(
            f"the inputs have shape {tuple(inputs.shape)}, but the network expects (batch, channels, height, width) with "
            f"{channels} channels{hint}"
        )
    try:
        yield
    except ValueError as error:
        if len(inputs) == 1 and "more than 1 value per channel" in str(error):
            raise DataError(
                f"a training batch has a single image, which the network reduces to one pixel, and BatchNorm cannot normalise "
                f"a single value per channel ({error}); train with batches of two images or more, on larger images, or with "
                "fewer cells"
            ) from error
        raise


class Head(nn.Module):
    """The mean over all pixels, and a linear map to the classes."""

    def __init__(self, source: Units, classes: int) -> None:
        super().__init__()
        self.source = source
        self.linear = nn.Linear(len(source), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of shape (batch, classes)."""
        return self.linear(x.mean((2, 3)))

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """Return the labels of the channels that the first layer consumes."""
        return {"linear.weight": (None, consumes(*self.source))}


class ImageBody(nn.Module):
    """Base class of the bodies of image networks."""

    @functools.cached_property
    def channels_last(self) -> bool:
        """Return whether all convolutions are safe with the channels of a pixel side by side; found once, as modules never change."""
        return channels_last_is_safe(self)


class Classifier(ImageBody):
    """An image classifier: a stem, cells, and a head.

    In training an auxiliary head, if there is one, classifies the output of the cell at index `middle`.

    Args:
        channels: the number of channels of the images.
        added: the cells that were added, in the order in which they were.
        weight: the factor of the auxiliary head's loss.
    """

    def __init__(
        self,
        channels: int,
        stem: nn.Module,
        cells: Sequence[ImageCell],
        added: Sequence[AddedCell],
        head: Head,
        *,
        auxiliary: Auxiliary | None,
        middle: int,
        weight: float,
    ) -> None:
        super().__init__()
        self.channels, self.stem, self.cells, self.head, self.auxiliary = channels, stem, nn.ModuleList(cells), head, auxiliary
        # apart from the others, whose names stay as they were
        self.added = nn.ModuleList(added)
        self.middle, self.weight = middle, weight

    def forward(self, inputs: Tensor, shares: MixingWeights) -> Tensor | AuxiliaryOutputs:
        """Return the class scores (batch, classes) of images (batch, channels, height, width).

        Raises:
            DataError: the images have another shape, or are a single one on which a BatchNorm cannot train.
        """
        with checked_images(inputs, self.channels):
            # At any place the loop holds the outputs of the two cells before it, which is all that a cell reads.
            before, last = self.stem(inputs)
            aside = None
            for place, cell in enumerate(self.cells):
                before, last = last, cell(shares, before, last)
                for added in self.added:
                    if added.place == place:
                        before, last = added(shares, before, last)
                if self.training and self.auxiliary is not None and place == self.middle:
                    aside = self.auxiliary(last)
        outputs = self.head(last)
        return outputs if aside is None else AuxiliaryOutputs(outputs, aside, self.weight)
