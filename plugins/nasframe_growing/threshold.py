"""Growing and pruning of operations by thresholds of their mixing weights (Jie & Gao 2021, 3.2.3, 3.2.5 and Algorithm 4, line 1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe import Address, Context, Decision, GrowthCriterion, Proposal, Pruner, Structure
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.interfaces.part import short_name
from nasframe.options import flag, number
from nasframe.records import EpochEnded, Record


@attrs.frozen
class Threshold(Pruner):
    """Remove the candidates whose mixing weight is close to 0, unless the largest mixing weight of their node is above a second threshold.

    A weak operation beside a dominant one is kept (3.2.5): such a node is about to grow. A zero operation is removed like any other, and
    its mixing weight does not count as the largest. The last operation of a node that is not zero is never removed.

    The remaining candidates keep their alphas, so that softmax divides the mixing weights of the removed ones among them (3.2.3).

    Args:
        below: the mixing weight below which a candidate is removed.
        unless: the mixing weight of a node's strongest operation above which nothing is removed from the node; 1 for no such condition.
        relative: whether both are in units of 1 / n, for a site of n candidates.
    """

    name: ClassVar[str] = "threshold"
    below: float = number(0.05, low=0.0)
    unless: float = number(0.5, low=0.0)
    relative: bool = flag(False)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the ids of the candidates to remove, by the address of their site.

        Args:
            structure: the structure to prune.
            mixing: the mixing weights of each undecided site.
        """
        removed: dict[Address, Set[int]] = {}
        for node, _ in structure.nodes():
            sites = structure.sites_of(node)
            # (weight, unit of the thresholds, site, candidate); a decided site has no mixing weight that could be small
            weighed = [
                (weight, 1 / len(site.candidates) if self.relative else 1.0, address, candidate)
                for address, site in sites.items()
                if address in mixing
                for weight, candidate in zip(mixing[address].tolist(), site.candidates, strict=True)
            ]
            if any(weight > self.unless * unit and not c.operation.zero for weight, unit, _, c in weighed):
                continue
            weak = [entry for entry in weighed if entry[0] < self.below * entry[1]]
            operations = [c for site in sites.values() for c in site.candidates]
            # the operations of the node without zero, or all of them if there is no other
            protected = [c for c in operations if not c.operation.zero] or operations
            if {c.id for c in protected} <= {entry[3].id for entry in weak}:
                strongest = max((e for e in weak if e[3] in protected), key=lambda entry: entry[0])
                weak.remove(strongest)
            for _, _, address, candidate in weak:
                removed[address] = {*removed.get(address, ()), candidate.id}
        return removed


class _OperatorCriterion(GrowthCriterion):
    """The base class of criteria that let a phase change its network when a mixing weight has passed a threshold."""

    ends: ClassVar[frozenset[str]] = frozenset()
    rest: int

    @abstractmethod
    def reason(self, readings: Mapping[str, Any]) -> str | None:
        """Return why the network changes now; None if it does not."""

    def decide(self, state: Any, history: Sequence[Record], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return whether the network changes after an epoch; the state counts the epochs since the criterion last wanted that."""
        last = history[-1]
        if not isinstance(last, EpochEnded):
            return state, ABSTAIN
        since = None if state is None else state + 1
        reason = self.reason(last.readings)
        if reason is None or (since is not None and since < self.rest):
            return since, Decision(change=False)
        return 0, Decision(change=True, reason=reason)


@attrs.frozen
class GrowOperator(_OperatorCriterion):
    """Let a phase change its network when the mixing weight of an operation is above a threshold (3.2.5, growing of operators).

    Args:
        threshold: the mixing weight.
        relative: whether the threshold is in units of 1 / n, for a site of n candidates.
        rest: the least number of epochs from one change to the next.
    """

    name: ClassVar[str] = "grow_operator"
    threshold: float = number(0.5, low=0.0)
    relative: bool = flag(False)
    rest: int = number(1, low=1, whole=True)

    @property
    def _reading(self) -> str:
        return "largest mixing weight" + (" times candidates" if self.relative else "")

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the largest mixing weight of an operation that is not zero, at an undecided site."""
        sites = dict(context.structure.sites())
        weights = [
            weight * (len(values) if self.relative else 1)
            for address, values in context.mixing.items()
            for weight, candidate in zip(values.tolist(), sites[Address(address)].candidates, strict=True)
            if not candidate.operation.zero
        ]
        return {self._reading: max(weights, default=0.0)}

    def reason(self, readings: Mapping[str, Any]) -> str | None:
        """Return why the network grows now; None if it does not."""
        largest = readings[self._reading] or 0.0
        return f"the {self._reading} is {largest:.3g}, above {self.threshold:g}" if largest > self.threshold else None


@attrs.frozen
class PruneOperator(_OperatorCriterion):
    """Let a phase change its network when the pruner `threshold` of these options would remove something (3.2.5, operator pruning).

    Args:
        below: the mixing weight below which a candidate is removed.
        unless: the mixing weight of a node's strongest operation above which nothing is removed from the node.
        relative: whether both are in units of 1 / n, for a site of n candidates.
        rest: the least number of epochs from one change to the next.
    """

    name: ClassVar[str] = "prune_operator"
    below: float = number(0.05, low=0.0)
    unless: float = number(0.5, low=0.0)
    relative: bool = flag(False)
    rest: int = number(1, low=1, whole=True)

    @property
    def _pruner(self) -> Threshold:
        return Threshold(self.below, self.unless, self.relative)

    @property
    def _reading(self) -> str:
        # criteria with other options measure another number, which needs another name
        return f"candidates to remove by {short_name(self._pruner)}"

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the number of candidates that the pruner would remove."""
        removed = self._pruner.remove(context.structure, context.ranking)
        return {self._reading: float(sum(map(len, removed.values())))}

    def reason(self, readings: Mapping[str, Any]) -> str | None:
        """Return why the network is pruned now; None if it is not."""
        number = int(readings[self._reading] or 0)
        return f"{number} mixing weight{'s are' if number > 1 else ' is'} below {self.below:g}" if number else None
