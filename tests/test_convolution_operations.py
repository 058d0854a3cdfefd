"""The operations of image cells compute what their definitions say, at every size, and have the costs of their formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import attrs
import convolutional
import pytest
import torch
from hypothesis import given, settings, strategies as st
from nasframe_convolutional.operations import (
    Asymmetric,
    AsymmetricConvolution,
    AvgPool,
    DenseConvolution,
    Edge,
    Identity,
    LinearLayer,
    MaxPool,
    RelaxedConvolution,
    RelaxedKernel,
    Separable,
    SeparableConvolution,
    Zero,
)
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from nasframe import Seed
from nasframe.change.claim import tolerance
from nasframe.network.cost import Cost, cost
from nasframe.network.network import tensors

many = settings(max_examples=60)

KERNELS = st.sampled_from([1, 3, 5, 7])


@st.composite
def separable(draw: st.DrawFn) -> SeparableConvolution:
    """Draw an operation with up to two hidden layers, the last of which may have been inserted as the identity."""
    expansion = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    return SeparableConvolution(draw(KERNELS), draw(st.integers(1, 3)), expansion, draw(st.integers(0, len(expansion))))


OPERATIONS = (
    separable()
    | st.builds(Asymmetric, KERNELS)
    | st.builds(MaxPool, KERNELS)
    | st.builds(AvgPool, KERNELS, st.booleans())
    | st.builds(DenseConvolution, KERNELS)
    | st.builds(RelaxedKernel, st.sampled_from([3, 5, 7]))
    | st.sampled_from([Identity(), Zero()])
)


@attrs.frozen(eq=False)
class Case:
    """An operation, the sizes of its module, and inputs of odd and even sizes, down to a single pixel of a single channel."""

    operation: Edge
    channels: int
    stride: int
    affine: bool
    x: Tensor

    @property
    def sizes(self) -> dict[str, Any]:
        return {"channels": self.channels, "stride": self.stride, "affine": self.affine}

    def trained(self) -> nn.Module:
        """Return the module after a few steps on noise, so that parameters and running statistics are not at their defaults."""
        with Seed(("operation",)).as_global():
            module = self.operation.build(**self.sizes).double()
            optimiser = torch.optim.SGD([*module.parameters(), nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9)
            for _ in range(3):
                optimiser.zero_grad()
                out = module(2 * torch.randn(4, self.channels, 5, 6, dtype=torch.float64))
                if out.requires_grad:
                    (out - torch.randn_like(out)).square().mean().backward()
                optimiser.step()
        return module

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of the output."""
        height, width = self.x.shape[2:]
        return math.ceil(height / self.stride), math.ceil(width / self.stride)

    @property
    def modes(self) -> list[bool]:
        """Return the modes to try: a BatchNorm cannot train on a single number."""
        return [False, True] if self.x.shape[0] * math.prod(self.size) > 1 else [False]


@st.composite
def cases(draw: st.DrawFn, operations: st.SearchStrategy[Edge] = OPERATIONS) -> Case:
    operation, stride, channels = draw(operations), draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 3)), channels, draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    x = torch.randn(shape, dtype=torch.float64, generator=Seed(("inputs", draw(st.integers(0, 99)))).generator())
    return Case(operation, channels, stride, draw(st.booleans()), x)


# -------------------------------------------------------------------------------------------------------- definitions


def normalised(norm: nn.Module, x: Tensor, training: bool) -> Tensor:
    """Return (x - mean) / sqrt(variance + 1e-5), scaled and shifted if the norm is affine."""
    if not isinstance(norm, nn.BatchNorm2d):
        return x
    mean, variance = norm.running_mean, norm.running_var
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    return x * norm.weight[:, None, None] + norm.bias[:, None, None] if norm.affine else x


