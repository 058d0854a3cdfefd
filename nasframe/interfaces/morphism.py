"""The interface of morphisms: changes that make a network grow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe.change.apply import Change
from nasframe.interfaces.part import Part
from nasframe.network.network import Network
from nasframe.seeds import Seed


@attrs.frozen(eq=False)
class Proposal:
    """A change that a morphism could make: what, how much the loss would fall (if it can tell), and at what cost.

    The proposal with the largest gain is made. Morphisms whose gains are equal take turns: the one that made the fewest growths
    so far comes first, then the one that comes first in the strategy. `cost` counts new parameters; `evidence` holds the tensors
    that were measured for it, on training or validation data.
    """

    request: Mapping[str, Any]
    gain: float = 0.0
    cost: int = 0
    evidence: Mapping[str, Tensor] = attrs.field(factory=dict)


class Morphism(Part):
    """Proposes changes, and makes one."""

    kind: ClassVar[str] = "morphism"

    @abstractmethod
    def propose(self, network: Network) -> Sequence[Proposal]:
        """The changes that this network admits, the preferred one first among equals."""

    @abstractmethod
    def change(self, parent: Network, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Change:
        """Work out the change. A request that the parent does not admit is refused with a ChangeError."""
