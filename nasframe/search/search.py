"""A search to iterate over: the ten lines of Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nasframe.errors import StrategyError
from nasframe.interfaces.task import Data
from nasframe.network.model import Model
from nasframe.network.network import Network
from nasframe.search.loop import Loop
from nasframe.search.records import Event
from nasframe.search.state import State, initial, retraining
from nasframe.search.strategy import Strategy
from nasframe.structure.structure import Structure


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Search:
    """A strategy, its data and its state. Iterating runs it from where the state stands and yields its events.

    Args:
        data: the task's, loaded, if they are at hand already.
        state: where to go on from; by default the beginning.
    """

    def __init__(self, strategy: Strategy, *, data: Data | None = None, state: State | None = None) -> None:
        self.strategy = strategy
        self.data = data or _loaded(strategy)
        self.state = state or initial(strategy, self.data.sizes)
        if self.state.network.alphas and not self.data.validation.size:
            raise StrategyError(
                "the task holds nothing out for validation, which a search moves its alphas and decides by: give it a share"
            )
        # what a morphism cannot do is said now, not after an hour
        self._idle = [morphism.name for morphism in strategy.growth if not morphism.propose(self.state.network)]

    @classmethod
    def retraining(cls, strategy: Strategy, structure: Structure) -> Search:
        """What trains the cells of an architecture from the beginning, in the strategy's own backbone, until its criterion ends
        the phase.
        """
        data = _loaded(strategy)
        return cls(strategy, data=data, state=retraining(strategy, structure, data.sizes))

    def __iter__(self) -> Iterator[Event]:
        with threads(self.strategy.threads):
            yield from Loop(self.strategy, self.data).run(self.state)

    def warnings(self) -> Iterator[str]:
        """What its user may not expect of it, as it stands: a sentence each."""
        yield from self.network.slow()
        for name in self._idle:
            yield f"growth by {name} proposes no change of the network as it is"

    def run(self) -> Network:
        """Run to the end; the architecture with its weights, a module to be called with the inputs."""
        for _ in self:
            pass
        return self.network

    @property
    def network(self) -> Network:
        """The network as it is now; the architecture when the search is over."""
        return self.state.network

    @property
    def model(self) -> Model:
        """The same network in the units of the data, in evaluation mode: what there is to take away when the search is over."""
        return Model(self.network, self.data.inputs, self.data.outputs).eval()


def _loaded(strategy: Strategy) -> Data:
    try:
        torch.empty(0, device=strategy.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise StrategyError(f"device {strategy.device!r} cannot be used here: {why}; 'cpu' always can") from error
    return strategy.task.load(torch.device(strategy.device), strategy.torch_dtype)
