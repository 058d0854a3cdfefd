"""Histories as a search writes them, for criteria to be asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

from nasframe import Proposal
from nasframe.records import EpochEnded, Record, StageEnded

#: so few that they tie
LOSS = st.sampled_from([1.0, 0.5, 2.0, math.inf])
#: of the epochs of a phase: any, or the same over and over
LOSSES = st.lists(LOSS, min_size=1, max_size=5) | st.builds(lambda loss, epochs: [loss] * epochs, LOSS, st.integers(1, 5))


@attrs.frozen(eq=False)
class Moment:
    """When a criterion is asked: the last record, the proposals, and what the search wrote down that was decided."""

    record: EpochEnded | StageEnded
    proposals: tuple[Proposal, ...] = ()
    decided: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def staged(self) -> bool:
        """Whether a stage is over."""
        return isinstance(self.record, StageEnded)

    def __str__(self) -> str:
        names = ("updates", "valid", "nodes", "parameters", "seconds")
        told = {name: getattr(self.record, name) for name in names if hasattr(self.record, name)}
        costs = f", proposals of gain and cost {[(p.gain, p.cost) for p in self.proposals]}" if self.staged else ""
        return f"{self.record.phase} {self.record.stage} {told}{costs}"


@st.composite
def histories(draw: st.DrawFn, clock: bool = False) -> tuple[Moment, ...]:
    """A search: stages of one phase or two, each longer or shorter, and, at the end, another phase or none. Losses are numbers, NaN
    and infinities, or always the same; the shortest history has one epoch.

    Args:
        clock: whether the records have the clock's reading.
    """
    found: list[Moment] = []
    nodes = dict.fromkeys(draw(st.sampled_from([("layer0",), ("normal", "reduction")])), 1)
    phases = draw(st.sampled_from([("search",), ("search", "tune")]))
    parameters, updates, steps = draw(st.integers(1, 20)), 0, draw(st.integers(1, 3))

    def train(stage: int, phase: str) -> list[float]:
        nonlocal updates
        losses = draw(LOSSES)
        for epoch, loss in enumerate(losses):
            updates += steps
            place: dict[str, Any] = {"stage": stage, "phase": phase, "epoch": epoch, "updates": updates}
            told: dict[str, Any] = {"train": loss, "valid": loss, "scores": {"mse": loss}, "diverged": not math.isfinite(loss)}
            told |= {"nodes": {**nodes}, "parameters": parameters, "seconds": updates / 2 if clock else None}
            over = {"decision": "grow", "reason": "so it was decided"} if epoch + 1 == len(losses) else {}
            found.append(Moment(EpochEnded(**place, **told), decided=over))
        return losses

    last = draw(st.integers(0, 6))
    for stage in range(last + 1):
        valid = min([train(stage, phase) for phase in phases][-1], key=_worth)
        proposals = draw(st.lists(PROPOSALS, min_size=stage < last, max_size=3))
        ranked = tuple(sorted(proposals, key=lambda proposal: -proposal.gain))  # as a criterion sees them
        told: dict[str, Any] = {"valid": valid, "nodes": {**nodes}, "parameters": parameters, "epoch": 0, "phase": "judge"}
        over = {"decision": "grow" if stage < last else "stop", "reason": "so it was decided"}
        found.append(Moment(StageEnded(stage=stage, updates=updates, **told), ranked, over))
        if stage < last:
            nodes[draw(st.sampled_from([*nodes]))] += 1
            parameters += draw(st.sampled_from(proposals)).cost
    if draw(st.booleans()):
        train(last, "retune")
    return tuple(found)


PROPOSALS = st.builds(Proposal, st.just({"cell": "layer0"}), st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 20))


def _worth(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def past(moments: Sequence[Moment], n: int) -> list[Record]:
    """The history when a criterion is asked for the n-th time: of the records before it is known what was decided."""
    return [*(attrs.evolve(m.record, **dict[str, Any](m.decided)) for m in moments[:n]), moments[n].record]
