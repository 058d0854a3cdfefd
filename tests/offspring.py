"""Prune and replace of a third party, in cycles: the weakest convolutions of each edge make room for children of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import strategies as st
from nasframe_convolutional import SeparableConvolution
from nasframe_convolutional.morphism import LOSSY, Morphed, more, morphed
from torch import Tensor

from nasframe import Address, Candidate, Context, Edit, Filling, Morphism, Network, Proposal, Pruner, Seed, Structure
from nasframe.errors import ChangeError
from nasframe.interfaces.part import to_plain
from nasframe.interfaces.plan import PlanRecipe
from nasframe.network.network import unallocated
from nasframe.options import number
from nasframe.plugins import Plugin
from nasframe.search.plan import Change, Plan, Repeat, Restore, Train
from nasframe.structure.editing import candidate_at, site_at
from nasframe.testing.examples import Examples


@attrs.frozen
class Weakest(Pruner):
    """Remove the weakest candidates of each site until so many are left."""

    name: ClassVar[str] = "weakest"
    keep: int = number(2, low=1, whole=True)

    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the ids of the weakest candidates."""
        gone = {}
        for address, site in structure.sites():
            if address in scores and len(site.candidates) > self.keep:
                order = scores[address].argsort(descending=True, stable=True).tolist()
                gone[address] = {site.candidates[i].id for i in order[self.keep :]}
        return gone


@attrs.frozen
class Offspring(Morphism):
    """Add to a site a child of one of its convolutions that the site has never had.

    Args:
        largest: the largest kernel of a child.
    """

    name: ClassVar[str] = "offspring"
    kinds: ClassVar[tuple[str, ...]] = ("pad", "crop", "dilate")
    largest: int = number(7, low=1, whole=True)

    def admits(self, structure: Structure) -> bool:
        """Return whether there is a convolution that may have a child."""
        return any(True for _, site in structure.sites() for c in site.candidates for _ in self._children(c))

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the untried children of each site, with the mixing weight of the parent as the gain."""
        found, network = [], unallocated(structure)
        for address, site in structure.sites():
            tried, before = context.tried(address), dict(context.structure.sites())[address].candidates
            weights = context.ranking.get(address, torch.ones(len(before))).tolist()
            gains = {c.id: weight for c, weight in zip(before, weights, strict=True)}
            for candidate in site.candidates:
                for kind, child in self._children(candidate):
                    if to_plain(child.operation) not in tried:
                        request = {"site": address, "candidate": candidate.id, "kind": kind}
                        old = [m.candidates[str(candidate.id)] for _, m in network.mixed_operations(address)]
                        # a decided site has no alphas yet
                        cost = 1 + site.decided + sum(p.numel() for module in old for p in module.parameters())
                        cost += more(network, address, candidate.id, child.operation)
                        found.append(Proposal(request, gain=gains[candidate.id], cost=cost))
        return found

    def _children(self, candidate: Candidate) -> Iterator[tuple[str, Morphed]]:
        for kind in self.kinds if isinstance(candidate.operation, SeparableConvolution) else ():
            try:
                child = morphed(candidate.operation, kind)
            except ChangeError:
                continue
            if child.operation.kernel <= self.largest and child.operation.dilation <= 2:
                yield kind, child

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds the child, which has the weights of its parent and an equal share of the mixing weights."""
        site, parent_id = site_at(structure, request.get("site")), request.get("candidate")
        address, old = Address(request["site"]), candidate_at(structure, request["site"], parent_id)
        morph, new = morphed(old.operation, str(request.get("kind"))), structure.next_id
        made = attrs.evolve(site, candidates=(*site.candidates, Candidate(new, morph.operation)))

        def fill(parent: Network, child: Network) -> Filling:
            overrides = dict[str, Any]()
            for name, _ in parent.mixed_operations(address):
                before, after = f"{name}.candidates.{parent_id}", f"{name}.candidates.{new}"
                entries = morph.entries(parent.get_submodule(before), child.get_submodule(after), f"{before}.")
                overrides |= {f"{after}.{key}": entry for key, entry in entries.items()}
            ids = [c.id for c in site_at(parent.structure, address).candidates]
            weights = parent.mixing().get(address, torch.ones(len(ids)))
            kept = torch.stack([weights[ids.index(c.id)] for c in site.candidates])
            share = 1 / len(made.candidates)
            return Filling(LOSSY, overrides, {address: torch.cat([kept / kept.sum() * (1 - share), kept.new_tensor([share])])})

        return Edit(structure.replace_site(address, made, 1), fill)


@attrs.frozen
class PruneAndReplace(PlanRecipe):
    """Cycles of training and of a change on every edge, with alphas that begin anew, until nothing is left to try."""

    name: ClassVar[str] = "prune_and_replace"
    epochs: int = number(10, low=1, whole=True)
    grace: int = number(3, low=0, whole=True)
    tuning: int = number(20, low=1, whole=True)
    largest: int = number(7, low=1, whole=True)

    def steps(self) -> Plan:
        """Return a repeat of training and replacing, then a pruning and a tuning."""
        train = Train(phase="cycle", parameters=("weights", "alphas"), epochs=self.epochs, grace=self.grace)
        replace = Change(
            prune=True,
            pruner=Weakest(),
            grow=True,
            growth=(Offspring(self.largest),),
            per="site",
            reset=("alphas",),
            needed=True,
        )
        tune = Train(phase="tune", epochs=self.tuning, competes=True)
        return (Repeat(steps=(train, replace)), Change(prune=True, derive=True, restart=True), tune, Restore())


EXAMPLES = Examples(parts={Weakest: st.builds(Weakest, st.integers(1, 3)), Offspring: st.builds(Offspring, st.just(5))})
PLUGIN = Plugin("offspring", "tests", "0", (Weakest, Offspring, PruneAndReplace))
