"""Growth of a cell by a node that starts as the identity (Jie & Gao 2021, 3.2.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Bound,
    Change,
    Claim,
    GrownStructure,
    Morphism,
    Network,
    Operation,
    Proposal,
    Seed,
    Site,
    build,
    choice,
    number,
)
from nasframe.errors import ChangeError


@attrs.frozen
class NodeGrowth(Morphism):
    """One node more, which puts out what its cell put out before: approximately by noise, or exactly behind a gate.

    "noise": the weights of the candidates are eps ~ U(0, delta), the rest goes to the one that acts as the identity
    (Eqs. 15, 18, 19), whose own parameters are drawn from N(0, sigma^2). The alphas follow from the weights (Eq. 16).
    "gate": the candidates start even, behind a trainable gate that starts at zero.
    Where the backbone concatenates its nodes, a new one inherits nothing: what takes it in starts at zero, exactly.

    Args:
        delta: how far the weights are from the identity's; the default was measured (docs/measurements/growth_noise.md);
            between 0 and 1 / (number of candidates - 1), both exclusive.
        sigma: delta where it is left out, as in the paper.
    """

    name: ClassVar[str] = "node"
    form: str = choice("noise", "gate", default="noise")
    delta: float = number(0.01, low=0.0, high=1.0)
    sigma: float | None = number(None, low=0.0, optional=True)

    def propose(self, network: Network) -> Sequence[Proposal]:
        """A node for each cell type, the smallest cell first."""
        types = sorted(network.structure.cells, key=lambda item: len(item[1].nodes))
        return [Proposal({"cell": type}, cost=self._cost(network, type)) for type, _ in types]

    def change(self, parent: Network, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Change:
        """The grown network. Its claim is exact with a gate, approximate where all candidates tell their magnitude."""
        grown = self._grown(parent, str(request.get("cell")))
        child = build(grown.structure, seed("build"), like=parent)
        request = {**request, **{k: v for k, v in attrs.asdict(self).items() if v is not None}}
        if self.form == "gate" or not grown.inherits:
            return Change(child, Claim.exact(), request=request)
        generator = seed("noise").generator()
        sites = [(address, site) for address, site in grown.structure.sites() if address in grown.birth]
        weights = {address: self._weights(grown.birth[address], generator) for address, _ in sites}
        for address, site in sites:
            self._draw(child, address, site, grown.birth[address], generator)
        errors = [error(child, address, site, grown.birth[address], weights[address]) for address, site in sites]
        known = [e for e in errors if e is not None]
        claim = Claim.lossy()
        if len(known) == len(errors):
            claim = Claim.approximate({f"{request['cell']}/{grown.node}": sum(known, Bound({}))})
        stated = {address: weights[address] for address, site in sites if not site.decided}
        return Change(child, claim, mixing=stated, request=request)

    def _grown(self, network: Network, type: str) -> GrownStructure:
        structure = network.structure
        if type not in dict(structure.cells):
            raise ChangeError(f"there is no cell type {type!r} to grow; there are {', '.join(dict(structure.cells))}")
        grown = network.backbone.grown(structure, type)
        if not grown.inherits:
            return grown
        if self.form == "gate":
            cell = grown.structure.cell(type)
            nodes = tuple(attrs.evolve(n, inherits=grown.inherits) if n.id == grown.node else n for n in cell.nodes)
            return attrs.evolve(grown, structure=grown.structure.replace_cell(type, attrs.evolve(cell, nodes=nodes)))
        if not grown.birth:
            new = [s for a, s in grown.structure.sites() if a.startswith(f"{type}/") and s.node == grown.node]
            able = any(c.operation.residual is not None for site in new for c in site.candidates)
            lacking = "zero, as all but one of its edges have to" if able else "the identity"
            raise ChangeError(f"no candidate of a new node in {type!r} can act as {lacking}; grow it with form = 'gate'")
        for address, birth in grown.birth.items():
            limit = max(birth.values()) / max(len(birth) - 1, 1)
            if len(birth) > 1 and not 0 < self.delta < limit:
                raise ChangeError(
                    f"delta is {self.delta}; with {len(birth)} candidates at {address} it must be above 0 and below {limit:g}"
                )
        return grown

    def _cost(self, network: Network, type: str) -> int:
        with torch.device("meta"):
            child = Network(self._grown(network, type).structure)
        return sum(p.numel() for p in child.parameters()) - sum(p.numel() for p in network.parameters())

    def _weights(self, birth: Mapping[int, float], generator: torch.Generator) -> Tensor:
        target = torch.tensor(list(birth.values()), dtype=torch.float64)
        # 1 - U[0, 1) is never zero: a weight of zero would need an infinite alpha, which never trains again
        noise = self.delta * (1 - torch.rand(len(birth), generator=generator, dtype=torch.float64))
        identity = int(target.argmax())
        noise[identity] = 0.0
        noise[identity] = -noise.sum()
        return target + noise

    def _draw(self, child: Network, address: str, site: Site, birth: Mapping[int, float], generator: torch.Generator) -> None:
        """Draw what must be near zero in the candidates that act as the identity, in every instance, from N(0, sigma^2)."""
        sigma = self.delta if self.sigma is None else self.sigma
        for _, mixture in child.mixed_operations(address):
            for candidate in site.candidates:
                for name in (candidate.operation.residual or ()) if birth[candidate.id] else ():
                    parameter = mixture.candidates[str(candidate.id)].get_parameter(name)
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.data.copy_(sigma * noise)


def error(child: Network, address: str, site: Site, birth: Mapping[int, float], weights: Tensor) -> Bound | None:
    """A bound on how far a site is from what it is born to be, over all instances; None if a candidate cannot tell.

    With weights w in the place of t, the site is off by at most the sum of |w - t| |o| + t |o - h| over its candidates,
    where h is what a candidate with weight acts as: the identity on the last input, or zero.
    """
    worst = Bound({})
    for _, mixture in child.mixed_operations(address):
        terms = [
            _term(c.operation, mixture.candidates[str(c.id)], w, birth[c.id])
            for c, w in zip(site.candidates, weights.tolist(), strict=True)
        ]
        known = [term for term in terms if term is not None]
        if len(known) < len(terms):
            return None
        worst = worst.largest(sum(known, Bound({})))
    return worst.of(site.inputs)


def _term(operation: Operation, module: nn.Module, w: float, t: float) -> Bound | None:
    magnitude = operation.magnitude(module)
    # zero is what it should be, at any weight
    deviation = operation.identity_error(module) if t and not operation.zero else Bound({})
    return None if magnitude is None or deviation is None else magnitude * abs(w - t) + deviation * t
