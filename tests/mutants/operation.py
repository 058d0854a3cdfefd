"""Operations with one fault each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mutants.system import mutant, overriding
from nasframe import Bound
from nasframe.network.cost import Cost
from nasframe.testing.subject import Subject

TANH = ("operation", "tanh_edge")
POOL = ("operation", "avg_pool")

Forward = Callable[..., Tensor]


def building(of: Subject, change: Callable[[nn.Module], None], **methods: Any) -> Subject:
    """Return the operation whose modules are changed once they are built, and have these methods instead of theirs."""

    def build(self: Any, **sizes: Any) -> nn.Module:
        module = of.cls.build(self, **sizes)  # type: ignore[attr-defined]
        change(module)
        # a new class: methods that are bound to a module would be lost when it is copied
        module.__class__ = type(type(module).__name__, (type(module),), methods)
        return module

    return overriding(of, build=build)


def calling(of: Subject, forward: Callable[[Any, Forward, Tensor], Tensor], change: Any = lambda module: None) -> Subject:
    """Return the operation whose modules return `forward(module, its forward, input)`."""

    def called(self: Any, x: Tensor) -> Tensor:
        return forward(self, super(type(self), self).forward, x)

    return building(of, change, forward=called)


@mutant("operation.shape", *POOL)
def broadcast(of: Subject) -> Subject:
    """It averages over the whole image, which the sum with the other candidates hides."""
    return calling(of, lambda module, forward, x: forward(x).mean((2, 3), keepdim=True))


@mutant("operation.shape", *TANH)
def squeezed(of: Subject) -> Subject:
    """It drops every axis of length one."""
    return calling(of, lambda module, forward, x: forward(x).squeeze())


@mutant("operation.dtype", *TANH)
def doubled(of: Subject) -> Subject:
    """It returns float64, whatever dtype its input has."""
    return calling(of, lambda module, forward, x: forward(x).double())


@mutant("operation.batch", *POOL)
def centred(of: Subject) -> Subject:
    """It subtracts a part of the mean over the batch."""
    return calling(of, lambda module, forward, x: forward(x) - 0.01 * forward(x).mean(0))


@mutant("operation.layout", *TANH)
def by_storage(of: Subject) -> Subject:
    """It reads its input as if it were contiguous."""
    return calling(of, lambda module, forward, x: forward(x.as_strided(x.shape, torch.empty(x.shape).stride())))


@mutant("operation.pure", *TANH)
def counting(of: Subject) -> Subject:
    """It counts its calls in a buffer."""

    def forward(module: Any, forward: Forward, x: Tensor) -> Tensor:
        module.calls += 1
        return forward(x)

    return calling(of, forward, lambda module: module.register_buffer("calls", torch.zeros(())))


@mutant("operation.pure", *TANH)
def in_place(of: Subject) -> Subject:
    """It scales its input in place."""

    def forward(module: Any, forward: Forward, x: Tensor) -> Tensor:
        out = forward(x.clone())
        x.data.mul_(0.5)
        return out

    return calling(of, forward)


@mutant("operation.mode", *TANH)
def restless(of: Subject) -> Subject:
    """It halves its weights each time that it enters training mode."""

    def train(self: Any, mode: bool = True) -> nn.Module:
        if mode and not self.training:
            self.W.data.mul_(0.5)
        return super(type(self), self).train(mode)

    return building(of, lambda module: None, train=train)


@mutant("operation.gradient", *TANH)
def unused(of: Subject) -> Subject:
    """It has a bias that it does not add."""
    return calling(
        of,
        lambda module, forward, x: forward(x),
        lambda module: module.register_parameter("b", nn.Parameter(torch.zeros(len(module.W)))),
    )


@mutant("operation.gradient", *TANH)
def dead(of: Subject) -> Subject:
    """It detaches its input, so that no gradient reaches the states before it."""
    return calling(of, lambda module, forward, x: forward(x.detach()))


@mutant("operation.slope", *POOL)
def steep(of: Subject) -> Subject:
    """Its gradient is a tenth too large."""

    def forward(module: Any, forward: Forward, x: Tensor) -> Tensor:
        out = forward(x)
        return out + 0.1 * (out - out.detach())

    return calling(of, forward)


class Once(torch.autograd.Function):
    """tanh, whose gradient is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return tanh(x), and keep its slope as a constant."""
        y = x.tanh()
        ctx.slope = 1 - y.detach().square()
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient by the kept slope, whose derivative is zero."""
        return grads[0] * ctx.slope


