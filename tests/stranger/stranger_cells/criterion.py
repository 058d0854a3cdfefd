"""When to grow, and when to stop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from nasframe import Decision, GrowthCriterion, Proposal, number
from nasframe.errors import StrategyError
from nasframe.interfaces.criterion import ABSTAIN
from nasframe.records import EpochEnded, StageEnded


@attrs.frozen
class Uphill(GrowthCriterion):
    """A phase goes on until the validation loss has not fallen for some epochs in a row, each beside the one before it (UP of
    Prechelt 1998); the search goes on to a last stage.

    Args:
        epochs: in a row.
        last: the stage with which the search ends; the first is 0.
    """

    name: ClassVar[str] = "uphill"
    limits: ClassVar[Mapping[str, str]] = {"last": "stage"}
    cooldown: ClassVar[str] = "epochs"
    epochs: int = number(2, low=1, whole=True)
    last: int = number(3, low=0, whole=True)

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Proposal]) -> tuple[Any, Decision]:
        """After an epoch wait or grow, after the last stage stop."""
        now = history[-1]
        if isinstance(now, StageEnded):
            return state, Decision("stop", f"stage {self.last} is over") if now.stage >= self.last else ABSTAIN
        if now.valid is None and not now.diverged:
            raise StrategyError("the criterion 'uphill' needs a validation loss, and the task holds nothing out: use 'epochs'")
        phase = [r for r in history if isinstance(r, EpochEnded) and (r.stage, r.phase) == (now.stage, now.phase)]
        losses = [math.inf if r.valid is None else r.valid for r in phase[-self.epochs - 1 :]]
        if len(losses) <= self.epochs or any(after < before for before, after in itertools.pairwise(losses)):
            return state, Decision("wait")
        return state, Decision("grow", f"the validation loss has not fallen for {self.epochs} epochs in a row")
