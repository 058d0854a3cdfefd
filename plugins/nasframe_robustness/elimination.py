"""Elimination with tuning: the candidates of a supernet are removed one by one, by the validation loss without each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Context, Pruner, Structure
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import choice, flag, number
from nasframe.search.plan import Change, Plan, Repeat, Restore, Train


@attrs.frozen
class LeastNeeded(Pruner):
    """Remove the candidate without which the validation loss is least.

    The score of a candidate is the validation loss of the supernet without it, when the mixing weights of the other candidates are scaled
    to the same sum. With a softmax of each site's alphas that is the loss after the removal. (`perturbation` does not scale them, and
    keeps one candidate of a site.) The last operation of a site that is not zero is not removed.

    Args:
        per: "network" removes one candidate in all, "site" one of each undecided site.
    """

    name: ClassVar[str] = "least_needed"
    per: str = choice("network", "site", default="network")

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        """Return the validation loss without each candidate."""
        found: dict[str, Tensor] = {}
        for address, weights in context.mixing.items():
            others = weights.repeat(len(weights), 1).fill_diagonal_(0.0)
            without = others * (weights.sum() / others.sum(1, keepdim=True))
            losses = [context.loss(f"{address} without {i}", {address: w}) for i, w in enumerate(without)]
            found[address] = torch.tensor(losses, dtype=torch.float64)
        return found

    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the candidate of least score, or that of each site."""
        weakest: list[tuple[float, Address, int]] = []
        for address, site in structure.sites():
            if site.decided or address not in scores:
                continue
            operations = [c for c in site.candidates if not c.operation.zero]
            kept = operations if len(operations) == 1 else []
            pairs = zip(scores[address].nan_to_num(math.inf).tolist(), site.candidates, strict=True)
            loss, candidate = min(((s, c) for s, c in pairs if c not in kept), key=lambda pair: pair[0])
            weakest.append((loss, address, candidate.id))
        if self.per == "network":
            weakest = sorted(weakest, key=lambda entry: entry[0])[:1]
        return {address: {id} for _, address, id in weakest}


@attrs.frozen
class Elimination(PlanRecipe):
    """Train the supernet; then remove the candidate that it needs least and train on, until all sites are decided.

    Args:
        epochs: the epochs of the supernet.
        tuning: the epochs after each removal.
        alphas: whether the supernet trains its alphas.
        per: "network" removes one candidate at a time, "site" one of each undecided site.
    """

    name: ClassVar[str] = "elimination"
    epochs: int = number(20, low=1, whole=True)
    tuning: int = number(1, low=1, whole=True)
    alphas: bool = flag(True)
    per: str = choice("network", "site", default="network")

    def steps(self) -> Plan:
        """Return a search, then turns of removing and searching on, and a tuning."""

        def search(epochs: int) -> Train:
            return Train(phase="search", parameters=("weights", "alphas") if self.alphas else ("weights",), epochs=epochs)

        turn = (Change(prune=True, pruner=LeastNeeded(self.per)), search(self.tuning))
        tune = Train(phase="tune", epochs=self.tuning, competes=True)
        return (search(self.epochs), Repeat(steps=turn, until="decided"), tune, Restore())
