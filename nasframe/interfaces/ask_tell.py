"""The interface of ask/tell architects, which propose architectures and learn from their outcomes."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Set
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.records import TrialEnded
from nasframe.seeds import Seed
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure


@attrs.frozen(eq=False)
class Memory:
    """The state of an ask/tell architect between two calls.

    Attributes:
        values: JSON values by name: numbers that are finite, strings, booleans, None, lists, and dictionaries with string keys.
        tensors: tensors by name, for example the weights of a controller and the moments of its optimiser.
    """

    values: Mapping[str, Any] = attrs.field(factory=dict)
    tensors: Mapping[str, Tensor] = attrs.field(factory=dict)

    def copy(self) -> Memory:
        """Return a copy as a resumed run would have it: lists in the place of tuples, tensors without storage in common.

        Raises:
            TypeError, ValueError: if the values are no JSON values, for example NaN.
        """
        # Through JSON and back, because that is what an interruption would do: whoever relies on a tuple finds out at once.
        values = json.loads(json.dumps(dict(self.values), allow_nan=False))
        return Memory(values, {name: tensor.detach().clone().contiguous() for name, tensor in self.tensors.items()})


@attrs.frozen
class Request:
    """A trial that an architect requests.

    Attributes:
        structure: an architecture of the space.
        budget: what the trial may cost; for the evaluator `train`, the number of updates of the weights. Only trials with
            equal budgets are compared with each other.
        parent: the number of the trial from whose weights this one starts; None to start from fresh weights.
    """

    structure: Structure
    budget: int
    parent: int | None = None


class AskTellArchitect(Part):
    """Base class of architects that propose architectures and learn from their outcomes, such as evolution or a controller.

    Required: `name`, `start`, `ask` and `tell`. Optional: `needs`, if trials start from the weights of others.

    Whatever an architect knows is in its memory: each method is a function of its arguments alone, does not modify them, and
    draws random numbers from `seed` only. So a search can be interrupted anywhere, and its result does not depend on the number
    of workers. With k trials in flight, the architect makes request n when it has received exactly the results of the trials
    0 to n - k; it receives results in the order of their numbers, whatever order they arrive in.

    Example:
        Hill climbing: each trial changes one decision of the best architecture so far::

            @attrs.frozen
            class HillClimbing(AskTellArchitect):
                name: ClassVar[str] = "hill_climbing"
                trials: int = number(50, low=1, whole=True)
                updates: int = number(500, low=1, whole=True)

                def start(self, space, seed):
                    return Memory({"best": None, "valid": None})

                def ask(self, space, memory, number, seed):
                    if number == self.trials:
                        return memory, None
                    picks = [*(memory.values["best"] or space.random(seed("first")))]
                    place = int(torch.randint(len(picks), (), generator=seed("place").generator()))
                    picks[place] = space.random(seed("option"))[place]
                    return memory, Request(space.architecture(picks), self.updates)

                def tell(self, space, memory, trial, seed):
                    best = memory.values["valid"]
                    if trial.valid is None or (best is not None and best <= trial.valid):
                        return memory
                    return Memory({"best": trial.picks, "valid": trial.valid})
    """

    kind: ClassVar[str] = "architect"

    @abstractmethod
    def start(self, space: Space, seed: Seed) -> Memory:
        """Return the memory before the first request.

        Args:
            space: the architectures to choose from.
            seed: the seed of every random draw of this call.
        """

    @abstractmethod
    def ask(self, space: Space, memory: Memory, number: int, seed: Seed) -> tuple[Memory, Request | None]:
        """Return the memory after the request, and the request.

        Args:
            space: the architectures to choose from.
            memory: the memory, which must not be modified.
            number: the number of the trial, from 0.
            seed: the seed of every random draw of this call; it depends on the number alone.

        Returns:
            The new memory, and the request. None in its place means that the architect waits: `ask` is called with the same
            number again after the next result. If no result is outstanding, the search is over.
        """

    @abstractmethod
    def tell(self, space: Space, memory: Memory, trial: TrialEnded, seed: Seed) -> Memory:
        """Return the memory after the result of a trial.

        Args:
            space: the architectures to choose from.
            memory: the memory, which must not be modified.
            trial: the trial: its `number`, `picks`, `budget` and `parent`, and its validation loss `valid`, which is None if
                its training diverged.
            seed: the seed of every random draw of this call.
        """

    def needs(self, memory: Memory) -> Set[int]:
        """Return the numbers of the finished trials from whose weights a later trial may start. Optional.

        The weights of all other trials are dropped, except those that a requested trial starts from. By default none is needed.

        Args:
            memory: the memory, which must not be modified.
        """
        return frozenset()
