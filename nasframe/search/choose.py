"""The order in which the proposals of morphisms are tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name


def ranked(proposals: Sequence[tuple[Morphism, Proposal]], used: Mapping[str, int]) -> list[tuple[Morphism, Proposal]]:
    """Return the proposals in the order in which a criterion sees them: the one that a growth makes by default is the first.

    The largest gain comes first. Morphisms whose gains are equal take turns: the one that was used less often so far comes
    first, then the one that comes first in the strategy. Equal gains are common, because a morphism that does not estimate
    its gain leaves it at 0.

    Args:
        proposals: the proposals with their morphisms, in the order of the strategy.
        used: how many growths each morphism has made in this lineage, by `short_name(morphism)`; 0 if it is not named.
    """

    def rank(item: tuple[Morphism, Proposal]) -> tuple[float, int]:
        morphism, proposal = item
        # NaN compares with nothing, so that sorting by it would leave the order to chance
        gain = -math.inf if math.isnan(proposal.gain) else proposal.gain
        return -gain, used.get(short_name(morphism), 0)

    return sorted(proposals, key=rank)  # sorted() keeps the order of equals
