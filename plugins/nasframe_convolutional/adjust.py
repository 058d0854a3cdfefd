"""Layers that bring features to the channels and the resolution of a cell (Liu et al. 2019), and the convolution they need."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu


class Convolution(nn.Conv2d):
    """A convolution whose strided 1 x 1 form first takes the pixels that it reads, and then convolves with stride 1.

    Values and gradients equal those of `torch.nn.Conv2d`. The class avoids a fault of oneDNN, which torch 2.14.1 uses on the CPU:
    in float32 and channels last, the gradient of a strided 1 x 1 kernel without padding and groups is written beyond its memory if
    there are fewer than 8 (AVX2) or 16 (AVX-512) input channels (docs/measurements/strided_convolutions.md).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolved input."""
        if self.kernel_size == (1, 1) and self.padding in ((0, 0), "valid"):
            rows, columns = self.stride
            return conv2d(input[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)
        return super().forward(input)


class ConvolutionLayer(nn.Module):
    """ReLU, k x k convolution and BatchNorm: from `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.convolution = Convolution(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the height and width divided by the stride, rounded up."""
        return self.norm(self.convolution(relu(x)))


class Projection(ConvolutionLayer):
    """ReLU, 1 x 1 convolution and BatchNorm: from `inputs` to `channels` channels."""

    def __init__(self, inputs: int, channels: int, affine: bool) -> None:
        super().__init__(inputs, channels, 1, 1, affine)


class FactorisedReduction(nn.Module):
    """ReLU, two 1 x 1 convolutions of stride 2 side by side, BatchNorm (Liu et al. 2019).

    Half of the output channels see the pixels at even positions; the other half, if there is more than one channel, those at
    odd positions.
    """

    def __init__(self, inputs: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, channels - channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, channels // 2, 1, bias=False) if channels > 1 else None
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the height and width, rounded up."""
        # Subsampling first and convolving with stride 1 equals a strided convolution and avoids its fault, see Convolution.
        x = relu(x)
        even = self.even(x[..., ::2, ::2])
        if self.odd is None:
            return self.norm(even)
        height, width = x.shape[2:]
        # where a side is odd, the last position of its odd half is outside the image: zero
        # Both halves must have the same size, ceil(height / 2) by ceil(width / 2), to be concatenated.
        odd = self.odd(pad(x[..., 1::2, 1::2], (0, width % 2, 0, height % 2)))
        return self.norm(torch.cat([even, odd], 1))


def channels_last_is_safe(body: nn.Module) -> bool:
    """Return whether oneDNN computes all convolutions of a network without faults in channels last.

    A convolution is recognised by its kernel, a parameter with four axes. How a module other than `nn.Conv2d` uses such a
    kernel is unknown, so it counts as unsafe.
    """
    return all(
        isinstance(module, Convolution) or (type(module) is nn.Conv2d and _is_safe(module))
        for module in body.modules()
        if any(parameter.dim() == 4 for parameter in module.parameters(recurse=False))
    )


def _is_safe(module: nn.Conv2d) -> bool:
    """Return whether a convolution is none of two kinds that crashed: 1 x 1 with a stride, and windows beside the image."""
    if module.kernel_size == (1, 1) and module.stride != (1, 1):
        return False
    if isinstance(module.padding, str):
        return True
    # the centre of every window is in the image, unless there is more padding than for outputs of the size of the inputs
    sizes = zip(module.padding, module.kernel_size, module.dilation, strict=True)
    return all(padding == 0 or (kernel % 2 == 1 and padding <= dilation * (kernel // 2)) for padding, kernel, dilation in sizes)
