"""A morphism that adds a hidden unit to a bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import (
    FRESH,
    ZERO,
    Address,
    Bound,
    Change,
    Claim,
    Morphism,
    Network,
    Proposal,
    Seed,
    Take,
    number,
    replace_candidate,
)
from nasframe.errors import ChangeError
from nasframe.structure.editing import candidate_at, site_at
from stranger_cells.operations import Bottleneck


@attrs.frozen
class Widen(Morphism):
    """Add a hidden unit to a bottleneck.

    The outgoing weights of the new unit start at zero, and growth is exact; with `noise` they start small, and growth is
    approximate.

    Args:
        largest: the largest width.
        noise: the factor of the initial outgoing weights of the new unit.
    """

    name: ClassVar[str] = "widen"
    largest: int = number(8, low=1, whole=True)
    noise: float = number(0.0, low=0.0)

    def propose(self, network: Network) -> Sequence[Proposal]:
        """Return one proposal for each bottleneck that is not of the largest width."""
        return [
            Proposal({"site": address, "candidate": c.id}, cost=cost(network, address))
            for address, site in network.structure.sites()
            for c in site.candidates
            if isinstance(c.operation, Bottleneck) and c.operation.width < self.largest
        ]

    def change(self, parent: Network, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Change:
        """Return the change to a network with a wider bottleneck, which has a new id and the weights and the alpha of the old one."""
        legal = [proposal.request for proposal in self.propose(parent)]
        if request not in legal:
            raise ChangeError(f"{self.name!r} cannot do {request!r}; it can do {legal}")
        address, id = Address(request["site"]), request["candidate"]
        site, old = site_at(parent.structure, address), candidate_at(parent.structure, address, id).operation
        assert isinstance(old, Bottleneck)
        made = replace_candidate(parent, address, id, attrs.evolve(old, width=old.width + 1), seed("build"))
        overrides, bound = {**made.alphas}, Bound({})
        incoming, outgoing = (positions(old.width, new, parent) for new in (FRESH, FRESH if self.noise else ZERO))
        for before, after in made.modules:
            overrides[f"{after}.W.weight"] = Take(f"{before}.W.weight", (incoming, None))
            overrides[f"{after}.V.weight"] = Take(f"{before}.V.weight", (None, outgoing))
            w, v = (made.child.get_parameter(f"{after}.{n}.weight").detach() for n in "WV")
            v *= self.noise
            bound = bound.largest(Bound({site.inputs: float(v[:, -1].abs().max() * w[-1].abs().sum())}))
        claim = Claim.approximate({Address.of(address.cell, site.node): bound}) if self.noise else Claim.exact()
        return Change(made.child, claim, overrides, request=request)


def positions(width: int, new: int, network: Network) -> Tensor:
    """Return the positions of the old hidden units, and after them how the new one starts."""
    return torch.tensor([*range(width), new], device=next(network.parameters()).device)


def cost(network: Network, address: Address) -> int:
    """Return the number of parameters of a hidden unit, in all instances of the site."""
    return sum(mixture.sizes["inputs"] + mixture.sizes["hidden"] for _, mixture in network.mixed_operations(address))
