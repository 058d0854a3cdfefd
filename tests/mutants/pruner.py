"""Pruners with one fault each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mutants.system import mutant, overriding
from nasframe import Site, Structure
from nasframe.testing.subject import Subject

STRONGEST = ("pruner", "strongest")
Weights = Mapping[str, Tensor]
Gone = Mapping[str, Set[Any]]


def removing(of: Subject, change: Callable[[Callable[[Structure, Weights], Gone], Structure, Any], Gone]) -> Subject:
    """The pruner that names `change(remove, structure, weights)`."""
    honest: Any = of.cls
    return overriding(
        of, remove=lambda self, structure, weights: change(lambda *g: honest.remove(self, *g), structure, weights)
    )


@mutant("pruner.names", *STRONGEST)
def below_the_mean(of: Subject) -> Subject:
    """It names all that weigh no more than the mean of their site: where they are equal, all."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        sites: dict[str, Site] = dict(structure.sites())
        pairs = {a: zip(sites[a].candidates, (w <= w.mean()).tolist(), strict=True) for a, w in weights.items()}
        return {a: {c.id for c, light in each if light} for a, each in pairs.items()}

    return removing(of, change)


@mutant("pruner.names", *STRONGEST)
def numpys_ids(of: Subject) -> Subject:
    """It names ids by numpy's numbers, which JSON cannot hold."""
    return removing(of, lambda remove, *given: {a: {*np.array(sorted(ids))} for a, ids in remove(*given).items()})


@mutant("pruner.again", *STRONGEST)
def weights_of_all(of: Subject) -> Subject:
    """It looks up weights for decided sites, too."""
    return removing(of, lambda remove, s, weights: remove(s, {address: weights[address] for address, _ in s.sites()}))


@mutant("pruner.again", *STRONGEST)
def positions(of: Subject) -> Subject:
    """It names candidates by where they stand in the structure, which in a supernet is their id."""

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
    """It takes the weights out of the mapping that it is given."""
    return removing(of, lambda remove, s, weights: remove(s, {a: weights.pop(a) for a in [*weights]}))


@mutant("pruner.tensors", *STRONGEST)
def through_numpy(of: Subject) -> Subject:
    """It calls numpy() on weights."""
    return removing(of, lambda remove, s, weights: remove(s, {a: torch.tensor(w.numpy()) for a, w in weights.items()}))


@mutant("pruner.tensors", *STRONGEST)
def one_dtype(of: Subject) -> Subject:
    """It multiplies the weights by a matrix of float64."""
    return removing(of, lambda remove, s, weights: remove(s, {a: torch.eye(len(w)).double() @ w for a, w in weights.items()}))


@mutant("pruner.stable", *STRONGEST)
def by_identity(of: Subject) -> Subject:
    """It holds an operation heavier by a hair where it is the very object that the backbone names last."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        last: Any = structure.backbone.operations[-1]  # type: ignore[attr-defined]
        same: dict[str, Tensor] = {a: torch.tensor([c.operation is last for c in s.candidates]) for a, s in structure.sites()}
        return remove(structure, {a: w + 1e-9 * same[a] for a, w in weights.items()})

    return removing(of, change)


@mutant("pruner.stable", *STRONGEST)
def by_order(of: Subject) -> Subject:
    """It takes the weights in the order of their mapping for those of the undecided sites in theirs."""

    def change(remove: Any, structure: Structure, weights: Weights) -> Gone:
        undecided = [address for address, site in structure.sites() if not site.decided]
        return remove(structure, dict(zip(undecided, weights.values(), strict=True)))

    return removing(of, change)
