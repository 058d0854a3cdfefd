"""Relaxations in which the edges that enter a node compete: one softmax over all of them (I-DARTS), and edge normalisation (PC-DARTS)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Draw, Mixing, Relaxation
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites
from nasframe.network.axes import Axis, produces

Tensors = Mapping[str, Tensor]


@attrs.frozen
class NodeSoftmax(Relaxation):
    """One softmax over all candidates of all edges that enter a node (Jiang et al. 2019, I-DARTS).

    The mixing weights of all undecided edges that enter a node sum to 1 together.
    """

    name: ClassVar[str] = "node_softmax"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return exp(alpha_i) / sum_j exp(alpha_j) for each candidate i, with j over the candidates of all edges of the node."""
        found: dict[str, Tensor] = {}
        for edges in _by_node(sites).values():
            joint = torch.cat([alphas[address] for address in edges]).softmax(0)
            found |= dict(zip(edges, joint.split([len(alphas[address]) for address in edges]), strict=True))
        return Mixing({address: found[address] for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the wanted mixing weights, shifted by the log-sum-exp of the node's present alphas.

        Raises:
            ChangeError: if the mixing weights of a node would not sum to 1.
        """
        present, found = self.mixing(sites, alphas, None), dict[str, Tensor]()
        for edges in _by_node(sites).values():
            if changed := [address for address in edges if address in wanted]:
                _check_sum(edges, torch.stack([wanted.get(address, present[address]).sum() for address in edges]))
                # The alphas of the other edges stay, and with them the sum of the exponentials.
                shift = torch.cat([alphas[address] for address in edges]).logsumexp(0)
                found |= {address: wanted[address].log() + shift for address in changed}
        return found


@attrs.frozen
class EdgeNormalisation(Relaxation):
    """The softmax of an edge's alphas, times the softmax of beta over the edges that enter a node (Xu et al. 2020, PC-DARTS, Eq. 3).

    There is one beta for each edge. The mixing weights of an edge sum to its share, the softmax of its beta.
    """

    name: ClassVar[str] = "edge_normalisation"
    sums_to_one: ClassVar[bool] = False

    def parameters(self, sites: Sites) -> Mapping[str, tuple[Tensor, tuple[Axis | None, ...]]]:
        """Return the betas of the edges of each node, labelled by the addresses of the edges."""
        return {_beta(node): (torch.zeros(len(edges)), (produces(*edges),)) for node, edges in _by_node(sites).items()}

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return softmax(beta) of the edge times softmax(alpha)."""
        shares: dict[Address, Tensor] = {}
        for node, edges in _by_node(sites).items():
            shares |= dict(zip(edges, alphas[_beta(node)].softmax(0), strict=True))
        return Mixing({address: shares[address] * alphas[address].softmax(0) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return alphas and betas: the logarithms of the wanted mixing weights, and of the sums of each edge.

        Raises:
            ChangeError: if the shares of the edges of a node would not sum to 1.
        """
        found: dict[str, Tensor] = {}
        for node, edges in _by_node(sites).items():
            if changed := [address for address in edges if address in wanted]:
                present = dict(zip(edges, alphas[_beta(node)].softmax(0), strict=True))
                shares = torch.stack([wanted[a].sum() if a in wanted else present[a] for a in edges])
                _check_sum(edges, shares)
                found[_beta(node)] = shares.log()
                found |= {address: wanted[address].log() for address in changed}
        return found


def _by_node(sites: Sites) -> dict[str, list[Address]]:
    """Return the addresses of the undecided edges that enter each node, by its cell type and id."""
    found: dict[str, list[Address]] = {}
    for address, site in sites.items():
        found.setdefault(f"{address.cell} {site.node}", []).append(address)
    return found


def _beta(node: str) -> str:
    """Return the name of the parameter that has the betas of the edges of a node."""
    return f"beta {node}"


def _check_sum(edges: list[Address], shares: Tensor) -> None:
    """Refuse sums of the mixing weights of a node's edges that do not sum to 1."""
    total = float(shares.sum())
    if abs(total - 1) > 1e-6:
        raise ChangeError(
            f"the mixing weights of all edges that enter a node sum to 1, and those of {', '.join(edges)} would sum to {total:.4g}"
        )