def separably(operation: SeparableConvolution, module: Separable, x: Tensor, stride: int, training: bool) -> Tensor:
    """Return the output, with each layer as one dense convolution of pointwise weight times depthwise kernel."""
    for i, layer in enumerate(module.layers):
        linear = i >= len(module.layers) - operation.linear
        x = torch.where(x < 0, x * (layer.activation.weight[:, None, None] if linear else 0.0), x)
        kernel = layer.pointwise.weight * layer.depthwise.weight[None, :, 0]
        d, step = operation.dilation, 1 if i else stride
        x = conv2d(x, kernel, None, step, d * (operation.kernel // 2), d)
        x = normalised(layer.norm, x, training)
    return x


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return the values in each window, in a last dimension, with nan outside the image."""
    half = kernel // 2
    padded = pad(x, (half,) * 4, value=math.nan)
    return padded.unfold(2, kernel, stride).unfold(3, kernel, stride).flatten(-2)


def masked(module: RelaxedConvolution) -> Tensor:
    """Return the kernel, each ring of which is multiplied by the share to which a kernel of the size of the module reaches it."""
    weight = module.convolution.weight.clone()
    centre = weight.shape[-1] // 2
    for i, j in itertools.product(range(weight.shape[-1]), repeat=2):
        if ring := max(abs(i - centre), abs(j - centre)):
            # a kernel of size 2 r - 1 does not reach ring r, and one of size 2 r + 1 contains it
            weight[..., i, j] *= min(1.0, max(0.0, (float(module.size.detach()) - (2 * ring - 1)) / 2))
    return weight


def defined(case: Case, module: Any, training: bool) -> Tensor:
    """Return the output by the definition of the operation."""
    o, s, x = case.operation, case.stride, case.x
    if isinstance(o, SeparableConvolution):
        return separably(o, module, x, s, training)
    if isinstance(o, Asymmetric):
        kernel = torch.einsum("omy,mix->oiyx", module.column.weight[..., 0], module.row.weight[..., 0, :])
        return normalised(module.norm, conv2d(x.relu(), kernel, None, s, o.kernel // 2), training)
    if isinstance(o, DenseConvolution):
        return normalised(module.norm, conv2d(x.relu(), module.convolution.weight, None, s, o.kernel // 2), training)
    if isinstance(o, RelaxedKernel):
        return normalised(module.norm, conv2d(x.relu(), masked(module), None, s, o.kernel // 2), training)
    if isinstance(o, MaxPool | AvgPool):
        seen = windows(x, o.kernel, s)
        out = seen.nanmean(-1) if isinstance(o, AvgPool) else seen.nan_to_num(-math.inf).amax(-1)
        return normalised(module[1], out, training) if isinstance(module, nn.Sequential) else out
    if isinstance(o, Zero):
        return torch.zeros(*x.shape[:2], *case.size, dtype=x.dtype)
    if s == 1:
        return x
    even, odd = x.relu()[..., ::2, ::2], x.relu()[..., 1::2, 1::2]
    odd = pad(odd, (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2]))
    halves = [conv2d(part, conv.weight) for part, conv in ((even, module.even), (odd, module.odd)) if conv]
    return normalised(module.norm, torch.cat(halves, 1), training)


def agrees(case: Case) -> None:
    """Require that the module returns what the definition says, in both modes, and has a BatchNorm where it should."""
    module = case.trained()
    for training in case.modes:
        with torch.no_grad():
            wanted = defined(case, module, training)  # before the module moves its statistics
            found = module.train(training)(case.x)
        assert found.shape == (case.x.shape[0], case.channels, *case.size)
        scale = torch.cat([case.x.flatten(), wanted.flatten()])  # of equal numbers a BatchNorm returns rounding alone
        assert float((found - wanted).abs().max()) <= tolerance(scale), f"training: {training}"


@many
@given(cases())
def test_operations_compute_what_is_defined(case: Case) -> None:
    """Trained operations compute their definitions in both modes, at strides 1 and 2."""
    agrees(case)


@many
@given(cases())
def test_search_and_evaluation_forms(case: Case) -> None:
    """BatchNorms scale and shift in the evaluation form alone, and poolings have one in the search form alone, if at all."""
    norms = [m for m in case.operation.build(**case.sizes).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.affine == case.affine for norm in norms)
    if isinstance(case.operation, MaxPool | AvgPool):
        assert len(norms) == (not case.affine and getattr(case.operation, "normalised", True))


@given(cases(separable()), st.integers(1, 3))
def test_layers_that_begin_as_the_identity(case: Case, width: int) -> None:
    """Inserted layers return their input, or as many of its channels as they have.

    Every unit of a wider layer gets a gradient.
    """
    o, C = case.operation, case.channels
    layer = LinearLayer(C, width, o.kernel, o.dilation).double()
    least = min(C, width)
    assert torch.equal(layer(case.x)[:, :least], case.x[:, :least])
    assert (layer.pointwise.weight[least:] != 0).all()


@pytest.mark.parametrize(
    ("operation", "where", "name", "fault"),
    [
        (SeparableConvolution(3), nn.ReLU, "forward", lambda forward: lambda self, x: x),
        (
            SeparableConvolution(3, 2),
            SeparableConvolution,
            "build",
            lambda build: lambda o, **n: build(attrs.evolve(o, dilation=1), **n),
        ),
        (AvgPool(3), nn, "AvgPool2d", lambda build: lambda *sizes, count_include_pad: build(*sizes)),
        (RelaxedKernel(5), RelaxedConvolution, "mask", lambda mask: lambda m: mask(m).round()),
        (Asymmetric(3), AsymmetricConvolution, "forward", lambda forward: lambda m, x: m.norm(m.row(m.column(x.relu())))),
    ],
)
def test_another_definition_is_noticed(operation: Edge, where: Any, name: str, fault: Any, monkeypatch: Any) -> None:
    """The law above detects a missing ReLU, an ignored dilation, a padding that is counted, a rounded mask, and another order."""
    monkeypatch.setattr(where, name, fault(getattr(where, name)))
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, generator=Seed(("mutants",)).generator())
    with pytest.raises(AssertionError, match="training: False"):
        agrees(Case(operation, 2, 1, False, x))


@given(cases(st.builds(RelaxedKernel, st.sampled_from([3, 5, 7]))), st.floats(-1, 9))
def test_a_relaxed_kernel_becomes_a_plain_one(case: Case, size: float) -> None:
    """At any size the plain layer computes the same and has no larger kernel than it needs, and the size has the gradient of the loss."""
    module = case.trained()
    with torch.no_grad():
        module.size.fill_(size)
    dense = module.dense()
    for training in case.modes:
        assert torch.allclose(module.train(training)(case.x), dense.train(training)(case.x), rtol=0, atol=1e-12)
    kernel = dense.convolution.weight
    assert kernel.shape[-1] == 1 or (kernel.detach().abs().sum((0, 1))[0] != 0).any()

    (slope,) = torch.autograd.grad(module.eval()(case.x).square().sum(), [module.size])
    # Away from the kinks, the mask of one ring changes by half of the step in size.
    if min(abs(size - odd) for odd in range(-1, 11, 2)) > 1e-3:
        losses = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                module.size.fill_(size + step)
                losses.append(float(module(case.x).square().sum()))
        assert float(slope) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-6)


# ---------------------------------------------------------------------------------------------------- costs and bounds


@many
@given(cases())
def test_which_operations_have_bounds(case: Case) -> None:
    """The identity and zero give bounds; operations that have a BatchNorm, or may have one, give none."""
    o, module = case.operation, case.operation.build(**case.sizes)
    out, magnitude, identity_error = module.eval()(case.x.float()), o.magnitude(module), o.identity_error(module)
    if isinstance(o, Zero):
        assert o.zero
        assert magnitude is not None
        assert magnitude([1.0]) == 0
    elif isinstance(o, Identity) and case.stride == 1:
        assert o.residual == ()
        assert magnitude is not None
        assert identity_error is not None
        assert magnitude([2.0]) == 2
        assert identity_error([2.0]) == 0 == (out - case.x.float()).abs().max()
    else:
        assert magnitude is identity_error is None


def formula(case: Case) -> tuple[int, int]:
    """Return parameters and multiply-adds by the formulas."""
    o, C, k = case.operation, case.channels, getattr(case.operation, "kernel", 0)
    (height, width), scale = case.size, 2 if case.affine else 0
    if isinstance(o, SeparableConvolution):
        c = [C, *(C * factor for factor in o.expansion), C]
        weights = sum(c[i] * k * k + c[i] * c[i + 1] for i in range(len(c) - 1))
        normal = len(c) - 1 - o.linear
        return weights + scale * sum(c[1 : normal + 1]) + sum(c[normal:-1]), weights * height * width
    if isinstance(o, Asymmetric):
        return 2 * C * C * k + scale * C, C * C * k * width * (case.x.shape[2] + height)
    if isinstance(o, DenseConvolution):
        return C * C * k * k + scale * C, C * C * k * k * height * width
    if isinstance(o, RelaxedKernel):
        return C * C * k * k + 1 + scale * C, C * C * k * k * height * width
    if isinstance(o, Identity) and case.stride == 2:
        return C * C + scale * C, C * C * height * width
    return 0, 0


@many
@given(cases())
def test_costs_follow_closed_formulas(case: Case) -> None:
    """Parameters and FLOPs of every operation follow formulas, and computing them draws no random number."""
    parameters, macs = formula(case)
    before = torch.get_rng_state()
    assert case.operation.cost(case.x.shape, **case.sizes) == Cost(parameters, 2 * macs * case.x.shape[0])
    assert torch.equal(before, torch.get_rng_state())


def test_a_strangers_operation_has_a_cost() -> None:
    """The cost of an operation needs no method of the operation."""
    operation = convolutional.Convolution(5)
    assert operation.cost((2, 3, 4, 7), channels=3, stride=2) == Cost(9 * 25 + 6, 2 * 2 * (9 * 25) * (2 * 4))


def test_a_cost_leaves_the_module_alone() -> None:
    """Values, mode, device and buffers of the module stay the same."""
    case = Case(SeparableConvolution(3, expansion=(2,)), 2, 1, True, torch.zeros(1, 2, 3, 3))
    module = case.trained()
    before = {name: tensor.detach().clone() for name, tensor in tensors(module).items()}
    assert cost(module, (1, 2, 3, 3)) == case.operation.cost((1, 2, 3, 3), **case.sizes)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(module).items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeparableConvolution(4), "kernel is 4; it must be odd, so that the kernel has a centre"),
        (lambda: MaxPool(2), "kernel is 2; it must be odd"),
        (lambda: AvgPool(0), "kernel is 0; it must be a whole number of at least 1"),
        (lambda: RelaxedKernel(1), "kernel is 1; it must be at least 3"),
        (lambda: Asymmetric(1.5), "kernel is 1.5; it must be a whole number"),
        (lambda: SeparableConvolution(dilation=0), "dilation is 0; it must be a whole number of at least 1"),
        (lambda: SeparableConvolution(expansion=(1, 0)), r"expansion is \(1, 0\); it must list whole numbers of at least 1"),
        (lambda: SeparableConvolution(expansion=2), "expansion is 2; it must list whole numbers"),
        (lambda: SeparableConvolution(linear=1), "linear is 1; it must be at most 0, the length of expansion"),
    ],
)
def test_what_cannot_be_built_is_refused(make: Callable[[], Edge], message: str) -> None:
    """The message says what was given and what is wanted."""
    with pytest.raises(ValueError, match=message):
        make()
