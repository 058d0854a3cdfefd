"""Architects with one fault each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, Rprop

from mutants.system import core_mutant, mutant, overriding
from nasframe import Bilevel, Draw, Mixing, Seed, Split
from nasframe.change.optimisers import NamedParameters
from nasframe.search import bilevel, trainer
from nasframe.search.trainer import Trainer
from nasframe.testing.subject import Subject

FIRST_ORDER = ("architect", "first_order")
Tensors = Mapping[str, Tensor]


def descending(of: Subject, change: Callable[[Bilevel, dict[str, Tensor]], Tensors]) -> Subject:
    """The architect whose gradient is `change(problem, gradient)`."""
    honest: Any = of.cls
    return overriding(of, gradient=lambda self, problem: change(problem, dict(honest.gradient(self, problem))))


def optimised(of: Subject, build: Callable[[list[Any], Callable[[NamedParameters], Optimizer]], Optimizer]) -> Subject:
    """The architect whose optimiser is `build(alphas, the one of these alphas)`."""
    honest: Any = of.cls
    return overriding(
        of,
        build_optimiser=lambda self, alphas: build([*alphas], lambda named: honest.build_optimiser(self, named)),
    )


@mutant("architect.gradient", *FIRST_ORDER)
def one_left_out(of: Subject) -> Subject:
    """It leaves out the last site where there are several."""
    return descending(of, lambda problem, found: dict([*found.items()][: max(1, len(found) - 1)]))


@mutant("architect.gradient", *FIRST_ORDER)
def flat(of: Subject) -> Subject:
    """It gives one vector for all sites, by the name of the first."""
    return descending(of, lambda problem, found: {next(iter(found)): torch.cat([*found.values()])})


@mutant("architect.independent", *FIRST_ORDER)
def dependent(of: Subject) -> Subject:
    """It takes for granted that the loss depends on all alphas."""

    def gradient(self: Any, problem: Bilevel) -> Tensors:
        loss = problem.valid(problem.weights, problem.alphas)
        return dict(zip(problem.alphas, torch.autograd.grad(loss, [*problem.alphas.values()]), strict=True))

    return overriding(of, gradient=gradient)


@mutant("architect.independent", *FIRST_ORDER)
def of_length_one(of: Subject) -> Subject:
    """It divides each site's gradient by its length, also where that is zero."""
    return descending(of, lambda problem, found: {n: g / g.norm() for n, g in found.items()})


@mutant("architect.pure", *FIRST_ORDER)
def left_behind(of: Subject) -> Subject:
    """It finds its gradient by backward(), which leaves others at the weights."""

    def change(problem: Bilevel, found: dict[str, Tensor]) -> Tensors:
        loss = problem.train(problem.weights, problem.alphas)
        if loss.requires_grad:
            loss.backward()
        return found

    return descending(of, change)


@mutant("architect.pure", *FIRST_ORDER)
def there_and_back(of: Subject) -> Subject:
    """It moves the weights and takes the step back, which rounding does not undo."""

    def change(problem: Bilevel, found: dict[str, Tensor]) -> Tensors:
        with torch.no_grad():
            for w in problem.weights.values():
                w.add_(0.1).sub_(0.1)
        return found

    return descending(of, change)


@mutant("architect.optimiser", *FIRST_ORDER)
def not_without(of: Subject) -> Subject:
    """It gives torch's optimiser an empty list where there are no alphas."""
    return optimised(of, lambda alphas, build: build(alphas) if alphas else Adam([]))


@mutant("architect.optimiser", *FIRST_ORDER)
def newest(of: Subject) -> Subject:
    """It holds the last site's alphas alone."""
    return optimised(of, lambda alphas, build: build(alphas[-1:]))


@mutant("architect.follows", *FIRST_ORDER)
def other_moments(of: Subject) -> Subject:
    """It moves the alphas by Rprop, whose state cannot be carried through a change."""
    return optimised(of, lambda alphas, build: Rprop([{"params": [p for _, p in alphas]}], lr=0.01))


@mutant("architect.descends", *FIRST_ORDER)
def upwards(of: Subject) -> Subject:
    """Its gradient has the other sign."""
    return descending(of, lambda problem, found: {n: -g for n, g in found.items()})


@mutant("architect.splits", *FIRST_ORDER)
def hooked(of: Subject) -> Subject:
    """It leaves a hook at each weight, which adds the gradient of the validation loss to that of the weight's next step."""

    def change(problem: Bilevel, found: dict[str, Tensor]) -> Tensors:
        loss = problem.valid(problem.weights, problem.alphas)
        if loss.requires_grad:
            slopes = torch.autograd.grad(loss, [*problem.weights.values()], materialize_grads=True)
            for weight, slope in zip(problem.weights.values(), slopes, strict=True):
                once(weight, slope)
        return found

    def once(weight: Tensor, slope: Tensor) -> None:
        def add(gradient: Tensor) -> Tensor:
            handle.remove()
            return gradient + slope

        handle: Any = weight.register_hook(add)

    return descending(of, change)


