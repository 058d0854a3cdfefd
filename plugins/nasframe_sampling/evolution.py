"""Regularised evolution (Real, Aggarwal, Huang & Le 2019, "Regularized Evolution for Image Classifier Architecture Search")."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any, ClassVar

import attrs
import torch

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.options import flag, number
from nasframe.records import TrialEnded


@attrs.frozen
class RegularisedEvolution(AskTellArchitect):
    """Mutate the winners of tournaments, and let the oldest architecture die (Real et al. 2019, Algorithm 1).

    The first `population` architectures are random. Each further one is a mutation of the best of `sample` architectures that
    are drawn, with replacement, from the population; it then takes the place of the oldest, and not of the worst, one.

    The paper mutates either an operation or an input of a node; here, one decision of the space, drawn uniformly, gets another
    option, drawn uniformly. With `inherit`, which is not in the paper, a child starts from the weights of its parent, so that an
    architecture of a long line of ancestors has been trained for longer than a random one.

    Args:
        population: P, the number of architectures that are alive.
        sample: S, the size of a tournament.
        trials: C, the number of architectures in all.
        updates: the budget of each, the number of updates of its weights.
        inherit: whether a child starts from the weights of its parent.
    """

    name: ClassVar[str] = "regularised_evolution"
    population: int = number(16, low=1, whole=True)
    sample: int = number(4, low=1, whole=True)
    trials: int = number(64, low=1, whole=True)
    updates: int = number(500, low=1, whole=True)
    inherit: bool = flag(False)

    def start(self, space: Space, seed: Seed) -> Memory:
        """Return a memory without a population."""
        return Memory({"alive": []})

    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        """Return a request for a random architecture at first, and for a child afterwards (lines 4 and 15)."""
        alive = memory.values["alive"]
        if number == self.trials:
            return memory, None
        # Also while no result is known yet: with several trials in flight, the population may be smaller than the number of
        # requests.
        if number < self.population or not alive:
            return memory, Request(space.architecture(space.random(seed)), self.updates)
        drawn = torch.randint(len(alive), (self.sample,), generator=seed("tournament").generator())
        # the earlier one of equals, as `min` does; a diverged one loses against all others
        parent = min(
            (alive[place] for place in drawn.tolist()), key=lambda one: math.inf if one["valid"] is None else one["valid"]
        )
        picks = mutated(space, parent["picks"], seed("mutation"))
        return memory, Request(space.architecture(picks), self.updates, parent["number"] if self.inherit else None)

    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        """Return the memory with the child at the right of the population, and without the oldest one (lines 17 to 19)."""
        child: dict[str, Any] = {"number": trial.number, "picks": list(trial.picks), "valid": trial.valid}
        return Memory({"alive": [*memory.values["alive"], child][-self.population :]})

    def needs(self, memory: Memory) -> Set[int]:
        """Return the population, if children inherit weights."""
        return {one["number"] for one in memory.values["alive"]} if self.inherit else frozenset()


def mutated(space: Space, picks: Sequence[int], seed: Seed) -> list[int]:
    """Return the picks with another option for one decision; the same picks if no decision has two options."""
    generator, changed = seed.generator(), [*picks]
    places = [place for place, choice in enumerate(space.decisions) if choice.options > 1]
    if places:
        place = places[int(torch.randint(len(places), (), generator=generator))]
        other = int(torch.randint(space.decisions[place].options - 1, (), generator=generator))
        # A draw among the options without the present one: those from it on are shifted by one.
        changed[place] = other + (other >= changed[place])
    return changed
