"""A third party's architect: successive halving (Jamieson & Talwalkar 2016) of what another architect proposes."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import ClassVar

import attrs

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import nested, number
from nasframe.records import TrialEnded


@attrs.frozen
class Halving(AskTellArchitect):
    """The better half of a rung continues from its weights with twice the budget, until one architecture is left.

    Args:
        inner: proposes the architectures of the first rung.
        width: the number of trials in the first rung, a power of two.
        updates: their budget.
    """

    name: ClassVar[str] = "halving"
    inner: AskTellArchitect = nested("architect")
    width: int = number(4, low=1, whole=True)
    updates: int = number(3, low=1, whole=True)

    def start(self, space: Space, seed: Seed) -> Memory:
        return Memory({"rung": [], "promoted": [], "size": self.width, "asked": 0, "over": False})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        values = {**memory.values}
        if values["over"] or values["asked"] == values["size"]:
            return memory, None  # the next rung begins when all results of this one are known
        values["asked"] += 1
        if values["promoted"]:
            first, *values["promoted"] = values["promoted"]
            return Memory(values), Request(space.architecture(first["picks"]), 2 * first["budget"], first["number"])
        _, request = self.inner.ask(space, self.inner.start(space, seed("start")), number, seed)
        assert request is not None, "the inner architect proposes as many architectures as the first rung has"
        return Memory(values), Request(request.structure, self.updates)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        new = {"number": trial.number, "picks": trial.picks, "valid": trial.valid, "budget": trial.budget}
        rung = [*memory.values["rung"], new]
        if len(rung) < memory.values["size"]:
            return Memory({**memory.values, "rung": rung})
        best = sorted(rung, key=lambda one: math.inf if one["valid"] is None else one["valid"])[: len(rung) // 2]
        return Memory({"rung": [], "promoted": best, "size": len(best), "asked": 0, "over": not best})

    def needs(self, memory: Memory) -> Set[int]:
        return {one["number"] for one in (*memory.values["rung"], *memory.values["promoted"])}
