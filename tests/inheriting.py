"""A third party's architect: evolution in which the better half survives and children inherit weights."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any, ClassVar

import attrs
import torch

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import number
from nasframe.records import TrialEnded


@attrs.frozen
class Inheriting(AskTellArchitect):
    """A child takes each pick from one of two of the best architectures, and the weights from the better one.

    Args:
        elite: the number of architectures that may become parents.
        trials: the number of trials.
        updates: the budget of each.
    """

    name: ClassVar[str] = "inheriting"
    elite: int = number(3, low=2, whole=True)
    trials: int = number(8, low=1, whole=True)
    updates: int = number(3, low=1, whole=True)

    def start(self, space: Space, seed: Seed) -> Memory:
        return Memory({"elite": []})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        elite = memory.values["elite"]
        if number == self.trials:
            return memory, None
        picks, parent = space.random(seed("mutation")), None
        if len(elite) > 1:
            generator = seed("cross-over").generator()
            one, other = sorted(torch.randperm(len(elite), generator=generator)[:2].tolist())
            chance = torch.rand(len(picks), generator=generator).tolist()
            pairs = zip(chance, elite[one]["picks"], elite[other]["picks"], picks, strict=True)
            picks = tuple(new if at < 0.2 else a if at < 0.6 else b for at, a, b, new in pairs)
            parent = elite[one]["number"]
        return memory, Request(space.architecture(picks), self.updates, parent)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        new = {"number": trial.number, "picks": trial.picks, "valid": trial.valid}
        ranked = sorted([*memory.values["elite"], new], key=lambda e: math.inf if e["valid"] is None else e["valid"])
        return Memory({"elite": ranked[: self.elite]})

    def needs(self, memory: Memory) -> Set[int]:
        elite: list[dict[str, Any]] = memory.values["elite"]
        return {one["number"] for one in elite}
