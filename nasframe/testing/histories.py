"""Histories as a search writes them, which criteria are tried on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
from hypothesis import strategies as st

from nasframe import Proposal
from nasframe.records import EpochEnded, Record, StageEnded

#: few losses, so that equal ones occur; infinity stands for an epoch in which the training diverged
LOSS = st.sampled_from([1.0, 0.5, 2.0, math.inf])
#: the losses of the epochs of a phase: different or all equal
LOSSES = st.lists(LOSS, min_size=1, max_size=5) | st.builds(lambda loss, epochs: [loss] * epochs, LOSS, st.integers(1, 5))
PROPOSALS = st.builds(Proposal, st.just({"cell": "layer0"}), st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 20))


@attrs.frozen(eq=False)
class Moment:
    """A moment at which a criterion decides.

    Args:
        record: the last record.
        proposals: the proposals, at the end of a stage.
        decided: the fields `decision` and `reason` that the record has afterwards.
    """

    record: EpochEnded | StageEnded
    proposals: tuple[Proposal, ...] = ()
    decided: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def ends_stage(self) -> bool:
        """Return whether a stage has ended."""
        return isinstance(self.record, StageEnded)

    def __str__(self) -> str:
        names = ("updates", "valid", "nodes", "parameters", "readings")
        values = {name: getattr(self.record, name) for name in names if hasattr(self.record, name)}
        costs = f", proposals of gain and cost {[(p.gain, p.cost) for p in self.proposals]}" if self.ends_stage else ""
        return f"{self.record.phase} {self.record.stage} {values}{costs}"


@st.composite
def histories(draw: st.DrawFn, readings: Collection[str] = ()) -> tuple[Moment, ...]:
    """Return the moments of a search: of one stage or several, each with one phase or two, and perhaps a last phase.

    The shortest history has one epoch. In some epochs the training diverges.

    Args:
        draw: is given by hypothesis.
        readings: the names of the readings that the records have. Their values never fall, as those of a clock.
    """
    found: list[Moment] = []
    nodes = dict.fromkeys(draw(st.sampled_from([("layer0",), ("normal", "reduction")])), 1)
    phases = draw(st.sampled_from([("search",), ("search", "tune")]))
    parameters, updates, steps = draw(st.integers(1, 20)), 0, draw(st.integers(1, 3))

    def train(stage: int, phase: str) -> list[float]:
        nonlocal updates
        losses = draw(LOSSES)
        for epoch, loss in enumerate(losses):
            # Counted over the whole run, as in a search.
            updates += steps
            place: dict[str, Any] = {"stage": stage, "phase": phase, "epoch": epoch, "updates": updates}
            values: dict[str, Any] = {
                "train": loss,
                "valid": loss,
                "scores": {"mse": loss},
                "diverged": not math.isfinite(loss),
                "moves_alphas": phase == "search",
            }
            values |= {"nodes": {**nodes}, "parameters": parameters, "readings": dict.fromkeys(readings, updates / 2)}
            decided = {"decision": "end", "reason": "an example"} if epoch + 1 == len(losses) else {}
            found.append(Moment(EpochEnded(**place, **values), decided=decided))
        return losses

    last = draw(st.integers(0, 6))
    for stage in range(last + 1):
        valid = min([train(stage, phase) for phase in phases][-1])
        # a criterion sees the proposals in the order in which they would be made
        proposals = sorted(draw(st.lists(PROPOSALS, min_size=stage < last, max_size=3)), key=lambda proposal: -proposal.gain)
        values: dict[str, Any] = {"valid": valid, "nodes": {**nodes}, "parameters": parameters, "epoch": 0, "phase": "judge"}
        values |= {"readings": dict.fromkeys(readings, updates / 2)}
        decided = {"decision": "continue" if stage < last else "stop", "reason": "an example"}
        found.append(Moment(StageEnded(stage=stage, updates=updates, **values), tuple(proposals), decided))
        if stage < last:
            # one node more in one cell, as after a growth
            nodes[draw(st.sampled_from([*nodes]))] += 1
            # Which proposal was carried out is not known to a criterion but by this number.
            parameters += draw(st.sampled_from(proposals)).cost
    if draw(st.booleans()):
        train(last, "retune")
    return tuple(found)


def history_at(moments: Sequence[Moment], n: int) -> list[Record]:
    """Return the history at a moment: the records before it have their decisions."""
    return [*(attrs.evolve(m.record, **dict[str, Any](m.decided)) for m in moments[:n]), moments[n].record]
