"""Relaxations as somebody outside of the project would write them, with public names only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Draw, Mixing, Relaxation, number
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites
from nasframe.network.axes import Axis, produces

Tensors = Mapping[str, Tensor]


def gumbel(like: Tensor, draw: Draw, address: str) -> Tensor:
    """Return noise from the standard Gumbel distribution, -log(-log u)."""
    u = torch.rand(like.shape, generator=draw.seed(address).generator(), dtype=torch.float64).clamp(min=1e-12)
    return -(-u.log()).log().to(like)


class _Categorical(Relaxation):
    """Relaxations that validate by the softmax of the alphas."""

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        if draw is None:
            return Mixing({address: alphas[address].softmax(0) for address in sites})
        return self.sampled(sites, alphas, draw)

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        raise NotImplementedError

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        return {address: w.log() - w.log().mean() for address, w in wanted.items()}


@attrs.frozen
class HardGumbel(_Categorical):
    """One candidate of each site, drawn with the probabilities softmax(alpha); the others are not computed (GDAS, 2019).

    The gradient is that of the softmax of alpha plus the noise (straight-through), by the sampled candidate alone.

    Args:
        temperature: of the softmax whose gradient is taken.
    """

    name: ClassVar[str] = "hard_gumbel"
    temperature: float = number(1.0, low=1e-3)

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        found, active = {}, {}
        for address in sites:
            alpha = alphas[address]
            soft = ((alpha.log_softmax(0) + gumbel(alpha, draw, address)) / self.temperature).softmax(0)
            place = int(soft.argmax())
            hard = torch.zeros_like(soft)
            hard[place] = 1.0
            found[address] = hard + (soft - soft.detach())  # in this order the others are exactly zero
            active[address] = (place,)
        return Mixing(found, active)


@attrs.frozen
class Concrete(_Categorical):
    """The softmax of (log softmax(alpha) + Gumbel noise) / T, with a temperature T that falls during the phase (SNAS, 2019).

    Args:
        final: T at the end; it begins at 1 and falls exponentially.
    """

    name: ClassVar[str] = "concrete"
    needs_progress: ClassVar[bool] = True
    final: float = number(0.03, low=1e-3, high=1.0)

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        assert draw.progress is not None
        T = self.final**draw.progress
        return Mixing({a: ((alphas[a].log_softmax(0) + gumbel(alphas[a], draw, a)) / T).softmax(0) for a in sites})


def by_node(sites: Sites) -> dict[str, list[Address]]:
    """Return the addresses of the sites that enter each node."""
    found: dict[str, list[Address]] = {}
    for address, site in sites.items():
        found.setdefault(f"{address.cell} {site.node}", []).append(address)
    return found


@attrs.frozen
class EdgeNormalisation(Relaxation):
    """The softmax of each edge's alphas, times the softmax of beta over the edges that enter a node (PC-DARTS, 2020)."""

    name: ClassVar[str] = "edge_normalisation"
    sums_to_one: ClassVar[bool] = False

    def parameters(self, sites: Sites) -> Mapping[str, tuple[Tensor, tuple[Axis | None, ...]]]:
        return {f"beta {node}": (torch.zeros(len(group)), (produces(*group),)) for node, group in by_node(sites).items()}

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        shares = {
            address: share
            for node, group in by_node(sites).items()
            for address, share in zip(group, alphas[f"beta {node}"].softmax(0), strict=True)
        }
        return Mixing({address: shares[address] * alphas[address].softmax(0) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        found: dict[str, Tensor] = {}
        for node, group in by_node(sites).items():
            if asked := [address for address in group if address in wanted]:
                check_sum(node, group, asked, wanted)
                found[f"beta {node}"] = torch.stack([wanted[address].sum() for address in group]).log()
                found |= {address: wanted[address].log() for address in group}
        return found


@attrs.frozen
class OverNode(Relaxation):
    """One softmax over all candidates of all edges that enter a node (I-DARTS, 2019)."""

    name: ClassVar[str] = "over_node"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        found: dict[str, Tensor] = {}
        for group in by_node(sites).values():
            joint = torch.cat([alphas[address] for address in group]).softmax(0)
            found |= dict(zip(group, joint.split([len(alphas[address]) for address in group]), strict=True))
        return Mixing({address: found[address] for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        for node, group in by_node(sites).items():
            if asked := [address for address in group if address in wanted]:
                check_sum(node, group, asked, wanted)
        return {address: w.log() for address, w in wanted.items()}


def check_sum(node: str, group: list[Address], asked: list[Address], wanted: Tensors) -> None:
    """Refuse mixing weights that no alphas have: those of all edges of a node sum to one."""
    total = sum(float(wanted[address].sum()) for address in asked)
    if asked != group or abs(total - 1) > 1e-6:
        raise ChangeError(
            f"the mixing weights of all edges that enter {node} sum to 1, not to {total:.3g} at {', '.join(asked)}"
        )


@attrs.frozen
class IndependentSigmoids(Relaxation):
    """The sigmoid of each alpha, so that candidates do not compete (FairDARTS, 2020)."""

    name: ClassVar[str] = "independent_sigmoids"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        return Mixing({address: alphas[address].sigmoid() for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        return {address: w.log() - (-w).log1p() for address, w in wanted.items()}
