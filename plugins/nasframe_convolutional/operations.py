"""The operations on the edges of image cells: o(x) with x of shape (batch, C, height, width).

Sources: Liu et al. (2019), Laube & Zell (2019), Dong & Yang (2020), Shin, Packer & Song (2018).

No convolution has a bias. Padding is "same": a stride s divides height and width by s, rounded up.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from itertools import pairwise
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from nasframe import Bound, Operation
from nasframe.options import flag, number
from nasframe_convolutional.adjust import Convolution, ConvolutionLayer, FactorisedReduction


class Edge(Operation):
    """An operation on one state of an image cell.

    The backbone builds it with `channels` (C), `stride` (1 or 2), and `affine`: whether BatchNorms scale and shift. In
    the form without, which a search uses, poolings are followed by a BatchNorm.
    """

    # in training the output of a BatchNorm is not bounded by its input, so operations with one declare no bounds
    arity: ClassVar[int] = 1

    @abstractmethod
    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, which maps (batch, C, H, W) to (batch, C, ceil(H / stride), ceil(W / stride))."""


def odd(default: int) -> Any:
    """Return a field for an odd number of at least 1."""

    def check(instance: Any, attribute: Any, value: int) -> None:
        if value % 2 == 0:
            raise ValueError(f"{attribute.name} is {value}; it must be odd, so that the kernel has a centre")

    field = number(default, low=1, whole=True)
    field.validator(check)
    return field


class Layer(nn.Module):
    """ReLU, depthwise convolution, pointwise convolution and BatchNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, stride: int, affine: bool) -> None:
        super().__init__()
        # "same" padding, possible because the kernel is odd: with stride 1 its centre visits every pixel
        padding = dilation * (kernel // 2)
        self.activation: nn.Module = nn.ReLU()
        self.depthwise = Convolution(inputs, inputs, kernel, stride, padding, dilation, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of shape (batch, outputs, ...) from (batch, inputs, ...)."""
        return self.norm(self.pointwise(self.depthwise(self.activation(x))))


class LinearLayer(Layer):
    """PReLU of slope 1, then a depthwise and a pointwise convolution that start as the identity.

    With as many outputs as inputs the layer is exactly the identity at first, in training and evaluation, as it has no BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__(inputs, outputs, kernel, dilation, 1, False)
        self.activation, self.norm = nn.PReLU(inputs, init=1.0), nn.Identity()
        # the identity: one tap of weight 1 at the centre of each kernel
        nn.init.dirac_(self.depthwise.weight, groups=inputs)
        with torch.no_grad():  # outputs beyond the inputs keep random weights: between zeros they would never get a gradient
            nn.init.dirac_(self.pointwise.weight[:inputs])


class Separable(nn.Module):
    """Layers of separable convolution, with the stride in the first one."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last layer."""
        return self.layers(x)


