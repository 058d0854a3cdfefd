"""Successive halving (Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization")."""

from __future__ import annotations

import itertools
import math
from collections.abc import Set
from typing import ClassVar

import attrs
import torch

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import flag, number
from nasframe.records import TrialEnded


@attrs.frozen
class SuccessiveHalving(AskTellArchitect):
    """Train many architectures for a short time, and the best ones of them longer and longer (Jamieson & Talwalkar 2016).

    In rung k = 0, 1, ... each architecture has been trained for updates * factor^k updates in all. The 1/factor of a rung with the
    least validation losses enter the next one, as long as these are two or more. The best one of the last rung is found. The evaluator
    `train` rounds the updates of a rung up to whole epochs.

    All architectures are different. The first ones are those that a trained supernet suggests, where trials follow its training, and the
    others are random. If the space has no more than `candidates` of them, all are tried in this order.

    Args:
        candidates: the number of architectures in the first rung.
        suggested: the largest number of them that the supernet suggests.
        updates: the number of updates of each of them there.
        factor: the factor by which the number of updates rises from rung to rung, and that of architectures falls.
        inherit: whether an architecture continues from the weights that it had in the rung before. If not, each training begins with
            fresh weights and takes all updates of the rung.

    Raises:
        ValueError: if factor is 2 and inherit is true. Trials of the first two rungs would have equal budgets, and would be compared.
    """

    name: ClassVar[str] = "successive_halving"
    candidates: int = number(50, low=1, whole=True)
    suggested: int = number(10, low=0, whole=True)
    updates: int = number(50, low=1, whole=True)
    factor: int = number(3, low=2, whole=True)
    inherit: bool = flag(True)

    def __attrs_post_init__(self) -> None:
        if self.factor == 2 and self.inherit:
            raise ValueError(
                "factor is 2 and inherit is true: a trial of the second rung takes as many further updates as one of the first, and trials "
                "of equal budgets are compared with each other: write factor = 3, or inherit = false"
            )

    def start(self, space: Space, seed: Seed) -> Memory:
        """Return a memory of the architectures of the first rung, and without results."""
        size = min(self.candidates, space.size)
        drawn = dict.fromkeys(space.suggested[: min(self.suggested, size)])
        if size == space.size:
            # to draw until none is missing would take long
            every = [*itertools.product(*(range(choice.options) for choice in space.decisions))]
            order = torch.randperm(size, generator=seed("order").generator())
            drawn |= dict.fromkeys(every[place] for place in order.tolist())
        for draw in itertools.count():
            if len(drawn) == size:
                break
            drawn[space.random(seed(draw))] = None
        return Memory({"first": [*drawn], "results": []})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        """Return a request for the next architecture of a rung; none until all results of the rung before are known."""
        first, rungs = memory.values["first"], self._rungs(memory)
        if number in rungs[0]:
            return memory, Request(space.architecture(first[number]), self.updates)
        k = next((k for k, trials in enumerate(rungs) if number in trials), None)
        if k is None or len(memory.values["results"]) < rungs[k].start:
            return memory, None
        parent = self._entering(memory, k)[number - rungs[k].start]
        updates = self.updates * (self.factor**k - (self.factor ** (k - 1) if self.inherit else 0))
        picks = memory.values["results"][parent]["picks"]
        return memory, Request(space.architecture(picks), updates, parent if self.inherit else None)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        """Return the memory with the result."""
        result = {"picks": [*trial.picks], "valid": trial.valid}
        return Memory({**memory.values, "results": [*memory.values["results"], result]})

    def needs(self, memory: Memory) -> Set[int]:
        """Return the trials that entered the present rung, and the best ones of it so far, if weights are inherited."""
        if not self.inherit:
            return frozenset()
        present = next((k for k, trials in enumerate(self._rungs(memory)) if len(memory.values["results"]) < trials.stop), None)
        return frozenset() if present is None else {*self._entering(memory, present), *self._entering(memory, present + 1)}

    def _rungs(self, memory: Memory) -> list[range]:
        """Return the numbers of the trials of each rung."""
        rungs = [range(len(memory.values["first"]))]
        while (size := len(rungs[-1]) // self.factor) >= 2:
            rungs.append(range(rungs[-1].stop, rungs[-1].stop + size))
        return rungs

    def _entering(self, memory: Memory, k: int) -> list[int]:
        """Return the trials of rung k - 1, as far as they are known, whose architectures enter rung k, the best one first."""
        rungs, results = self._rungs(memory), memory.values["results"]
        if not 0 < k < len(rungs):
            return []
        known = [number for number in rungs[k - 1] if number < len(results)]

        def loss(number: int) -> float:
            valid = results[number]["valid"]
            return math.inf if valid is None else valid  # a training that diverged is the worst

        return sorted(known, key=loss)[: len(rungs[k])]
