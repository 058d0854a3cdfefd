"""Growth of operators of a third party (Jie & Gao 2021, Algorithm 4): when, by a criterion, and which, by a morphism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from nasframe import (
    Address,
    Candidate,
    Claim,
    Context,
    Decision,
    Edit,
    Filling,
    GrowthCriterion,
    Morphism,
    Network,
    Proposal,
    Seed,
    Structure,
    Take,
)
from nasframe.errors import ChangeError
from nasframe.interfaces.plan import PlanRecipe
from nasframe.network.network import unallocated
from nasframe.options import number
from nasframe.plugins import Plugin
from nasframe.records import EpochEnded
from nasframe.search.plan import Change, Plan, Restore, Train
from nasframe.structure.editing import candidate_at, site_at
from nasframe.testing.examples import Examples


@attrs.frozen
class Surpassed(GrowthCriterion):
    """Let operations grow when a mixing weight surpasses a threshold (line 1), at most so many times."""

    name: ClassVar[str] = "surpassed"
    ends: ClassVar[frozenset[str]] = frozenset()
    threshold: float = number(0.5, low=0.0, high=1.0)
    times: int = number(3, low=1, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return whether the network changes; the state counts how often it did."""
        last, made = history[-1], state or 0
        if not isinstance(last, EpochEnded):
            return made, Decision()
        largest = max((weight for site in last.mixing.values() for weight in site.values()), default=0.0)
        grows = largest > self.threshold and made < self.times
        return made + grows, Decision(change=grows, reason=f"the largest mixing weight is {largest:.3g}")


@attrs.frozen
class Twin(Morphism):
    """Give the operation of the largest mixing weight a twin, with half of that weight (lines 2 to 5).

    Args:
        sigma: the standard deviation of the noise by which the parameters of the twin differ; without any, growth is exact.
    """

    name: ClassVar[str] = "twin"
    sigma: float = number(0.01, low=0.0)

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the twin of the strongest candidate of each undecided site, with its mixing weight as the gain."""
        strongest = {a: int(weights.argmax()) for a, weights in context.mixing.items()}
        sites = {a: s for a, s in structure.sites() if a in strongest and s == dict(context.structure.sites())[a]}
        found, network = [], unallocated(structure)
        for address, site in sites.items():
            id = site.candidates[strongest[address]].id
            modules = [mixture.candidates[str(id)] for _, mixture in network.mixed_operations(address)]
            cost = 1 + sum(p.numel() for module in modules for p in module.parameters())  # one alpha
            found.append(Proposal({"site": address, "candidate": id}, gain=float(context.mixing[address].max()), cost=cost))
        return found

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds the twin behind all other candidates."""
        address, id = request.get("site"), request.get("candidate")
        site, old = site_at(structure, address), candidate_at(structure, address, id)
        if site.decided:
            raise ChangeError(f"{address} is decided, so that a twin would get no mixing weight; choose an undecided site")
        new = Candidate(structure.next_id, old.operation)
        place, made = site.candidates.index(old), attrs.evolve(site, candidates=(*site.candidates, new))

        def fill(parent: Network, child: Network) -> Filling:
            generator, overrides = seed("noise").generator(), dict[str, Any]()
            for name, mixture in parent.mixed_operations(Address(str(address))):
                module, prefix = mixture.candidates[str(id)], f"{name}.candidates"
                for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    # each of the two has half of the gradient
                    source, noise = f"{prefix}.{id}.{key}", None
                    overrides[source] = Take(source, gradient=0.5)
                    if isinstance(tensor, torch.nn.Parameter):
                        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                        noise = self.sigma * drawn.to(tensor)
                    overrides[f"{prefix}.{new.id}.{key}"] = Take(source, gradient=0.5, offset=noise)
            weights = parent.mixing()[Address(str(address))]
            halved = torch.cat([weights, weights[place : place + 1] / 2])
            halved[place] /= 2
            return Filling(Claim.lossy() if self.sigma else Claim.exact(), overrides, {Address(str(address)): halved})

        return Edit(structure.replace_site(Address(str(address)), made, 1), fill)


@attrs.frozen
class GrowingTwins(PlanRecipe):
    """A supernet whose operations grow while it trains; then its architecture is tuned."""

    name: ClassVar[str] = "growing_twins"
    epochs: int = number(50, low=1, whole=True)
    threshold: float = number(0.5, low=0.0, high=1.0)
    times: int = number(3, low=1, whole=True)

    def steps(self) -> Plan:
        """Return a search with growth in mid-phase, then a pruning and a tuning."""
        search = Train(
            phase="search",
            parameters=("weights", "alphas"),
            epochs=self.epochs,
            criterion=Surpassed(self.threshold, self.times),
            during=(Change(grow=True, growth=(Twin(),)),),
        )
        tune = Train(phase="tune", epochs=self.epochs, competes=True)
        return (search, Change(prune=True, derive=True, restart=True), tune, Restore())


EXAMPLES = Examples(
    parts={
        Twin: st.builds(Twin, sigma=st.sampled_from([0.0, 0.01])),
        Surpassed: st.builds(Surpassed, st.floats(0.2, 0.9), st.integers(1, 3)),
    }
)
PLUGIN = Plugin("twins", "tests", "0", (Surpassed, Twin, GrowingTwins))
