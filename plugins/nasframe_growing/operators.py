"""Growth of a site by one more copy of an operation that it has (Jie & Gao 2021, 3.2.2, Eq. 20, and Algorithm 4, lines 2 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import (
    Address,
    Bound,
    Candidate,
    Claim,
    Context,
    Edit,
    Filling,
    Morphism,
    Network,
    Proposal,
    Relaxation,
    Seed,
    Site,
    Structure,
    Take,
)
from nasframe.errors import ChangeError
from nasframe.interfaces.part import to_plain
from nasframe.network.network import tensors, unallocated
from nasframe.options import choice, flag, number
from nasframe.records import MADE, EpochEnded, Started
from nasframe.structure.editing import candidate_at, site_at


@attrs.frozen
class OperatorGrowth(Morphism):
    """Add a second, third, ... copy of an operation to a node or edge, with its own parameters and its own mixing weight (Eq. 20).

    The copy is one of the operation with the largest mixing weight, or of one that is drawn with the mixing weights as probabilities.
    A site where that is `zero`, or has no parameters, does not grow: two identities are the identity.

    With `form="copy"` the copy has the parameters of the operation, and both have half of its mixing weight. As two equal operations
    get equal gradients, they differ by noise: the parameters of one are theta + eps, those of the other theta - eps, with eps from
    N(0, sigma^2). The change is exact for sigma = 0; otherwise it is lossy, and the output of a smooth operation moves by O(sigma^2),
    because the first order of the two cancels. (Unequal mixing weights in the place of noise do not separate them: Adam moves both alike.)

    With `form="fresh"` the copy has random parameters and the mixing weight `share`, and the other mixing weights are multiplied by
    1 - share. The error is O(share). It is bounded if all candidates of the site have a `magnitude`, and lossy otherwise.

    A site grows if its largest mixing weight is above the threshold (3.2.5). So that growing and pruning do not alternate for ever,
    a site that has grown does so again only after its largest mixing weight was not above the threshold at the end of an epoch, and
    an operation is not grown at a site from which a copy of it was removed. Both are read from the records of the run.

    Args:
        form: "copy" or "fresh".
        which: "strongest" for the operation with the largest mixing weight, or "drawn".
        threshold: the mixing weight above which a site grows; 0 for no such condition. A decided site has the mixing weight 1.
        relative: whether the threshold is in units of 1 / n, for a site of n candidates.
        share: the mixing weight of a fresh copy, between 0 and 1.
        sigma: the standard deviation of the noise of a copy.
        most: the largest number of candidates of a site; None for any number.
        replace: whether, at a site with the largest number, the copy takes the place of the weakest other operation (3.2.4), which makes
            the change lossy. If not, the site does not grow.
    """

    name: ClassVar[str] = "operator"
    form: str = choice("copy", "fresh", default="copy")
    which: str = choice("strongest", "drawn", default="strongest")
    threshold: float = number(0.0, low=0.0)
    relative: bool = flag(False)
    share: float = number(0.05, low=0.0, high=1.0)
    sigma: float = number(0.01, low=0.0)
    most: int | None = number(None, low=2, whole=True, optional=True)
    replace: bool = flag(False)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it must be above 0 and below 1, as the other candidates keep the rest")
        if self.replace and self.most is None:
            raise ValueError("replace needs a largest number of candidates: write most = 3, for example, or leave replace out")

    def admits(self, structure: Structure) -> bool:
        """Return whether there is an operation with parameters."""
        network = unallocated(structure)
        return any(grows(network, address, c) for address, site in structure.sites() for c in site.candidates)

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return at most one growth for each site, the one with the largest mixing weight first."""
        network, found = unallocated(structure), list[tuple[float, Proposal]]()
        for address, site in structure.sites():
            weights = weights_of(context, address, site)
            largest, old = max(weights.values()), self._chosen(site, weights, context.seed(address))
            if largest <= self.limit(len(weights)) or not grows(network, address, old):
                continue
            replaced = None
            if self.most is not None and len(weights) >= self.most:
                # the weakest with another operation: a copy in the place of a copy would leave the structure as it is
                others = [c for c in site.candidates if c.operation != old.operation]
                if not self.replace or not others:
                    continue
                replaced = min(others, key=lambda c: weights[c.id]).id
            if self._rests(context, address, old):
                continue
            request = {"site": address, "candidate": old.id, "replaced": replaced}
            cost = size(network, address, old.id) - (0 if replaced is None else size(network, address, replaced))
            after = self._grown(structure, request)[0]
            cost += alphas(after, context.relaxation) - alphas(structure, context.relaxation)
            found.append((largest, Proposal(request, cost=cost)))
        # No gain is estimated, so the order decides; `sorted` is stable, so that of equal sites the first one comes first.
        return [proposal for _, proposal in sorted(found, key=lambda pair: -pair[0])]

    def limit(self, candidates: int) -> float:
        """Return the mixing weight above which a site with that many candidates grows."""
        return self.threshold / candidates if self.relative else self.threshold

    def _chosen(self, site: Site, weights: Mapping[int, float], seed: Seed) -> Candidate:
        if self.which == "strongest":
            return max(site.candidates, key=lambda c: weights[c.id])
        drawn = torch.multinomial(torch.tensor([*weights.values()], dtype=torch.float64), 1, generator=seed.generator())
        return site.candidates[int(drawn)]

    def _rests(self, context: Context, address: Address, old: Candidate) -> bool:
        """Return whether the site must not grow by a copy of this candidate now, so that growing and pruning do not alternate."""
        if to_plain(old.operation) in context.removed(address):
            return True
        known, last = False, None
        for record in context.lineage:
            if isinstance(record, Started):
                known = address in [
                    Address.of(type, s["id"]) for type, c in record.structure["cells"].items() for s in c["sites"]
                ]
            elif record.change in MADE and address in record.added:
                # candidates that come with a new site are no growth of the site
                last, known = max(map(int, record.added[address])) if known else last, True
        if last is None or not self.threshold:
            return False
        epochs = [r.mixing.get(address, {}) for r in context.history if isinstance(r, EpochEnded)]
        since = [weights for weights in epochs if any(name.split(" ")[0] == str(last) for name in weights)]
        return all(max(weights.values()) > self.limit(len(weights)) for weights in since)

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds the copy behind all other candidates."""
        grown, address, old, kept = self._grown(structure, request)

        def fill(parent: Network, child: Network) -> Filling:
            weights, lost = remaining(parent, address, kept)
            if self.form == "fresh":
                claim = Claim.lossy() if lost else self._claim(parent, child, address, weights)
                return Filling(
                    claim, mixing={address: torch.cat([weights * (1 - self.share), weights.new_tensor([self.share])])}
                )
            place = kept.index(old.id)
            halved = torch.cat([weights, weights[place : place + 1] / 2])
            halved[place] /= 2
            overrides = copies(parent, address, old.id, [structure.next_id], self.sigma, seed("noise").generator())
            return Filling(Claim.lossy() if self.sigma or lost else Claim.exact(), overrides, {address: halved})

        return Edit(grown, fill, needs_child=self.form == "fresh")

    def _grown(self, structure: Structure, request: Mapping[str, Any]) -> tuple[Structure, Address, Candidate, list[int]]:
        """Return the grown structure, the site, the candidate to copy, and the ids of the old candidates that stay."""
        address, replaced = request.get("site"), request.get("replaced")
        site, old = site_at(structure, address), candidate_at(structure, address, request.get("candidate"))
        if old.operation.zero:
            raise ChangeError(
                f"candidate {old.id} of {address} is {old.operation.name!r}, of which a second one changes nothing"
            )
        gone = None if replaced is None else candidate_at(structure, address, replaced)
        if gone is old:
            raise ChangeError(f"candidate {old.id} of {address} cannot be copied and replaced; choose two candidates")
        kept = tuple(c for c in site.candidates if c is not gone)
        made = attrs.evolve(site, candidates=(*kept, Candidate(structure.next_id, old.operation)))
        place = Address(str(address))
        return structure.replace_site(place, made, 1), place, old, [c.id for c in kept]

    def _claim(self, parent: Network, child: Network, address: Address, weights: Tensor) -> Claim:
        """Return the claim of a fresh copy: the site moves by share * (o_new - sum_i m_i o_i)."""
        site, new = site_at(parent.structure, address), site_at(child.structure, address).candidates[-1]
        worst = Bound({})
        # the old modules are those of the parent, as the child is not filled yet
        for (_, before), (_, after) in zip(parent.mixed_operations(address), child.mixed_operations(address), strict=True):
            modules = [(c.operation, before.candidates[str(c.id)]) for c in site.candidates]
            bounds = [o.magnitude(m) for o, m in [*modules, (new.operation, after.candidates[str(new.id)])]]
            known = [b * m for b, m in zip(bounds, [*weights.tolist(), 1.0], strict=True) if b is not None]
            if len(known) < len(bounds):
                return Claim.lossy()
            worst = worst.largest(sum(known, Bound({})))
        node = Address.of(address.cell, site.node)
        # a gated node has the state (1 - g) h + g s, which moves by g times what s does
        gate = max((abs(float(g.g)) for _, g in parent.gates() if g.address == node), default=1.0)
        return Claim.approximate({node: worst.of(site.inputs) * (self.share * gate)})


def weights_of(context: Context, address: Address, site: Site) -> dict[int, float]:
    """Return the present mixing weights of the candidates of a site, by id; the one of a decided site has 1.

    Args:
        context: the search.
        address: the address of the site.
        site: the site, from which candidates of the search's network may be missing.
    """
    before = dict(context.structure.sites())[address].candidates
    values = context.mixing[address].tolist() if address in context.mixing else [1.0]
    weights = {c.id: weight for c, weight in zip(before, values, strict=True)}
    return {c.id: weights[c.id] for c in site.candidates}


def remaining(parent: Network, address: Address, ids: Sequence[int]) -> tuple[Tensor, bool]:
    """Return the mixing weights of the candidates that stay at a site, and whether others leave it.

    If others leave it, and the mixing weights of the relaxation sum to 1, so do the remaining ones.

    Args:
        parent: the network before the change.
        address: the address of the site.
        ids: the ids of the candidates that stay.

    Raises:
        ChangeError: if one of them is new in the same change, so that it has no mixing weight yet.
    """
    present = [c.id for c in site_at(parent.structure, address).candidates]
    if new := [*{*ids} - {*present}]:
        raise ChangeError(
            f"candidate {new[0]} of {address} is added in the same change; let one change add to a site once, and the next one again"
        )
    weights = parent.mixing()[address] if len(present) > 1 else torch.ones(1, dtype=torch.float64)
    kept = weights[[present.index(id) for id in ids]]
    if len(ids) < len(present) and (parent.relaxation is None or parent.relaxation.sums_to_one):
        kept = kept / kept.sum()
    return kept, len(ids) < len(present)


def copies(
    parent: Network, address: Address, old: int, new: Sequence[int], sigma: float, generator: torch.Generator
) -> dict[str, Take]:
    """Return entries for `Filling.overrides` by which copies get the parameters of a candidate, and all of them differ by noise.

    The k copies, the old one included, have theta + eps_1, ..., theta + eps_k, where the sum of all eps is zero. So their mean differs
    from the old operation by O(sigma^2) where that is smooth. Each gets a k-th of the gradient.

    Args:
        parent: the network before the change.
        address: the address of the site.
        old: the id of the candidate.
        new: the ids of its copies.
        sigma: the standard deviation of the noise of two copies, theta + eps and theta - eps.
        generator: the source of the noise.
    """
    overrides, count = dict[str, Take](), 1 + len(new)
    for name, mixture in parent.mixed_operations(address):
        module = mixture.candidates[str(old)]
        parameters = dict(module.named_parameters())
        for key, tensor in tensors(module).items():
            source = f"{name}.candidates.{old}.{key}"
            noise = list[Any]([None] * count)
            if sigma and key in parameters and new:
                # float64 on the CPU, so that the noise is the same for every dtype and device
                drawn = torch.randn((count, *tensor.shape), generator=generator, dtype=torch.float64)
                # For two copies (a - b) / 2 has the variance 1/2, and for k copies each has 1 - 1/k.
                noise = [*(2**0.5 * sigma * (drawn - drawn.mean(0))).to(tensor)]
            for id, eps in zip((old, *new), noise, strict=True):
                overrides[f"{name}.candidates.{id}.{key}"] = Take(source, gradient=1 / count, offset=eps)
    return overrides


def grows(network: Network, address: Address, candidate: Candidate) -> bool:
    """Return whether a second copy of a candidate can compute something else than the first: whether it has parameters."""
    return not candidate.operation.zero and size(network, address, candidate.id) > 0


def size(network: Network, address: Address, id: int) -> int:
    """Return the number of parameters of a candidate in all instances of its site."""
    modules = [mixture.candidates[str(id)] for _, mixture in network.mixed_operations(address)]
    return sum(p.numel() for module in modules for p in module.parameters())


def alphas(structure: Structure, relaxation: Relaxation | None) -> int:
    """Return the number of alphas of a structure's network, and of further parameters of the relaxation."""
    sites = {address: site for address, site in structure.sites() if not site.decided}
    further = {} if relaxation is None else relaxation.parameters(sites)
    return sum(len(site.candidates) for site in sites.values()) + sum(value.numel() for value, _ in further.values())
