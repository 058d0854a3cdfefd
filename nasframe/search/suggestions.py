"""The architectures that a trained supernet suggests."""

from __future__ import annotations

import heapq

from nasframe.network.network import Network
from nasframe.search.trainer import mixing_weights
from nasframe.structure.editing import remove_from, without_gates
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure

#: the number of suggestions after the first, in a supernet of fewer sites; equal ones are given once
MOST = 20


def suggestions(network: Network, space: Space) -> tuple[tuple[int, ...], ...]:
    """Return the picks of different architectures that the mixing weights of a supernet suggest, the first choice first.

    The first one is what the backbone derives from the mixing weights. Each further one is derived without the strongest candidate of
    one site, beginning with the site at which the two strongest are closest. The ones after these are derived without the strongest
    candidates of several sites, or several candidates of a site. They are ordered by the sum, over the sites, of the difference between
    the strongest mixing weight and that of the strongest candidate that is left.

    Args:
        network: the supernet.
        space: its architectures.
    """
    mixing = mixing_weights(network)
    ordered = [weights.sort(descending=True) for weights in mixing.values()]

    def derived(without: tuple[int, ...]) -> tuple[int, ...]:
        left = {
            address: weights.index_fill(0, places[:number], 0)
            for (address, weights), (_, places), number in zip(mixing.items(), ordered, without, strict=True)
        }
        architecture: Structure = remove_from(network.structure, network.backbone.derive(network.structure, left))
        # The space has no gates unless its trials inherit (`Loop.space`), and picks are those of an architecture of the space.
        return space.picks(architecture if space.supernet == network.structure else without_gates(architecture))

    def priority(without: tuple[int, ...]) -> tuple[bool, float, tuple[int, ...]]:
        margins = [float(values[0] - values[number]) for (values, _), number in zip(ordered, without, strict=True)]
        return sum(without) > 1, sum(margins), without

    # The numbers of candidates that are left out at each site. Leaving out one more never comes first, so that a heap has the next one.
    start = (0,) * len(mixing)
    heap, known, found = [priority(start)], {start}, list[tuple[int, ...]]()
    # one after the first for each site at least, as `priority` puts those that change a single site before all others
    while heap and len(found) <= max(MOST, len(mixing)):
        *_, without = heapq.heappop(heap)
        found.append(derived(without))
        for site, number in enumerate(without):
            more = (*without[:site], number + 1, *without[site + 1 :])
            # one candidate is left at each site
            if number + 1 < len(ordered[site][0]) and more not in known:
                known.add(more)
                heapq.heappush(heap, priority(more))
    return tuple(dict.fromkeys(found))
