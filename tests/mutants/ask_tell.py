"""Ask/tell architects with one fault each."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from mutants.system import mutant, overriding
from nasframe import Memory, Request, Seed, Space
from nasframe.testing.subject import Subject

EVOLUTION = ("architect", "regularised_evolution")


@mutant("ask_tell.requests", *EVOLUTION)
def forgotten_parent(of: Subject) -> Subject:
    """It does not name the oldest of its population, which may become a parent nevertheless."""
    honest: Any = of.cls
    return overriding(
        of,
        ask=lambda self, space, memory, number, seed: inheriting(honest.ask(self, space, memory, number, seed), memory),
        needs=lambda self, memory: {one["number"] for one in memory.values["alive"][1:]},
    )


@mutant("ask_tell.requests", "architect", "successive_halving")
def named_too_late(of: Subject) -> Subject:
    """It names the trials that continue when all results of their rung are known, and their weights were dropped before."""
    honest: Any = of.cls

    def needs(self: Any, memory: Memory) -> set[int]:
        rungs, done = self._rungs(memory), len(memory.values["results"])
        return honest.needs(self, memory) if any(done == trials.start for trials in rungs) else set()

    return overriding(of, needs=needs)


def inheriting(answer: tuple[Memory, Request | None], memory: Memory) -> tuple[Memory, Request | None]:
    """The answer, with the oldest of the population as the parent."""
    alive = memory.values["alive"]
    return answer if answer[1] is None or not alive else (answer[0], attrs.evolve(answer[1], parent=alive[0]["number"]))


@mutant("ask_tell.requests", *EVOLUTION)
def fractional_budget(of: Subject) -> Subject:
    """Its budgets are half of what they were, as fractions, and not whole numbers."""
    honest: Any = of.cls

    def ask(self: Any, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        after, request = honest.ask(self, space, memory, number, seed)
        return after, request and attrs.evolve(request, budget=request.budget / 2)

    return overriding(of, ask=ask)


@mutant("ask_tell.pure", *EVOLUTION)
def noted(of: Subject) -> Subject:
    """It notes the last trial, which it never reads, in the memory that it is given."""
    honest: Any = of.cls

    def tell(self: Any, space: Space, memory: Memory, trial: Any, seed: Seed) -> Memory:
        values: Any = memory.values
        values["last"] = trial.number
        return honest.tell(self, space, memory, trial, seed)

    return overriding(of, tell=tell)


@mutant("ask_tell.pure", *EVOLUTION)
def in_place(of: Subject) -> Subject:
    """It appends to the population of the memory that it is given."""
    honest: Any = of.cls

    def tell(self: Any, space: Space, memory: Memory, trial: Any, seed: Seed) -> Memory:
        after = honest.tell(self, space, memory, trial, seed)
        memory.values["alive"][:] = after.values["alive"]
        return after

    return overriding(of, tell=tell)


#: what the mutant below keeps outside of its memory
ASKED: dict[str, int] = {"count": 0}


@mutant("ask_tell.memory", *EVOLUTION)
def hidden_counter(of: Subject) -> Subject:
    """It counts its requests in its module, from 0 at each start, and draws by that number."""
    honest: Any = of.cls

    def start(self: Any, space: Space, seed: Seed) -> Memory:
        ASKED["count"] = 0
        return honest.start(self, space, seed)

    def ask(self: Any, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        ASKED["count"] += 1
        return honest.ask(self, space, memory, number, seed("counted", ASKED["count"]))

    return overriding(of, start=start, ask=ask)


@mutant("part.globals", *EVOLUTION)
def global_generator(of: Subject) -> Subject:
    """It draws the seed of a request from torch's global generator."""
    honest: Any = of.cls

    def ask(self: Any, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        return honest.ask(self, space, memory, number, seed(int(torch.randint(99, ()))))

    return overriding(of, ask=ask)


@mutant("ask_tell.ends", *EVOLUTION)
def endless(of: Subject) -> Subject:
    """It requests further trials after the last one."""
    honest: Any = of.cls

    def ask(self: Any, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        return honest.ask(self, space, memory, number % self.trials, seed)

    return overriding(of, ask=ask)
