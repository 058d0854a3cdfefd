"""The interface of evaluators, which return the outcome of an architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.interfaces.task import Data
from nasframe.network.network import Network
from nasframe.seeds import Seed
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure


@attrs.frozen(eq=False)
class Trained:
    """An architecture with the weights that a trial left, or a supernet with those that a plan trained before its trials.

    Attributes:
        structure: the architecture or the supernet.
        tensors: the parameters and buffers of its network, by name.
    """

    structure: Structure
    tensors: Mapping[str, Tensor]


@attrs.frozen(eq=False)
class Outcome:
    """The outcome of a trial. It depends on nothing that the test split contains.

    Attributes:
        valid: the validation loss, or another number that is smaller for a better architecture; None if the training diverged.
        updates: the number of updates of the weights that were made.
        scores: the task's metrics on the validation split, by name.
        tensors: the parameters and buffers of the trained network, by name; empty if no network was trained.
    """

    valid: float | None
    updates: int = 0
    scores: Mapping[str, float | None] = attrs.field(factory=dict)
    tensors: Mapping[str, Tensor] = attrs.field(factory=dict)


class Workbench(ABC):
    """What an evaluator works with: the data of the task, and the trainer of the run."""

    @property
    @abstractmethod
    def space(self) -> Space:
        """The space of the search."""

    @property
    @abstractmethod
    def data(self) -> Data:
        """The data of the task, which are loaded when they are first used."""

    @abstractmethod
    def build(self, structure: Structure, seed: Seed, parent: Trained | None = None) -> Network:
        """Return the network of an architecture on the device of the run.

        Args:
            structure: the architecture.
            seed: the seed of the fresh weights.
            parent: what the network inherits from: a tensor with the same name in both networks is copied, entry by entry where
                its axes have labels.
        """

    @abstractmethod
    def train(self, network: Network, updates: int, seed: Seed) -> Outcome:
        """Train a network with the strategy's batches and optimiser, and return the outcome.

        The network and the outcome have the weights at the least validation loss.

        Args:
            network: the network, which is changed in place.
            updates: the number of updates; the last epoch is completed.
            seed: the seed of the order of the examples and of all noise.
        """


class Evaluator(Part):
    """Base class of evaluators. Required: `name` and `evaluate`. Optional: `check` and `pinned`.

    Example:
        An evaluator that compares architectures by their loss before any training::

            @attrs.frozen
            class Untrained(Evaluator):
                name: ClassVar[str] = "untrained"

                def evaluate(self, structure, budget, seed, parent, bench):
                    network = bench.build(structure, seed)
                    return Outcome(bench.data.mean_loss(network, bench.data.validation))
    """

    kind: ClassVar[str] = "evaluator"

    @abstractmethod
    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the outcome of an architecture, which depends on nothing but the arguments.

        It may be called in another process.

        Args:
            structure: the architecture.
            budget: what the evaluation may cost, for example the number of updates of the weights.
            seed: the seed of every random draw.
            parent: the trained architecture or supernet from whose weights to start; None for fresh weights.
            bench: the data and the trainer of the run.
        """

    def check(self, space: Space) -> None:
        """Refuse a space that cannot be evaluated. Optional; it is called once, before the first trial.

        Args:
            space: the space of the search.

        Raises:
            NasframeError: the message says why.
        """

    def pinned(self) -> Evaluator:
        """Return the same evaluator bound to the files that it reads now. Optional.

        It reads the same files from any working directory, and refuses files that have changed since.
        """
        return self
