"""The early stopping of DARTS+, by the operations without parameters that the search would choose (Liang et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe import Backbone, Context, Decision, GrowthCriterion, Proposal
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.network.network import unallocated
from nasframe.options import number
from nasframe.records import EpochEnded

READING = "share of operations without parameters"


def parameter_free_share(context: Context) -> float:
    """Return the share of operations without parameters in the architecture that would be derived now.

    It is that of the cell type where it is largest. A cell type without an undecided site does not count; 0 if there is no other.
    """
    structure, network = context.structure, unallocated(context.structure)
    assert isinstance(structure.backbone, Backbone)
    gone = structure.backbone.derive(structure, context.ranking)
    free: dict[str, list[bool]] = {address.cell: [] for address, site in structure.sites() if not site.decided}
    for address, site in structure.sites():
        _, mixed = next(network.mixed_operations(address))  # the instances of a cell type have the same operations
        for candidate in site.candidates:
            if address.cell in free and candidate.id not in gone.get(address, ()):
                free[address.cell].append(not any(p.numel() for p in mixed.candidates[str(candidate.id)].parameters()))
    return max((sum(cell) / len(cell) for cell in free.values()), default=0.0)


@attrs.frozen
class ParameterFree(GrowthCriterion):
    """End the phase "search" when the search would choose many operations without parameters (Liang et al. 2019, DARTS+, criterion 1).

    The paper stops when two of the eight operations of a normal cell are identities.

    Args:
        share: the share of the operations of a cell type, as the backbone derives it, at which the phase ends.
    """

    name: ClassVar[str] = "parameter_free"
    ends: ClassVar[frozenset[str]] = frozenset({"phase"})
    share: float = number(0.25, low=0.0, high=1.0)

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the share; 0 if there are no alphas."""
        return {READING: parameter_free_share(context)}

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "end" after an epoch, or abstain."""
        now = history[-1]
        if not isinstance(now, EpochEnded) or now.phase != "search" or not now.moves_alphas:
            return state, ABSTAIN
        found = now.readings[READING]
        if found is None or found < self.share:
            return state, ABSTAIN
        return state, Decision("end", reason=f"{found:.0%} of the operations that would be chosen have no parameters")