def widths(instance: Any, attribute: Any, value: Any) -> None:
    """Raise a ValueError unless the value is a tuple of whole numbers of at least 1."""
    if not isinstance(value, tuple) or not all(type(factor) is int and factor >= 1 for factor in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must list whole numbers of at least 1, as (1, 2) does")


@attrs.frozen
class SeparableConvolution(Edge):
    """len(expansion) + 1 layers of ReLU, depthwise k x k convolution, pointwise convolution and BatchNorm.

    DARTS's sep_conv_3x3 is SeparableConvolution(3, expansion=(1,)), its dil_conv_3x3 SeparableConvolution(3, dilation=2).

    Args:
        kernel: k, an odd number.
        dilation: the dilation of every layer.
        expansion: the width of each hidden layer, in multiples of C.
        linear: the number of last layers that were inserted as the identity (morphism "convolution", kind "insert"). They have
            a PReLU and no BatchNorm.
    """

    name: ClassVar[str] = "separable"
    kernel: int = odd(3)
    dilation: int = number(1, low=1, whole=True)
    expansion: tuple[int, ...] = attrs.field(default=(), validator=widths)
    linear: int = number(0, low=0, whole=True)

    def __attrs_post_init__(self) -> None:
        if self.linear > len(self.expansion):
            raise ValueError(
                f"linear is {self.linear}; it must be at most {len(self.expansion)}, the length of expansion: "
                "the first layer cannot be one that was inserted as the identity"
            )

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the layers, from C through the widths of `expansion` to C channels."""
        # the inputs and outputs of each layer: C to e_1 C, e_1 C to e_2 C, ..., e_n C to C
        sizes = [*pairwise(channels * factor for factor in (1, *self.expansion, 1))]
        # inserted layers come last; the first layer, which has the stride, is never one of them
        first = len(sizes) - self.linear
        return Separable(
            *(Layer(*size, self.kernel, self.dilation, 1 if i else stride, affine) for i, size in enumerate(sizes[:first])),
            *(LinearLayer(*size, self.kernel, self.dilation) for size in sizes[first:]),
        )


class AsymmetricConvolution(nn.Module):
    """ReLU, 1 x k convolution, k x 1 convolution and BatchNorm."""

    def __init__(self, kernel: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.row = Convolution(channels, channels, (1, kernel), (1, stride), (0, kernel // 2), bias=False)
        self.column = Convolution(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0), bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return features with as many channels as the input."""
        return self.norm(self.column(self.row(relu(x))))


@attrs.frozen
class Asymmetric(Edge):
    """A 1 x k and a k x 1 convolution: DARTS's conv_7x1_1x7."""

    name: ClassVar[str] = "asymmetric"
    kernel: int = odd(7)

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the two dense convolutions, with ReLU and BatchNorm."""
        return AsymmetricConvolution(self.kernel, channels, stride, affine)


@attrs.frozen
class DenseConvolution(Edge):
    """ReLU, k x k convolution and BatchNorm: NAS-Bench-201's nor_conv_1x1 and nor_conv_3x3.

    Args:
        kernel: k, an odd number.
    """

    name: ClassVar[str] = "dense_convolution"
    kernel: int = odd(3)

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return a module of ReLU, convolution and BatchNorm."""
        return ConvolutionLayer(channels, channels, self.kernel, stride, affine)


class RelaxedConvolution(nn.Module):
    """ReLU, a convolution whose kernel has a trainable size s, and BatchNorm.

    The kernel has a centre and rings around it. It is multiplied by a mask, which is 1 at the centre and
    min(1, max(0, (s + 1) / 2 - r)) in ring r: a kernel of odd size s has the rings up to (s - 1) / 2, and between two odd sizes the
    outermost ring opens in proportion.
    """

    def __init__(self, kernel: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.convolution = Convolution(channels, channels, kernel, stride, kernel // 2, bias=False)
        # half open, so that the size can move in both directions: at an odd size the mask has a kink
        self.size = nn.Parameter(torch.tensor(kernel - 1.0))
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def mask(self) -> Tensor:
        """Return the mask, of shape (kernel, kernel)."""
        (kernel, _), size = self.convolution.kernel_size, self.size
        distance = (torch.arange(kernel, device=size.device) - kernel // 2).abs()
        ring = torch.maximum(distance, distance[:, None])
        return torch.where(ring == 0, 1.0, ((size + 1) / 2 - ring).clamp(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features with as many channels as the input."""
        of = self.convolution
        return self.norm(conv2d(relu(x), of.weight * self.mask(), None, of.stride, of.padding))

    def dense(self) -> ConvolutionLayer:
        """Return a layer with the smallest kernel that computes the same, at the present size."""
        of, outer = self.convolution, self.convolution.kernel_size[0] // 2
        inner = min(outer, max(0, math.ceil((float(self.size.detach()) - 1) / 2)))
        channels, margin = of.in_channels, outer - inner
        layer = ConvolutionLayer(channels, channels, 2 * inner + 1, of.stride[0], self.norm.affine)
        layer.norm = copy.deepcopy(self.norm)
        kept = slice(margin, of.kernel_size[0] - margin)
        layer.convolution.weight = nn.Parameter((of.weight * self.mask()).detach()[..., kept, kept].clone())
        return layer.train(self.training)


@attrs.frozen
class RelaxedKernel(Edge):
    """ReLU, convolution with a trainable kernel size, and BatchNorm, after the idea of Shin, Packer & Song (2018).

    The size follows the gradient of the training loss, like the weights. `dense()` of a trained module returns a plain convolution
    of the size that was found.

    Args:
        kernel: the largest size of the kernel, an odd number of at least 3.
    """

    name: ClassVar[str] = "relaxed_kernel"
    kernel: int = odd(5)

    @kernel.validator
    def _has_rings(self, attribute: Any, value: int) -> None:
        if value < 3:
            raise ValueError(f"kernel is {value}; it must be at least 3, as a kernel of 1 has no smaller size")

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, whose size begins half way between the largest odd sizes."""
        return RelaxedConvolution(self.kernel, channels, stride, affine)


def pooled(pool: nn.Module, channels: int, affine: bool) -> nn.Module:
    """Return a pooling, followed by a BatchNorm if there is no affine form."""
    # In a search the outputs of all candidates are summed. Without a BatchNorm those of a pooling would have another scale
    # than those of the convolutions, which end with one (as in the published code of DARTS).
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


@attrs.frozen
class MaxPool(Edge):
    """The largest of k x k pixels."""

    name: ClassVar[str] = "max_pool"
    kernel: int = odd(3)

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, which has no parameters."""
        return pooled(nn.MaxPool2d(self.kernel, stride, self.kernel // 2), channels, affine)


@attrs.frozen
class AvgPool(Edge):
    """The mean of k x k pixels, without those outside the image.

    Args:
        kernel: k, an odd number.
        normalised: whether a BatchNorm follows in the form without affine BatchNorms. In NAS-Bench-201 none does.
    """

    name: ClassVar[str] = "avg_pool"
    kernel: int = odd(3)
    normalised: bool = flag(True)

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, which has no parameters."""
        pool = nn.AvgPool2d(self.kernel, stride, self.kernel // 2, count_include_pad=False)
        return pooled(pool, channels, affine or not self.normalised)


@attrs.frozen
class Identity(Edge):
    """x itself; with stride 2 a factorised reduction, which is no identity."""

    name: ClassVar[str] = "identity"
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, which has parameters with stride 2 only."""
        # no identity halves a resolution; DARTS takes a factorised reduction in its place
        return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, affine)

    def magnitude(self, module: nn.Module) -> Bound | None:
        """Return the bound |o| <= |x|."""
        return Bound({(0,): 1.0}) if isinstance(module, nn.Identity) else None

    def identity_error(self, module: nn.Module) -> Bound | None:
        """Return the bound |o - x| <= 0 at stride 1; None at stride 2, where the module is no identity."""
        return Bound({}) if isinstance(module, nn.Identity) else None


class Nothing(nn.Module):
    """Zeros in the shape of the input after the stride."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return features with as many channels as the input."""
        # zeros and not x * 0, which is NaN where x is infinite
        return torch.zeros_like(x[..., :: self.stride, :: self.stride])


@attrs.frozen
class Zero(Edge):
    """Zero, which means no edge."""

    name: ClassVar[str] = "zero"
    zero: ClassVar[bool] = True

    def build(self, *, channels: int, stride: int, affine: bool) -> nn.Module:
        """Return the module, which has no parameters."""
        return Nothing(stride)

    def magnitude(self, module: nn.Module) -> Bound:
        """Return the bound |o| <= 0."""
        return Bound({})
