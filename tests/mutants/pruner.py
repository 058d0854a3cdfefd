"""Pruners with one fault each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Set
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutants.system import mutant, overriding
from nasframe import Context, Site, Structure
from nasframe.testing.subject import Subject

STRONGEST = ("pruner", "strongest")
Weights = Mapping[str, Tensor]
Gone = Mapping[str, Set[Any]]


def removing(of: Subject, change: Callable[[Callable[[Structure, Weights], Gone], Structure, Any], Gone]) -> Subject:
    """Return the pruner that returns `change(remove, structure, weights)`."""
    honest: Any = of.cls
    return overriding(
        of, remove=lambda self, structure, weights: change(lambda *g: honest.remove(self, *g), structure, weights)
    )


@mutant("pruner.names", *STRONGEST)
def below_the_mean(of: Subject) -> Subject:
    """It removes all that weigh no more than the mean of their site: all, if they are equal."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        sites: dict[str, Site] = dict(structure.sites())
        pairs = {a: zip(sites[a].candidates, (w <= w.mean()).tolist(), strict=True) for a, w in weights.items()}
        return {a: {c.id for c, light in each if light} for a, each in pairs.items()}

    return removing(of, change)


@mutant("pruner.names", *STRONGEST)
def numpys_ids(of: Subject) -> Subject:
    """It returns ids as numpy's integers, which JSON cannot contain."""
    return removing(of, lambda remove, *given: {a: {*np.array(sorted(ids))} for a, ids in remove(*given).items()})


@mutant("pruner.again", *STRONGEST)
def weights_of_all(of: Subject) -> Subject:
    """It looks up weights for decided sites, too."""
    return removing(of, lambda remove, s, weights: remove(s, {address: weights[address] for address, _ in s.sites()}))


@mutant("pruner.again", *STRONGEST)
def positions(of: Subject) -> Subject:
    """It returns positions in the structure, which in a supernet equal the ids."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        places = dict(zip((c.id for _, s in structure.sites() for c in s.candidates), count(), strict=False))
        return {a: {places[id] for id in ids} for a, ids in remove(structure, weights).items()}

    return removing(of, change)


@mutant("pruner.pure", *STRONGEST)
def in_place(of: Subject) -> Subject:
    """It centres the weights in place."""
    return removing(
        of, lambda remove, s, weights: remove(s, {a: w.detach().sub_(w.detach().mean()) for a, w in weights.items()})
    )


@mutant("pruner.pure", *STRONGEST)
def taken_out(of: Subject) -> Subject:
    """It removes the weights from the mapping that it receives."""
    return removing(of, lambda remove, s, weights: remove(s, {a: weights.pop(a) for a in [*weights]}))


@mutant("pruner.tensors", *STRONGEST)
def through_numpy(of: Subject) -> Subject:
    """It calls numpy() on mixing weights, which fails where they have gradients."""
    return removing(of, lambda remove, s, weights: remove(s, {a: torch.tensor(w.numpy()) for a, w in weights.items()}))


@mutant("pruner.tensors", *STRONGEST)
def one_dtype(of: Subject) -> Subject:
    """It multiplies the weights by a matrix of float64."""
    return removing(of, lambda remove, s, weights: remove(s, {a: torch.eye(len(w)).double() @ w for a, w in weights.items()}))


@mutant("pruner.stable", *STRONGEST)
def by_identity(of: Subject) -> Subject:
    """It prefers the operation that is the same object as the last one of the backbone."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        last: Any = structure.backbone.operations[-1]  # type: ignore[attr-defined]
        same: dict[str, Tensor] = {a: torch.tensor([c.operation is last for c in s.candidates]) for a, s in structure.sites()}
        return remove(structure, {a: w + 1e-9 * same[a] for a, w in weights.items()})

    return removing(of, change)


@mutant("pruner.stable", *STRONGEST)
def by_order(of: Subject) -> Subject:
    """It assigns the weights to the undecided sites in order, whatever their addresses."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        undecided = [address for address, site in structure.sites() if not site.decided]
        return remove(structure, dict(zip(undecided, weights.values(), strict=True)))

    return removing(of, change)


def scoring(of: Subject, change: Callable[[Context], Weights]) -> Subject:
    """The pruner whose scores are `change(context)`."""
    return overriding(of, scores=lambda self, context: change(context))


@mutant("pruner.measured", *STRONGEST)
def trained_in_place(of: Subject) -> Subject:
    """It trains the network of the search in place of the private copy."""

    def change(context: Context) -> Weights:
        for parameter in context._training.network.parameters():
            parameter.data.mul_(0.9)
        return context.mixing

    return scoring(of, change)


@mutant("pruner.measured", *STRONGEST)
def left_in_training_mode(of: Subject) -> Subject:
    """It switches the network of the search to the other mode, in which its dropout and normalisation differ."""

    def change(context: Context) -> Weights:
        network = context._training.network
        network.train(not network.training)
        return context.mixing

    return scoring(of, change)


@mutant("pruner.measured", *STRONGEST)
def tested(of: Subject) -> Subject:
    """It scores candidates by the loss on the test split."""

    def change(context: Context) -> Weights:
        data = context._trainer.data
        loss = data.mean_loss(lambda x: context.network(x, context.mixing), data.test)  # type: ignore[arg-type, return-value]
        return {address: weights * loss for address, weights in context.mixing.items()}

    return scoring(of, change)


@mutant("pruner.measured", *STRONGEST)
def one_score(of: Subject) -> Subject:
    """It gives each site one score, that of its strongest candidate."""
    return scoring(of, lambda context: {address: weights.max() for address, weights in context.mixing.items()})


@mutant("pruner.decides", *STRONGEST)
def remembering(of: Subject) -> Subject:
    """It leaves the first site undecided if the strongest candidates that it measured last are at odd positions in sum."""
    last = [0]
    honest: Any = of.cls

    def scores(self: Any, context: Context) -> Weights:
        last[:] = [sum(int(w.argmax()) for w in context.mixing.values())]
        return context.mixing

    def remove(self: Any, structure: Structure, weights: Weights) -> Gone:
        first = next(address for address, _ in structure.sites())
        gone = honest.remove(self, structure, weights)
        return {address: ids for address, ids in gone.items() if last[0] % 2 == 0 or address != first}

    return overriding(of, scores=scores, remove=remove)


@mutant("pruner.compares", *STRONGEST)
def blind(of: Subject) -> Subject:
    """It measures scores, and then keeps the first candidate of each site."""
    honest: Any = of.cls

    def remove(self: Any, structure: Structure, weights: Weights) -> Gone:
        return honest.remove(self, structure, {a: torch.zeros_like(w) for a, w in weights.items()})

    return overriding(of, scores=lambda self, context: context.mixing, remove=remove)


@mutant("part.repeatable", *STRONGEST)
def drawing_alone(of: Subject) -> Subject:
    """It adds noise to the scores, from Python's generator, which no seed reaches."""
    return scoring(of, lambda context: {a: w + random.random() for a, w in context.mixing.items()})  # noqa: S311
