"""The relaxation of I-DARTS: one softmax over all edges of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Draw, Mixing, Relaxation
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites

Tensors = Mapping[str, Tensor]


@attrs.frozen
class NodeSoftmax(Relaxation):
    """One softmax over all candidates of all edges that enter a node, so that edges compete (Jiang et al. 2019, I-DARTS).

    The mixing weights of all undecided edges that enter a node sum to 1 together.
    """

    name: ClassVar[str] = "node_softmax"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return exp(alpha_i) / sum_j exp(alpha_j) for each candidate i, with j over the candidates of all edges of the node."""
        found: dict[str, Tensor] = {}
        for edges in _by_node(sites):
            joint = torch.cat([alphas[address] for address in edges]).softmax(0)
            found |= dict(zip(edges, joint.split([len(alphas[address]) for address in edges]), strict=True))
        return Mixing({address: found[address] for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the wanted mixing weights, shifted by the log-sum-exp of the node's present alphas.

        Raises:
            ChangeError: if the mixing weights of a node would not sum to 1.
        """
        present, found = self.mixing(sites, alphas, None), dict[str, Tensor]()
        for edges in _by_node(sites):
            total = sum(float(wanted.get(address, present[address]).sum()) for address in edges)
            changed = [address for address in edges if address in wanted]
            if changed and abs(total - 1) > 1e-6:
                raise ChangeError(
                    f"the mixing weights of all edges that enter a node sum to 1, and those of {', '.join(edges)} would sum to {total:.4g}"
                )
            # The alphas of the other edges stay, and with them the sum of the exponentials.
            shift = torch.cat([alphas[address] for address in edges]).logsumexp(0)
            found |= {address: wanted[address].log() + shift for address in changed}
        return found


def _by_node(sites: Sites) -> list[list[Address]]:
    """Return the addresses of the undecided edges that enter each node."""
    found: dict[tuple[str, str], list[Address]] = {}
    for address, site in sites.items():
        found.setdefault((str(address.cell), str(site.node)), []).append(address)
    return [*found.values()]