@mutant("architect.resumed", *FIRST_ORDER)
def decaying(of: Subject) -> Subject:
    """Its optimiser raises its weight decay at every step, and no tensor of its state counts the steps."""

    def decay(optimiser: Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            group["weight_decay"] += 0.1

    def build(alphas: list[Any], honest: Callable[[NamedParameters], Optimizer]) -> Optimizer:
        built = honest(alphas)
        built.register_step_post_hook(decay)
        return built

    return optimised(of, build)


@mutant("architect.resumed", *FIRST_ORDER)
def remembered(of: Subject) -> Subject:
    """It keeps the gradient before at the parameter, and descends the mean of the two."""

    def change(problem: Bilevel, found: dict[str, Tensor]) -> Tensors:
        means = {n: (g + getattr(problem.alphas[n], "before", g)) / 2 for n, g in found.items()}
        for name, slope in found.items():
            problem.alphas[name].before = slope  # type: ignore[attr-defined]
        return means

    return descending(of, change)


@core_mutant("architect.pure", *FIRST_ORDER)
def moving_statistics(patch: pytest.MonkeyPatch) -> None:
    """The losses of a problem are computed with the buffers of the network itself, so that running statistics change."""
    patch.setattr(bilevel, "_buffers", lambda network: dict(network.named_buffers()))


@mutant("architect.terms", *FIRST_ORDER)
def added_twice(of: Subject) -> Subject:
    """It adds the gradient of its terms, which nasframe adds as well."""
    honest: Any = of.cls

    def gradient(self: Any, problem: Bilevel) -> Tensors:
        found = honest.gradient(self, problem)
        factor = 1 + len(self.terms)
        return {name: factor * slope for name, slope in found.items()}

    return overriding(of, gradient=gradient)


@core_mutant("architect.terms", *FIRST_ORDER)
def without_terms(patch: pytest.MonkeyPatch) -> None:
    """The step of a search does not add the gradient of the terms."""
    patch.setattr(trainer, "added_loss", lambda *given: None)


SMOOTH = ("architect", "sdarts")


@mutant("architect.training", *SMOOTH)
def unseeded(of: Subject) -> Subject:
    """It perturbs the mixing weights with random numbers of torch's global generator."""

    def training_mixing(self: Any, mixing: Mixing, loss: Callable[[Mixing], Tensor], draw: Draw) -> Mixing:
        return Mixing({a: (w + 0.1 * torch.rand_like(w)).softmax(0) for a, w in mixing.items()}, mixing.active)

    return overriding(of, training_mixing=training_mixing)


@mutant("architect.training", *SMOOTH)
def attacked_by_backward(of: Subject) -> Subject:
    """It finds the direction of the attack by backward(), which leaves gradients at the weights."""

    def training_mixing(self: Any, mixing: Mixing, loss: Callable[[Mixing], Tensor], draw: Draw) -> Mixing:
        leaves = {a: w.clone().requires_grad_() for a, w in mixing.items()}
        value = loss(Mixing(leaves, mixing.active))
        if value.requires_grad:
            value.backward()
        return mixing

    return overriding(of, training_mixing=training_mixing)


@core_mutant("architect.noise", *FIRST_ORDER)
def one_mask(patch: pytest.MonkeyPatch) -> None:
    """The validation loss of a step draws the same dropout masks as the training loss."""
    honest = Trainer.loss

    def loss(self: Trainer, batch: Any, noise: Seed, *given: Any) -> Tensor:
        return honest(self, batch, Seed((*noise.key[:-1], "train")), *given)

    patch.setattr(Trainer, "loss", loss)


@core_mutant("architect.noise", *FIRST_ORDER)
def one_augmentation(patch: pytest.MonkeyPatch) -> None:
    """The validation examples of a step are drawn with the random numbers of the training examples."""
    honest = Trainer._step

    def step(self: Trainer, training: Any, index: Tensor, held_out: Any, seed: Seed) -> float:
        def seeded(split: Split) -> Split:
            def draw(positions: Tensor) -> tuple[Tensor, Tensor]:
                with seed("examples").as_global():
                    return split.draw(positions)

            return attrs.evolve(split, draw=draw)

        data = attrs.evolve(self.data, train=seeded(self.data.train), validation=seeded(self.data.validation))
        return honest(attrs.evolve(self, data=data), training, index, held_out, seed)

    patch.setattr(Trainer, "_step", step)


@core_mutant("architect.noise", *FIRST_ORDER)
def other_masks(patch: pytest.MonkeyPatch) -> None:
    """A loss draws other dropout masks at every call."""
    calls = itertools.count()
    honest = Trainer.loss

    def loss(self: Trainer, batch: Any, noise: Seed, *given: Any) -> Tensor:
        return honest(self, batch, noise(next(calls)), *given)

    patch.setattr(Trainer, "loss", loss)
