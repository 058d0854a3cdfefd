"""Shape adjustment: from any number of channels to that of a cell, at the same or at half the resolution (Liu et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class Projection(nn.Module):
    """ReLU, 1 x 1 convolution, BatchNorm: from (batch, inputs, height, width) to as many channels as asked."""

    def __init__(self, inputs: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """The same height and width."""
        return self.norm(self.convolution(relu(x)))


class FactorisedReduction(nn.Module):
    """ReLU, two 1 x 1 convolutions of stride 2, side by side, BatchNorm: half of the channels see the pixels at even places,
    the other half, if there is more than one channel, those at odd ones.
    """

    def __init__(self, inputs: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, channels - channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, channels // 2, 1, stride=2, bias=False) if channels > 1 else None
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width, rounded up: beyond the last odd place stands a zero."""
        x = relu(x)
        if self.odd is None:
            return self.norm(self.even(x))
        height, width = x.shape[2:]
        odd = pad(x, (0, width % 2, 0, height % 2))[..., 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(odd)], 1))
