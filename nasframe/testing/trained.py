"""A network that has trained: what the laws of change take as a parent."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe import Change, Data, Network, Search, Seed, Strategy
from nasframe.change.apply import apply
from nasframe.change.map import Map
from nasframe.network.outputs import AuxiliaryOutputs
from nasframe.records import Stepped
from nasframe.search.state import State, succeed, trainer


@attrs.frozen(eq=False)
class TrainedNetwork:
    """A search that stands somewhere in its training, with all that its next step needs.

    A fresh network hides faults: its moments are zero, its buffers are at their defaults, its alphas are even.

    Args:
        map: by which the network was filled, if a change has just made it.
    """

    strategy: Strategy
    data: Data = attrs.field(repr=False)
    state: State = attrs.field(repr=False)
    map: Map = attrs.field(factory=dict, repr=False)

    @classmethod
    def of(cls, strategy: Strategy, steps: int = 20) -> TrainedNetwork:
        """The search of a strategy after so many updates."""
        search = Search(strategy)
        return cls(strategy, search.data, search.state).train(steps)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis says of it when a law fails: the whole network would bury the law's own words."""
        printer.text(repr(self))

    @property
    def network(self) -> Network:
        """The network, with whatever the steps so far made of it."""
        return self.state.network

    def train(self, steps: int) -> TrainedNetwork:
        """The same search, so many updates of alphas and weights later."""
        events = iter(Search(self.strategy, data=self.data, state=self.state))
        for _ in itertools.islice((e for e in events if isinstance(e, Stepped)), steps):
            pass
        return self

    def copy(self) -> TrainedNetwork:
        """Another search at the same place."""
        return attrs.evolve(self, state=copy.deepcopy(self.state))

    def after(self, change: Change) -> TrainedNetwork:
        """The search that goes on with the change's child; this one stays as it is."""
        full = apply(self.network, change, self.strategy.architect.invert)
        state = attrs.evolve(self.state)
        succeed(state, trainer(self.strategy, self.data), change.child, full)
        return attrs.evolve(self, state=state, map=full)

    def mixing(self) -> Mapping[str, Tensor]:
        """The weights of the mixtures now."""
        with torch.no_grad():
            return self.strategy.architect.mixing(dict(self.network.alphas))

    def outputs(self, training: bool, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """What the network puts out on the validation split, in that mode, with its own weights unless others are given.

        Behind them stand those of an auxiliary head, if there is one. Whatever draws at random draws the same for every
        network; the network itself is left alone.
        """
        network = copy.deepcopy(self.network).train(training)
        with torch.no_grad(), Seed(("outputs",)).as_global(self.strategy.device):
            found = network(self.inputs(), self.mixing() if weights is None else weights)
        return torch.cat([found.outputs, found.auxiliary]) if isinstance(found, AuxiliaryOutputs) else found

    def inputs(self) -> Tensor:
        """The inputs of the validation split."""
        return self.data.validation.batch(torch.arange(self.data.validation.size))[0]
