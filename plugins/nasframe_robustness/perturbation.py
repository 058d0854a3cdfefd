"""The selection of DARTS-PT: candidates are compared by the loss without them (Wang et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Context, Pruner, Structure
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import flag, number
from nasframe.search.plan import Change, Plan, Repeat, Restore, Train


@attrs.frozen
class Perturbation(Pruner):
    """Keep, at each of some random sites, the candidate without which the supernet is worst (Wang et al. 2021, section 4).

    The score of a candidate is the validation loss of the supernet without it, when the other candidates keep their mixing
    weights. With `sites=1` in a plan that trains between two changes, this is their Algorithm 1.

    Args:
        sites: the number of undecided sites, drawn at random, that one change decides; all if it is left out.
    """

    name: ClassVar[str] = "perturbation"
    sites: int | None = number(None, low=1, whole=True, optional=True)

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        """Return the validation loss without each candidate, by the address of the chosen sites."""
        undecided = [*context.mixing]
        order = torch.randperm(len(undecided), generator=context.seed("sites").generator())
        found: dict[str, Tensor] = {}
        for address in (undecided[i] for i in order[: self.sites]):
            weights = context.mixing[address]
            without = weights.repeat(len(weights), 1).fill_diagonal_(0.0)
            losses = [context.loss(f"{address} without {i}", {address: w}) for i, w in enumerate(without)]
            found[address] = torch.tensor(losses, dtype=torch.float64)
        return found

    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return all but the candidate of the largest score at each site that has scores; zero is kept only if it is alone."""
        gone: dict[Address, Set[int]] = {}
        for address, site in structure.sites():
            if address not in scores:
                continue
            scored = zip(site.candidates, scores[address].tolist(), strict=True)
            ranks = {c.id: (not c.operation.zero, math.inf if math.isnan(s) else s) for c, s in scored}
            gone[address] = ranks.keys() - {max(ranks, key=lambda id: ranks[id])}
        return gone


@attrs.frozen
class DartsPT(PlanRecipe):
    """Train the supernet; then decide one site and tune what is left, until all are decided (Wang et al. 2021, Algorithm 1).

    The selection does not need the alphas. With `alphas=False` they stay as they are at the beginning, which in the paper made the cells
    better that were found in NAS-Bench-201.

    Args:
        epochs: the epochs of the supernet.
        tuning: the epochs of tuning after each decision.
        alphas: whether the supernet trains its alphas.
    """

    name: ClassVar[str] = "darts_pt"
    epochs: int = number(50, low=1, whole=True)
    tuning: int = number(5, low=1, whole=True)
    alphas: bool = flag(True)

    def steps(self) -> Plan:
        """Return a search, then turns of deciding one site and tuning."""
        decide = Change(prune=True, pruner=Perturbation(sites=1))
        turn = (decide, Train(phase="tune", epochs=self.tuning, competes=True))
        search = Train(phase="search", parameters=("weights", "alphas") if self.alphas else ("weights",), epochs=self.epochs)
        return (search, Repeat(steps=turn, until="decided"), Restore())
