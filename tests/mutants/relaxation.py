"""Relaxations with one fault each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mutants.system import mutant, overriding
from nasframe import Draw, Mixing
from nasframe.network.axes import produces
from nasframe.testing.subject import Subject

SOFTMAX = ("relaxation", "softmax")
Tensors = Mapping[str, Tensor]


def ruling(of: Subject, weights: Callable[[Tensor], Tensor], **members: Any) -> Subject:
    """Return the relaxation whose mixing weights are `weights(alphas)` at each site."""
    return overriding(of, mixing=lambda self, sites, alphas, draw: Mixing({a: weights(alphas[a]) for a in sites}), **members)


def sampling(of: Subject, sample: Callable[[Tensor, Draw, str], Tensor], **members: Any) -> Subject:
    """Return the relaxation that in training steps has the mixing weights `sample(alphas, draw, address)`."""

    def mixing(self: Any, sites: Any, alphas: Tensors, draw: Draw | None) -> Mixing:
        return Mixing({a: alphas[a].softmax(0) if draw is None else sample(alphas[a], draw, a) for a in sites})

    return overriding(of, mixing=mixing, **members)


@mutant("relaxation.mixing", *SOFTMAX)
def overflowing(of: Subject) -> Subject:
    """It divides exponentials by their sum as they are."""
    return ruling(of, lambda alpha: alpha.exp() / alpha.exp().sum())


@mutant("relaxation.mixing", *SOFTMAX)
def doubled(of: Subject) -> Subject:
    """Its mixing weights are float64, whatever the alphas are."""
    return ruling(of, lambda alpha: alpha.double().softmax(0))


@mutant("relaxation.slope", *SOFTMAX)
def detached(of: Subject) -> Subject:
    """It detaches the sum by which it divides."""

    def weights(alpha: Tensor) -> Tensor:
        shares = (alpha - alpha.detach().max()).exp()
        return shares / shares.sum().detach()

    return ruling(of, weights)


@mutant("relaxation.slope", *SOFTMAX)
def flat_at_zero(of: Subject) -> Subject:
    """It adds the positive and the negative part of each alpha, whose gradients by torch do not add up to 1 at zero."""
    return ruling(of, lambda alpha: (alpha.clamp(min=0) + alpha.clamp(max=0)).softmax(0))


@mutant("relaxation.trained", *SOFTMAX)
def without_estimator(of: Subject) -> Subject:
    """In training steps it gives the mixing weight one to the largest alpha, without a gradient."""
    return sampling(of, lambda alpha, draw, address: torch.zeros_like(alpha).index_fill(0, alpha.argmax(), 1.0))


@mutant("relaxation.symmetric", *SOFTMAX)
def reference(of: Subject) -> Subject:
    """It holds the first candidate's alpha at zero, as the reference of the others."""

    def invert(self: Any, sites: Any, wanted: Tensors, alphas: Tensors) -> Tensors:
        return {a: w.log() - w.log()[0] for a, w in wanted.items()}

    return ruling(of, lambda alpha: torch.cat([torch.zeros_like(alpha[:1]), alpha[1:]]).softmax(0), invert=invert)


@mutant("relaxation.sums", *SOFTMAX)
def unscaled(of: Subject) -> Subject:
    """Its mixing weights sum to two."""
    return ruling(
        of,
        lambda alpha: 2 * alpha.softmax(0),
        invert=lambda self, sites, wanted, alphas: {a: (w / 2).log() for a, w in wanted.items()},
    )


@mutant("relaxation.sums", *SOFTMAX)
def doubled_samples(of: Subject) -> Subject:
    """In training steps its mixing weights sum to two."""
    return sampling(of, lambda alpha, draw, address: 2 * alpha.softmax(0))


@mutant("relaxation.inverse", *SOFTMAX)
def away_from_zero(of: Subject) -> Subject:
    """It adds an epsilon before the logarithm."""
    return overriding(of, invert=lambda self, sites, wanted, alphas: {a: (w + 1e-8).log() for a, w in wanted.items()})


@mutant("relaxation.inverse", *SOFTMAX)
def another_inverse(of: Subject) -> Subject:
    """It inverts sigmoids, although its mixing weights are a softmax."""
    return overriding(of, invert=lambda self, sites, wanted, alphas: {a: w.logit() for a, w in wanted.items()})


