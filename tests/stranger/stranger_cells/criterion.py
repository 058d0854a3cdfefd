"""A criterion that ends a phase when the validation loss rises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe import Decision, GrowthCriterion, Proposal
from nasframe.errors import StrategyError
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.options import number
from nasframe.records import EpochEnded, StageEnded


@attrs.frozen
class Uphill(GrowthCriterion):
    """End a phase when the validation loss has not fallen for some epochs in a row, and the search after some stage.

    Each epoch is compared with the epoch before it (UP of Prechelt 1998).

    Args:
        epochs: the number of epochs in a row.
        last: the stage after which the search ends, from 0.
    """

    name: ClassVar[str] = "uphill"
    limits: ClassVar[Mapping[str, str]] = {"last": "stage"}
    cooldown: ClassVar[str] = "epochs"
    epochs: int = number(2, low=1, whole=True)
    last: int = number(3, low=0, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """Return "continue" or "end" after an epoch, and "stop" after the last stage."""
        now = history[-1]
        if isinstance(now, StageEnded):
            return state, Decision("stop", reason=f"stage {self.last} is over") if now.stage >= self.last else ABSTAIN
        if now.valid is None and not now.diverged:
            raise StrategyError(
                "the criterion 'uphill' needs a validation loss, but the task has no validation split: use 'epochs' instead"
            )
        phase = [r for r in history if isinstance(r, EpochEnded) and (r.stage, r.phase) == (now.stage, now.phase)]
        losses = [math.inf if r.valid is None else r.valid for r in phase[-self.epochs - 1 :]]
        if len(losses) <= self.epochs or any(after < before for before, after in itertools.pairwise(losses)):
            return state, Decision("continue")
        return state, Decision("end", reason=f"the validation loss has not fallen for {self.epochs} epochs in a row")
