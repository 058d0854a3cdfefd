"""A morphism that adds a hidden unit to a bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Bound, Claim, Context, Edit, Filling, Morphism, Network, Proposal, Seed, Structure, Take
from nasframe.change.map import FRESH, ZERO
from nasframe.change.replace import replace_candidate
from nasframe.errors import ChangeError
from nasframe.network.network import unallocated
from nasframe.options import number
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

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return one proposal for each bottleneck that is not of the largest width."""
        network = unallocated(structure)
        return [
            Proposal({"site": address, "candidate": c.id}, cost=cost(network, address))
            for address, site in structure.sites()
            for c in site.candidates
            if isinstance(c.operation, Bottleneck) and c.operation.width < self.largest
        ]

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that makes a bottleneck wider; it gets a new id, and the weights and the alpha of the old one."""
        site = site_at(structure, request.get("site"))
        candidate = candidate_at(structure, request["site"], request.get("candidate"))
        old = candidate.operation
        if not isinstance(old, Bottleneck) or old.width >= self.largest:
            raise ChangeError(f"{self.name!r} cannot widen {old!r}; it widens bottlenecks of less than {self.largest} units")
        address = Address(request["site"])
        made = replace_candidate(structure, address, candidate.id, attrs.evolve(old, width=old.width + 1))

        def fill(parent: Network, child: Network) -> Filling:
            overrides, bound = {**made.alphas(parent, child)}, Bound({})
            incoming, outgoing = (positions(old.width, new, parent) for new in (FRESH, FRESH if self.noise else ZERO))
            for before, after in made.modules(parent, child):
                overrides[f"{after}.W.weight"] = Take(f"{before}.W.weight", (incoming, None))
                overrides[f"{after}.V.weight"] = Take(f"{before}.V.weight", (None, outgoing))
                w, v = (child.get_parameter(f"{after}.{n}.weight") for n in "WV")
                v *= self.noise
                bound = bound.largest(Bound({site.inputs: float(v[:, -1].abs().max() * w[-1].abs().sum())}))
            return Filling(
                Claim.approximate({Address.of(address.cell, site.node): bound}) if self.noise else Claim.exact(), overrides
            )

        return Edit(made.structure, fill)


def positions(width: int, new: int, network: Network) -> Tensor:
    """Return the positions of the old hidden units, and after them how the new one starts."""
    return torch.tensor([*range(width), new], device=next(network.parameters()).device)


def cost(network: Network, address: Address) -> int:
    """Return the number of parameters of a hidden unit, in all instances of the site."""
    return sum(mixture.sizes["inputs"] + mixture.sizes["hidden"] for _, mixture in network.mixed_operations(address))