@mutant("relaxation.inverse", *SOFTMAX)
def all_sites(of: Subject) -> Subject:
    """It sets the alphas of sites for which nothing is wanted to zero."""

    def invert(self: Any, sites: Any, wanted: Tensors, alphas: Tensors) -> Tensors:
        return {a: wanted[a].log() if a in wanted else torch.zeros_like(alphas[a]) for a in sites}

    return overriding(of, invert=invert)


@mutant("relaxation.draws", *SOFTMAX)
def global_generator(of: Subject) -> Subject:
    """It draws its sample from torch's global generator."""
    return sampling(of, lambda alpha, draw, address: (alpha + torch.rand(alpha.shape, dtype=alpha.dtype)).softmax(0))


@mutant("relaxation.draws", *SOFTMAX)
def global_seed(of: Subject) -> Subject:
    """It draws its sample from a generator with the seed of torch's global generator."""

    def sample(alpha: Tensor, draw: Draw, address: str) -> Tensor:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        return (alpha + torch.rand(alpha.shape, generator=generator, dtype=torch.float64).to(alpha.dtype)).softmax(0)

    return sampling(of, sample)


@mutant("relaxation.active", *SOFTMAX)
def first_alone(of: Subject) -> Subject:
    """It computes the first candidate of each site alone, and leaves the mixing weights as they are."""

    def mixing(self: Any, sites: Any, alphas: Tensors, draw: Draw | None) -> Mixing:
        return Mixing({a: alphas[a].softmax(0) for a in sites}, dict.fromkeys(sites, (0,)))

    return overriding(of, mixing=mixing)


@mutant("relaxation.ranking", *SOFTMAX)
def best_only(of: Subject) -> Subject:
    """Its ranking is the position of the largest alpha of each site."""
    return overriding(of, ranking=lambda self, sites, alphas: {a: alphas[a].argmax() for a in sites})


@mutant("relaxation.follows", *SOFTMAX)
def counted(of: Subject) -> Subject:
    """It has a further parameter, in whose labels the number of candidates occurs."""

    def parameters(self: Any, sites: Any) -> Any:
        count = sum(len(site.candidates) for site in sites.values())
        return {"further": (torch.zeros(count), (produces(*((count, place) for place in range(count))),))} if count else {}

    return overriding(of, parameters=parameters)


@mutant("relaxation.follows", *SOFTMAX)
def by_position(of: Subject) -> Subject:
    """It has a further parameter with an entry for each site, labelled by position: a removal moves the values to other sites."""

    def parameters(self: Any, sites: Any) -> Any:
        return {"further": (torch.zeros(len(sites)), (produces(*range(len(sites))),))} if sites else {}

    return overriding(of, parameters=parameters)


@mutant("relaxation.follows", *SOFTMAX)
def unlabelled(of: Subject) -> Subject:
    """It has a further parameter with an entry for each site, without labels."""
    return overriding(of, parameters=lambda self, sites: {"further": (torch.zeros(len(sites)), (None,))} if sites else {})


@mutant("relaxation.steps", *SOFTMAX)
def anew_at_every_call(of: Subject) -> Subject:
    """It draws another sample at every call."""
    calls = itertools.count()

    def sample(alpha: Tensor, draw: Draw, address: str) -> Tensor:
        noise = torch.rand(alpha.shape, generator=draw.seed(next(calls)).generator(), dtype=torch.float64)
        return (alpha + noise.to(alpha.dtype)).softmax(0)

    return sampling(of, sample)


@mutant("relaxation.steps", *SOFTMAX)
def anew_in_training(of: Subject) -> Subject:
    """It draws another sample at every call with alphas that are trained."""
    calls = itertools.count()

    def sample(alpha: Tensor, draw: Draw, address: str) -> Tensor:
        call = next(calls) if alpha.requires_grad else 0
        noise = torch.rand(alpha.shape, generator=draw.seed(call).generator(), dtype=torch.float64)
        return (alpha + noise.to(alpha.dtype)).softmax(0)

    return sampling(of, sample)
