"""The architectures that a trained supernet suggests."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nasframe.network.network import Network
from nasframe.search.trainer import mixing_weights
from nasframe.structure.editing import remove_from, without_gates
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure


def suggestions(network: Network, space: Space) -> tuple[tuple[int, ...], ...]:
    """Return the picks of different architectures that the mixing weights of a supernet suggest, the first choice first.

    The first one is what the backbone derives from the mixing weights. Each further one is derived without the strongest candidate of
    one site, beginning with the site at which the two strongest are closest.

    Args:
        network: the supernet.
        space: its architectures.
    """
    mixing = mixing_weights(network)

    def derived(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
        architecture: Structure = remove_from(network.structure, network.backbone.derive(network.structure, weights))
        return space.picks(architecture if space.supernet == network.structure else without_gates(architecture))

    found = {derived(mixing): None}
    margins = {address: float(weights.topk(2).values.diff().abs()) for address, weights in mixing.items()}
    for address in sorted(margins, key=lambda address: margins[address]):
        weights = mixing[address].clone()
        weights[weights.argmax()] = 0
        found[derived({**mixing, address: weights})] = None
    return tuple(found)
