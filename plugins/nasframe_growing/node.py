"""Growth of a cell by a node that starts as the identity (Jie & Gao 2021, 3.2.1 and Algorithm 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Address,
    Backbone,
    Bound,
    Claim,
    Context,
    Edit,
    Filling,
    Morphism,
    Network,
    Operation,
    Proposal,
    Seed,
    Site,
    Structure,
)
from nasframe.errors import ChangeError
from nasframe.network.network import count_parameters
from nasframe.options import choice, number
from nasframe.structure.editing import GrownStructure


@attrs.frozen
class NodeGrowth(Morphism):
    """Add a node to a cell so that the cell outputs what it did before: approximately with noise, or exactly with a gate.

    With `form="noise"` the new node starts as the identity on the node before it (Eq. 13 on Two-to-One, Eq. 17 on DARTS).
    The mixing weights of all other candidates are eps ~ U(0, delta), the identity has 1 minus their sum (Eqs. 15, 18, 19),
    and the alphas follow by inverting the softmax (Eq. 16). Parameters by which the identity differs from an exact one
    (W_xh^su of the operation `sum`) are drawn from N(0, sigma^2) (Eq. 15). The error is O(delta + sigma). If a cell outputs
    the mean of its nodes, the new node starts as that mean.

    With `form="gate"` all candidates start with equal mixing weights, behind a trainable gate that starts at zero. Growth
    is then exact.

    If the backbone concatenates the nodes of a cell, there is nothing to preserve in the new node: the weights by which the
    next cells receive it start at zero. Growth is then exact in either form.

    Args:
        form: "noise" or "gate".
        delta: the largest mixing weight of a candidate other than the identity, above 0 and below
            1 / (number of candidates - 1). The default was measured, see docs/measurements/growth_noise.md.
        sigma: the standard deviation of the identity's parameters; by default equal to delta, as in the paper.
    """

    name: ClassVar[str] = "node"
    form: str = choice("noise", "gate", default="noise")
    delta: float = number(0.01, low=0.0, high=1.0)
    sigma: float | None = number(None, low=0.0, optional=True)

    def admits(self, structure: Structure) -> bool:
        """Return whether there is a cell to grow; raise a ChangeError if the options do not fit one."""
        return all(self._grown(structure, type) for type, _ in structure.cells)

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return one proposal for each cell type, that of the smallest cell first."""
        # no gain is measured, so that all are equal and the order decides: by default the smallest cell grows
        relaxation = context.relaxation
        proposals, before = [], count_parameters(structure, relaxation)
        for type, _ in sorted(structure.cells, key=lambda item: len(item[1].nodes)):
            cost = count_parameters(self._grown(structure, type).structure, relaxation) - before
            proposals.append(Proposal({"cell": type}, cost=cost))
        return proposals

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds a node; everything else stays as it is.

        The claim is exact with a gate. With noise it is approximate if every candidate implements `magnitude`, and lossy
        otherwise.
        """
        grown = self._grown(structure, str(request.get("cell")))
        # In both cases the child needs nothing but its initial values: a gate starts at 0, and new columns of consumers at
        # zero.
        if self.form == "gate" or not grown.inherits:
            return Edit(grown.structure, lambda parent, child: Filling(Claim.exact()))
        return Edit(grown.structure, lambda parent, child: self._fill(child, grown, seed("noise").generator()))

    def _fill(self, child: Network, grown: GrownStructure, generator: torch.Generator) -> Filling:
        """Draw the noise of a new node, and return its mixing weights and the bound on its error.

        All sites and parameters draw from one generator in a fixed order, so that no two of them have the same noise.
        """
        sites = [(address, site) for address, site in grown.structure.sites() if address in grown.mixing]
        mixing = {address: self._draw_mixing(grown.mixing[address], generator) for address, _ in sites}
        # Two loops, so that the mixing weights of all sites are drawn before any parameter: the first numbers of the
        # generator do not depend on the sizes of the network.
        for address, site in sites:
            self._draw_parameters(child, address, site, grown.mixing[address], generator)

        # a node is the sum of its sites, so its error is at most the sum of their errors
        errors = [site_error(child, address, site, grown.mixing[address], mixing[address]) for address, site in sites]
        known = [bound for bound in errors if bound is not None]
        claim = Claim.lossy()
        if len(known) == len(errors):
            claim = Claim.approximate({grown.node: sum(known, Bound({}))})

        # Eq. 16 is applied by the architect; a decided site has no alphas
        return Filling(claim, mixing={address: mixing[address] for address, site in sites if not site.decided})

    def _grown(self, structure: Structure, type: str) -> GrownStructure:
        """Return the grown structure.

        Raises:
            ChangeError: if there is no such cell type, or the new node cannot start as the identity.
        """
        if type not in dict(structure.cells):
            raise ChangeError(f"there is no cell type {type!r} to grow; there are {', '.join(dict(structure.cells))}")
        assert isinstance(structure.backbone, Backbone)
        grown = structure.backbone.grown(structure, type)
        if not grown.inherits:
            return grown
        if self.form == "gate":
            return attrs.evolve(grown, structure=grown.gated())
        if not grown.mixing:
            new = grown.structure.sites_of(grown.node).values()
            able = any(c.operation.residual is not None for site in new for c in site.candidates)
            lacking = "zero, as all but one of its edges have to" if able else "the identity"
            raise ChangeError(
                f"no candidate of a new node in {type!r} can act as {lacking}; grow it with form = 'gate' (--growth {self.name}:form=gate, "
                f"or growth=({self.__class__.__name__}(form='gate'),) in Python)"
            )
        for address, birth in grown.mixing.items():
            # the noise of all other candidates is taken from the largest mixing weight, which has to stay positive
            # For one identity with the share 1 this is the paper's condition delta < 1 / (number of candidates - 1). With a
            # mean of k states the share is 1 / k, and the condition k times as strict.
            limit = max(birth.values()) / max(len(birth) - 1, 1)
            if len(birth) > 1 and not 0 < self.delta < limit:
                raise ChangeError(
                    f"delta is {self.delta}; with {len(birth)} candidates at {address} it must be above 0 and below {limit:g}"
                )
        return grown

    def _draw_mixing(self, birth: Mapping[int, float], generator: torch.Generator) -> Tensor:
        """Return the mixing weights of a new site (Eqs. 15, 18 and 19).

        Args:
            birth: the mixing weights without noise, by candidate.
            generator: the source of the noise.
        """
        # float64 on the CPU, so that the noise is the same for every dtype and device
        target = torch.tensor(list(birth.values()), dtype=torch.float64)
        # 1 - U[0, 1) is never zero: a mixing weight of zero would need an infinite alpha, which never trains again
        noise = self.delta * (1 - torch.rand(len(birth), generator=generator, dtype=torch.float64))
        identity = int(target.argmax())
        # the identity loses what all others get, so that the sum stays 1 (Eqs. 15, 18)
        noise[identity] = 0.0
        noise[identity] = -noise.sum()
        return target + noise

    def _draw_parameters(
        self, child: Network, address: Address, site: Site, birth: Mapping[int, float], generator: torch.Generator
    ) -> None:
        """Draw the parameters of the candidates that act as the identity from N(0, sigma^2), in every instance of the cell."""
        sigma = self.delta if self.sigma is None else self.sigma
        for _, mixture in child.mixed_operations(address):
            for candidate in site.candidates:
                for name in (candidate.operation.residual or ()) if birth[candidate.id] else ():
                    parameter = mixture.candidates[str(candidate.id)].get_parameter(name)
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.data.copy_(sigma * noise)


def site_error(child: Network, address: Address, site: Site, birth: Mapping[int, float], mixing: Tensor) -> Bound | None:
    """Return a bound on the difference between a new site and what it would compute without noise.

    With mixing weights w instead of t, the difference is at most the sum over the candidates of |w - t| |o| + t |o - h|,
    where h is what a candidate with t > 0 acts as: the identity on the last input, or zero.

    Args:
        child: the grown network; the bound holds for all instances of the cell.
        address: the address of the site.
        site: the site.
        birth: the mixing weights t without noise, by candidate.
        mixing: the mixing weights w.

    Returns:
        The bound by the maximum norms of the site's inputs, or None if a candidate does not implement the bound it needs.
    """
    worst = Bound({})
    for _, mixture in child.mixed_operations(address):
        terms = [
            _term(c.operation, mixture.candidates[str(c.id)], w, birth[c.id])
            for c, w in zip(site.candidates, mixing.tolist(), strict=True)
        ]
        known = [term for term in terms if term is not None]
        if len(known) < len(terms):
            return None
        # the instances of a cell type have different parameters, and the claim holds for all of them
        worst = worst.largest(sum(known, Bound({})))
    return worst.of(site.inputs)


def _term(operation: Operation, module: nn.Module, w: float, t: float) -> Bound | None:
    """Return the bound |w - t| |o| + t |o - h| of one candidate."""
    magnitude = operation.magnitude(module)
    # the operation zero acts as zero without an error
    identity_error = operation.identity_error(module) if t and not operation.zero else Bound({})
    return None if magnitude is None or identity_error is None else magnitude * abs(w - t) + identity_error * t