@mutant("operation.curvature", *TANH)
def once(of: Subject) -> Subject:
    """It has a hand-written backward pass, whose second derivative is wrong."""

    def forward(module: Any, forward: Forward, x: Tensor) -> Tensor:
        return Once.apply(x @ module.W.t())

    return calling(of, forward)


@mutant("operation.state", *POOL)
def kept(of: Subject) -> Subject:
    """It draws a factor when it is built, and keeps it in an attribute."""

    def change(module: Any) -> None:
        module.factor = torch.rand(())

    return calling(of, lambda module, forward, x: module.factor * forward(x), change)


@mutant("operation.cost", *TANH)
def cheap(of: Subject) -> Subject:
    """Its cost has half of its multiply-adds."""

    def cost(self: Any, *shapes: Any, **sizes: Any) -> Cost:
        found = of.cls.cost(self, *shapes, **sizes)  # type: ignore[attr-defined]
        return attrs.evolve(found, flops=found.flops // 2)

    return overriding(of, cost=cost)


@mutant("operation.zero", *POOL)
def not_zero(of: Subject) -> Subject:
    """It declares that it is zero."""
    return overriding(of, zero=True)


@mutant("operation.residual", "operation", "prod")
def no_identity(of: Subject) -> Subject:
    """It declares that it is the identity where its weight is zero, but is zero there."""
    return overriding(of, residual=("W_x",))


@mutant("operation.homogeneous", "operation", "relu")
def without_a_bias(of: Subject) -> Subject:
    """It declares that its output is of degree one in its weights alone, and has a bias."""
    return overriding(of, homogeneous=("W_x", "W_h"))


@mutant("operation.pointwise", *TANH)
def another(of: Subject) -> Subject:
    """It describes another function than its modules compute."""

    def pointwise(self: Any) -> Any:
        return attrs.evolve(of.cls.pointwise(self), function=lambda a, h: torch.sigmoid(a), derivatives=None)  # type: ignore[attr-defined]

    return overriding(of, pointwise=pointwise)


@mutant("operation.pointwise", "operation", "combination")
def exchanged(of: Subject) -> Subject:
    """Its summands are in another order than their weights and modules."""
    return overriding(of, summands=lambda self: self.operations[::-1])


@mutant("operation.derivatives", *TANH)
def slope(of: Subject) -> Subject:
    """It describes the derivative of a sigmoid."""

    def pointwise(self: Any) -> Any:
        def derivatives(a: Tensor, h: Tensor) -> tuple[Tensor | float, ...]:
            y = torch.tanh(a)
            return y, y * (1 - y), 0.0

        return attrs.evolve(of.cls.pointwise(self), derivatives=derivatives)  # type: ignore[attr-defined]

    return overriding(of, pointwise=pointwise)


@mutant("operation.bound", *TANH)
def small(of: Subject) -> Subject:
    """Its bound has the largest weight instead of the largest sum over a row."""

    def magnitude(self: Any, module: Any) -> Bound:
        return Bound({(0,): float(module.W.detach().abs().max())})

    return overriding(of, magnitude=magnitude)


@mutant("operation.bound", "operation", "relu")
def forgotten(of: Subject) -> Subject:
    """Its bound leaves out the bias."""

    def magnitude(self: Any, module: nn.Module) -> Bound:
        terms: Mapping[tuple[Any, ...], float] = of.cls.magnitude(self, module).terms  # type: ignore[attr-defined]
        return Bound({inputs: value for inputs, value in terms.items() if inputs})

    return overriding(of, magnitude=magnitude)
