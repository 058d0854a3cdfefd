"""A relaxation as somebody outside of the project would write it, with public names only."""

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


def check_sum(node: str, group: list[Address], asked: list[Address], wanted: Tensors) -> None:
    """Refuse mixing weights that no alphas have: those of all edges of a node sum to one."""
    total = sum(float(wanted[address].sum()) for address in asked)
    if asked != group or abs(total - 1) > 1e-6:
        raise ChangeError(
            f"the mixing weights of all edges that enter {node} sum to 1, not to {total:.3g} at {', '.join(asked)}"
        )
