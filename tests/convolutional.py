"""Image networks for the laws: a task of blobs, a stranger's operations, and networks that have trained."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import attrs
import torch
import toy
from full import FULL
from hypothesis import strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import AvgPool, DartsConvolutional, Identity, MaxPool, SeparableConvolution, Zero
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from nasframe import Bound, Data, Operation, Optimiser, Seed, Split, Strategy, Task
from nasframe.change.edit import remove_candidates
from nasframe.options import flag, number
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.fakes import Endless, Scripted
from nasframe.testing.strategies import removals
from nasframe.testing.trained import TrainedNetwork


@attrs.frozen
class Convolution(Operation):
    """An operation that a stranger might write, without optional members: ReLU, convolution, BatchNorm.

    Args:
        kernel: the size of the kernel.
        bias: whether the convolution has a bias. The BatchNorm subtracts it again, so that its gradient is zero. Where the
            input is constant, the BatchNorm returns rounding only, whose sign the next ReLU reads: no law about gradients
            holds there.
    """

    name: ClassVar[str] = "convolution"
    arity: ClassVar[int] = 1
    kernel: int = number(3, low=1, whole=True)
    bias: bool = flag(False)

    def build(self, *, channels: int, stride: int, affine: bool = True) -> nn.Module:
        convolution = nn.Conv2d(channels, channels, self.kernel, stride, self.kernel // 2, bias=self.bias)
        return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels, affine=affine))


class Saturated(nn.Module):
    """The module of tanh(w x), with one w for each channel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.w = nn.Parameter(0.5 * torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.w * x[..., :: self.stride, :: self.stride])


@attrs.frozen
class Saturation(Operation):
    """A smooth operation that implements `magnitude`."""

    name: ClassVar[str] = "saturation"
    arity: ClassVar[int] = 1

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        return Saturated(channels, stride)

    def magnitude(self, module: nn.Module) -> Bound:
        return Bound({(0,): float(module.w.detach().abs().max())})


@attrs.frozen
class Blobs(Task):
    """Noisy images of a blob that is round, lying or standing.

    Args:
        size: images in each part.
        flips: whether those to train on are mirrored at random.
        validated: whether there is a validation part.
    """

    name: ClassVar[str] = "blobs"
    size: int = number(24, low=1, whole=True)
    channels: int = number(1, low=1, whole=True)
    height: int = number(8, low=1, whole=True)
    width: int = number(8, low=1, whole=True)
    flips: bool = flag(False)
    validated: bool = flag(True)

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        return Data(
            sizes={"channels": self.channels, "classes": 3, "height": self.height, "width": self.width},
            train=self._split("train", self.size, device, dtype),
            validation=self._split("validation", self.size if self.validated else 0, device, dtype),
            test=self._split("test", self.size, device, dtype),
            loss=nn.functional.cross_entropy,
            losses=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none"),
            predict=lambda outputs: outputs.argmax(1),
            metrics=lambda: MetricCollection({"accuracy": MulticlassAccuracy(3)}),
            score="accuracy",
            references=lambda parameters: {},
        )

    def _split(self, purpose: str, size: int, device: torch.device, dtype: torch.dtype) -> Split:
        generator, shape = Seed(("blobs", purpose)).generator(), (size, self.channels, self.height, self.width)
        targets = torch.arange(size) % 3
        centre = 0.25 + 0.5 * torch.rand(2, size, 1, 1, 1, generator=generator, dtype=torch.float64)
        width = torch.tensor([[0.12, 0.12], [0.06, 0.25], [0.25, 0.06]], dtype=torch.float64)[targets].T[..., None, None, None]
        y = torch.linspace(0, 1, self.height, dtype=torch.float64)[:, None]
        x = torch.linspace(0, 1, self.width, dtype=torch.float64)
        blob = (-(((y - centre[0]) / width[0]) ** 2 + ((x - centre[1]) / width[1]) ** 2) / 2).exp()
        noise = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
        images, targets = (blob + noise).to(device, dtype), targets.to(device)

        def batch(index: Tensor) -> tuple[Tensor, Tensor]:
            return images[index], targets[index]

        def draw(index: Tensor) -> tuple[Tensor, Tensor]:
            mirrored = torch.rand(len(index)) < 0.5
            return torch.where(mirrored[:, None, None, None], images[index].flip(3), images[index]), targets[index]

        return Split(size, batch, draw if self.flips else batch)


PLUGINS = Plugins((*toy.PLUGINS.found, Plugin("strangers", "tests", "0", (Blobs, Convolution, Saturation))))
#: candidates by which a mean can grow, and others
FEW: tuple[Operation, ...] = (Convolution(), Identity(), Zero())
OTHERS: tuple[Operation, ...] = (SeparableConvolution(expansion=(1,)), MaxPool(), AvgPool(), Saturation(), Convolution(1))


def small(**options: Any) -> DartsConvolutional:
    """Return a backbone of few channels and cells."""
    return DartsConvolutional(**({"channels": 2, "cells": 4, "operations": FEW} | options))


def image_strategy(**changes: Any) -> Strategy:
    """Return a strategy with two growths and pruning."""
    parts: dict[str, Any] = {
        "task": Blobs(),
        "backbone": small(),
        "architect": FirstOrder(Optimiser(learning_rate=0.01)),
        "criterion": Scripted(),
        "pruner": Strongest(keep=2),
        "growth": (NodeGrowth(),),
        "batch": 8,
        "optimiser": Optimiser(learning_rate=0.01),
        "dtype": "float64",
    }
    return Strategy(**(parts | changes))


@functools.cache
def _trained(nodes: int, backbone: DartsConvolutional, task: Blobs) -> TrainedNetwork:
    return TrainedNetwork.of(image_strategy(task=task, backbone=backbone, nodes=nodes, criterion=Endless(), growth=()), 5)


def trained(nodes: int = 1, task: Blobs = Blobs(), **options: Any) -> TrainedNetwork:
    """Return a network in the middle of its second epoch."""
    return _trained(nodes, small(**options), task).copy()


#: nodes, images and options of networks of one instance of a type and of several: a list, so that each is trained once
SUPERNETS: tuple[tuple[int, Blobs, dict[str, Any]], ...] = (
    (1, Blobs(), {"channels": 1, "cells": 3}),
    (2, Blobs(channels=2, height=7, width=9), {"channels": 3, "cells": 3}),
    (2, Blobs(height=4, width=5), {"cells": 1, "affine": True, "operations": (*OTHERS, *FEW)}),
    (1, Blobs(), {"operations": (*FEW, SeparableConvolution(expansion=(1,)))}),
    (2, Blobs(channels=2), {"affine": True, "operations": (*FEW[1:], MaxPool())}),
    (1, Blobs(height=5), {"cells": 5, "operations": (*FEW[1:], Saturation())}),
)


def supernets(*outputs: str) -> st.SearchStrategy[TrainedNetwork]:
    """Draw a supernet whose cells have one of these outputs, by default concatenations or means."""
    output = st.sampled_from(outputs or ("concatenation", "mean"))
    return st.builds(
        lambda s, o: trained(*s[:2], **s[2], output=o), st.sampled_from(SUPERNETS if FULL else SUPERNETS[:3]), output
    )


@st.composite
def parents(draw: st.DrawFn, *outputs: str) -> TrainedNetwork:
    """Draw a supernet, or an architecture that has trained on; pruning may have removed whole cells of it."""
    supernet = draw(supernets(*outputs))
    if draw(st.booleans()):
        return supernet
    gone = draw(removals(supernet.network.structure, decide=True))
    return supernet.after(remove_candidates(supernet.network.structure, gone)).train(2)
