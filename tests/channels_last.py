"""Train small image networks in a separate process, which test_channels_last.py starts.

    python tests/channels_last.py PART

PART is "all", or the part of the protection that is left out: "layout" or "subsampling".
"""

from __future__ import annotations

import sys
from typing import ClassVar

import attrs
import torch
from nasframe_convolutional import (
    Asymmetric,
    AvgPool,
    DartsConvolutional,
    DenseConvolution,
    Identity,
    SeparableConvolution,
    cell,
)
from nasframe_convolutional.adjust import Convolution
from torch import nn

from nasframe import Operation, Seed, build


@attrs.frozen
class Foreign(Operation):
    """An operation of another plugin: a plain 1 x 1 convolution, with a stride in reductions."""

    name: ClassVar[str] = "foreign"
    arity: ClassVar[int] = 1

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


#: shipped operations that have kernels of 1 and strides, and the foreign one
SHIPPED = (
    SeparableConvolution(1),
    DenseConvolution(1),
    Asymmetric(1),
    SeparableConvolution(3, expansion=(1,)),
    AvgPool(),
    Identity(),
)
FOREIGN = (Foreign(), Identity())


def train(channels: int, height: int, width: int, operations: tuple[Operation, ...], **options: str) -> None:
    """Take three steps in float32 on random images."""
    backbone = DartsConvolutional(channels=channels, cells=3, operations=operations, **options)
    sizes = {"channels": channels, "classes": 3, "height": height, "width": width}
    network = build(backbone.initial(sizes, 1), Seed((channels, height, width)))
    mixing = {address: alphas.detach().softmax(0) for address, alphas in network.alphas.items()}
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(3):
        optimiser.zero_grad()
        network(torch.randn(4, channels, height, width), mixing).square().sum().backward()
        optimiser.step()


def main(part: str) -> None:
    """Train networks of 1 to 9 channels on images of odd and even sizes, or the two that need the part left out."""
    if part == "layout":
        cell.channels_last_is_safe = lambda body: True  # type: ignore[attr-defined]
        train(4, 16, 16, FOREIGN)
    elif part == "subsampling":
        Convolution.forward = nn.Conv2d.forward  # type: ignore[method-assign]
        train(4, 16, 16, SHIPPED)
    else:
        sides = [(8, 8), (7, 9), (16, 12), (5, 8), (16, 16), (24, 8), (9, 9), (12, 12), (32, 32)]
        for channels, (height, width) in enumerate(sides, 1):
            train(channels, height, width, SHIPPED, stem="imagenet" if height > 16 else "cifar")
            train(channels, height, width, FOREIGN)


if __name__ == "__main__":
    main(sys.argv[1])
