"""Re-sampling: the combination of operations at a site drawn anew from its mixing weights (Jie & Gao 2021, 3.2.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Candidate, Claim, Context, Edit, Filling, Morphism, Network, Proposal, Seed, Site, Structure
from nasframe.errors import ChangeError
from nasframe.network.network import unallocated
from nasframe.options import number
from nasframe.structure.editing import candidate_at, site_at
from nasframe_growing.operators import alphas, copies, remaining, size, weights_of


@attrs.frozen
class Resampling(Morphism):
    """Draw the candidates of a site anew, with replacement and with the mixing weights as probabilities.

    A candidate that is drawn k times of N has k copies with the mixing weight 1 / N each; one that is not drawn is removed. So the
    expectation of the site is what it computed before. The number of candidates may be kept or changed (3.2.4). Copies differ by noise
    (`nasframe_growing.operators.copies`). A drawing is not proposed if all of it is zero, or if it leaves the site as it is.

    Args:
        draws: N; None for the number of candidates that the site has.
        sigma: the standard deviation of the noise of copies.
    """

    name: ClassVar[str] = "resample"
    draws: int | None = number(None, low=1, whole=True, optional=True)
    sigma: float = number(0.01, low=0.0)

    def admits(self, structure: Structure) -> bool:
        """Return whether there is an undecided site."""
        return not structure.decided

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the drawing of each undecided site that changes it."""
        network, found = unallocated(structure), []
        for address, site in structure.sites():
            if site.decided:
                continue
            drawn = self._drawn(site, weights_of(context, address, site), context.seed(address))
            operations = [c.operation for id in drawn for c in site.candidates if c.id == id]
            if all(o.zero for o in operations) or Counter(operations) == Counter(c.operation for c in site.candidates):
                continue
            request = {"site": address, "drawn": drawn}
            after, *_ = self._edited(structure, request)
            cost = alphas(after, context.relaxation) - alphas(structure, context.relaxation)
            cost += sum(size(network, address, id) for id in drawn) - sum(size(network, address, c.id) for c in site.candidates)
            found.append(Proposal(request, cost=cost))
        return found

    def _drawn(self, site: Site, weights: Mapping[int, float], seed: Seed) -> list[int]:
        """Return the ids that are drawn, in the order of the candidates."""
        probabilities = torch.tensor([*weights.values()], dtype=torch.float64)
        number = self.draws or len(site.candidates)
        places = torch.multinomial(probabilities, number, replacement=True, generator=seed.generator())
        return [site.candidates[place].id for place in sorted(places.tolist())]

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that removes what was not drawn, and adds copies of what was drawn several times behind the others."""
        edited, address, kept, new = self._edited(structure, request)
        present = [c.id for c in site_at(structure, address).candidates]

        def fill(parent: Network, child: Network) -> Filling:
            weights, _ = remaining(parent, address, present)
            overrides, generator = dict[str, Any](), seed("noise").generator()
            for id, ids in kept.items():
                if ids:
                    overrides |= copies(parent, address, id, ids, self.sigma, generator)
            count = len(kept) + len(new)
            # without a sum of 1, as with sigmoids, the site keeps the sum that it has
            mixing: dict[str, Tensor] = {} if count == 1 else {address: (weights.sum() / count).expand(count).clone()}
            return Filling(Claim.lossy(), overrides, mixing)

        return Edit(edited, fill)

    def _edited(
        self, structure: Structure, request: Mapping[str, Any]
    ) -> tuple[Structure, Address, Mapping[int, Sequence[int]], Sequence[Candidate]]:
        """Return the edited structure, the site, the ids of the copies of each candidate that stays, and the copies."""
        site, drawn = site_at(structure, request.get("site")), request.get("drawn")
        if not isinstance(drawn, list) or not drawn:
            raise ChangeError(f"drawn is {drawn!r}; it must list the ids of the candidates that were drawn, such as [0, 0, 2]")
        times = [candidate_at(structure, request.get("site"), id) for id in drawn]
        kept, new = dict[int, Sequence[int]](), list[Candidate]()
        stay = [c for c in site.candidates if c in times]
        for candidate in stay:
            first = structure.next_id + len(new)
            new += [Candidate(first + n, candidate.operation) for n in range(times.count(candidate) - 1)]
            kept[candidate.id] = [c.id for c in new if c.id >= first]
        address, made = Address(str(request["site"])), attrs.evolve(site, candidates=(*stay, *new))
        return structure.replace_site(address, made, len(new)), address, kept, new
