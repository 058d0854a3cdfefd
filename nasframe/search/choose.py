"""The order in which the proposals of morphisms are tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name


def ranked(
    proposals: Sequence[tuple[Morphism, Proposal]], used: Mapping[str, int], costs: Sequence[float] | None = None
) -> list[tuple[Morphism, Proposal]]:
    """Return the proposals in the order in which a criterion sees them: the one that a growth makes by default is the first.

    The largest gain, or the largest gain per cost, comes first. Morphisms for which it is equal take turns: the one that was used less
    often so far comes first, then the one that comes first in the strategy. Equal gains are common, because a morphism that does
    not estimate its gain leaves it at 0.

    Args:
        proposals: the proposals with their morphisms, in the order of the strategy.
        used: how many growths each morphism has made in this lineage, by `short_name(morphism)`; 0 if it is not named.
        costs: what each proposal costs; None to compare the gains alone.
    """

    def rank(item: tuple[tuple[Morphism, Proposal], float]) -> tuple[float, int]:
        (morphism, proposal), cost = item
        return -worth(proposal.gain, cost), used.get(short_name(morphism), 0)

    # sorted() keeps the order of equals
    return [growth for growth, _ in sorted(zip(proposals, costs or [1] * len(proposals), strict=True), key=rank)]


def worth(gain: float, cost: float) -> float:
    """Return the gain per cost, by which proposals are compared.

    What costs nothing counts as if it cost 1. A gain that is not positive is not divided, as a larger cost would make it look better.

    Example:
        >>> worth(6.0, 3), worth(6.0, -3), worth(-6.0, 3)
        (2.0, 6.0, -6.0)
    """
    # NaN compares with nothing, so that sorting by it would leave the order to chance
    return -math.inf if math.isnan(gain) else gain / max(cost, 1) if gain > 0 else gain
