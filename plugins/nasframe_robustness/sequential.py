"""The sequential greedy search of SGAS: sites are decided one at a time, the most important and most certain one first (Li et al. 2020)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Context, Pruner, Site, Structure
from nasframe.interfaces.plan import PlanRecipe
from nasframe.options import number
from nasframe.records import EpochEnded
from nasframe.search.plan import Change, Plan, Repeat, Restore, Train


@attrs.frozen
class MostCertain(Pruner):
    """Decide one undecided site of each cell type by the criteria of SGAS (Li et al. 2020, section 3.2).

    With the mixing weights w of a site, p are those of its operations without zero, divided by their sum, and

        importance   S_EI = the sum of w over the operations without zero,
        certainty    S_SC = 1 - H(p) / log(the number of these operations), where H is the entropy,
        stability    S_SS = the mean over earlier epochs t of sum_i min(p_i, p_i at t).

    Each is scaled to [0, 1] over the undecided sites of a cell type. Their product is criterion 1 (S_EI and S_SC) or 2 (all three).
    The site where it is largest keeps its operation of largest p. When a node has `keep` decided sites, its other sites are removed.

    Args:
        keep: the number of sites that a node keeps.
        stability: the number of earlier epochs in S_SS, 4 in the paper's criterion 2; by default 0, which is criterion 1.
    """

    name: ClassVar[str] = "most_certain"
    keep: int = number(2, low=1, whole=True)
    stability: int = number(0, low=0, whole=True)

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        """Return scores whose maximum at a site is the product of its criteria, and which are in the order of p below it."""
        sites = {address: site for address, site in context.structure.sites() if address in context.ranking}
        w = {address: _without_zero(site, context.ranking[address].double()) for address, site in sites.items()}
        p = {address: weights / weights.sum().clamp(min=torch.finfo().tiny) for address, weights in w.items()}
        # the last record is that of the present mixing weights
        records = [record for record in context.history if isinstance(record, EpochEnded)][-1 - self.stability : -1]
        found: dict[str, Tensor] = {}
        for type, _ in context.structure.cells:
            edges = [address for address in sites if address.cell == type]
            criteria = (
                [float(w[edge].sum()) for edge in edges],
                [_certainty(p[edge], len(_operations(sites[edge]))) for edge in edges],
                [_stability(p[edge], sites[edge], [r.mixing[edge] for r in records if edge in r.mixing]) for edge in edges],
            )
            for edge, *values in zip(edges, *map(_scaled, criteria), strict=True):
                found[edge] = math.prod(values) + p[edge] - p[edge].max()
        return found

    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the other candidates of the chosen site of each cell type, and the sites that its node does not keep."""
        gone: dict[Address, Set[int]] = {}
        for type, _ in structure.cells:
            sites = {address: site for address, site in structure.sites() if address.cell == type}
            undecided = {address: site for address, site in sites.items() if not site.decided and address in scores}
            kept = Counter(site.node for site in sites.values() if site.decided and not site.candidates[0].operation.zero)
            # the strongest operation of each site, and its score
            values = {address: scores[address].nan_to_num(-math.inf).tolist() for address in undecided}
            strongest = {a: max(_operations(site), key=values[a].__getitem__) for a, site in undecided.items()}
            possible = [address for address, site in undecided.items() if kept[site.node] < self.keep]
            if possible:
                chosen = max(possible, key=lambda address: values[address][strongest[address]])
                site = undecided.pop(chosen)
                gone[chosen] = {c.id for c in site.candidates} - {site.candidates[strongest[chosen]].id}
                kept[site.node] += 1
            for address, site in undecided.items():
                if kept[site.node] >= self.keep:
                    gone[address] = {c.id for c in site.candidates}
        return gone


def _operations(site: Site) -> list[int]:
    """Return the positions of the operations of a site that are not zero; of all, if there is no other."""
    places = range(len(site.candidates))
    return [i for i in places if not site.candidates[i].operation.zero] or [*places]


def _without_zero(site: Site, weights: Tensor) -> Tensor:
    """Return the mixing weights of a site, with 0 for zero operations."""
    places = torch.tensor(_operations(site), device=weights.device)
    return torch.zeros_like(weights).index_copy(0, places, weights[places])


def _certainty(p: Tensor, count: int) -> float:
    """Return 1 - H(p) / log(count), with 0 log 0 = 0."""
    return 1 + float(torch.special.xlogy(p, p).sum()) / math.log(count) if count > 1 else 1.0


def _stability(p: Tensor, site: Site, past: Sequence[Mapping[str, float]]) -> float:
    """Return the mean of sum_i min(p_i, p_i at t) over earlier epochs, whose records name a candidate by its id and its operation."""
    earlier = [{int(name.split()[0]): weight for name, weight in weights.items()} for weights in past]
    # Epochs in which the site had other candidates do not count.
    rows = [
        [weights[c.id] for c in site.candidates] for weights in earlier if weights.keys() == {c.id for c in site.candidates}
    ]
    before = [_without_zero(site, torch.tensor(row, dtype=p.dtype, device=p.device)) for row in rows]
    overlaps = [float(torch.minimum(p, w / w.sum()).sum()) for w in before]
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def _scaled(values: Sequence[float]) -> list[float]:
    """Return the values, scaled so that the least is 0 and the largest 1; all 1 if they are equal, so that they decide nothing."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


@attrs.frozen
class Sgas(PlanRecipe):
    """Train the supernet; then decide one site of each cell type and train on, until all are decided (Li et al. 2020, Algorithm 1).

    Args:
        warmup: the epochs before the first decision.
        between: the epochs after each decision.
        tuning: the epochs in which the decided network is tuned.
        keep: the number of sites that a node keeps, 1 for cells whose nodes have one operation each.
        stability: the number of earlier epochs that the present mixing weights are compared with: 0 in criterion 1, 4 in criterion 2.
    """

    name: ClassVar[str] = "sgas"
    warmup: int = number(10, low=1, whole=True)
    between: int = number(5, low=1, whole=True)
    tuning: int = number(5, low=1, whole=True)
    keep: int = number(2, low=1, whole=True)
    stability: int = number(0, low=0, whole=True)

    def steps(self) -> Plan:
        """Return a search, turns of deciding and searching on, and a tuning."""

        def search(epochs: int) -> Train:
            return Train(phase="search", parameters=("weights", "alphas"), epochs=epochs)

        decide = Change(prune=True, pruner=MostCertain(self.keep, self.stability))
        turns = Repeat(steps=(decide, search(self.between)), until="decided")
        return (search(self.warmup), turns, Train(phase="tune", epochs=self.tuning, competes=True), Restore())
