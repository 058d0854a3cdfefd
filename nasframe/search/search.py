"""A search to iterate over: the ten lines of Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nasframe.errors import StrategyError
from nasframe.interfaces.criterion import GrowthCriterion
from nasframe.interfaces.part import label
from nasframe.interfaces.task import Data
from nasframe.network.model import Model
from nasframe.network.network import Network
from nasframe.plugins import installed
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
        _check_ends(strategy, grows=state is None or state.phase not in ("retune", "done"))
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
        yield from self.data.warnings
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
        return Model(self.network, self.data.inputs, self.data.outputs, self.data.signature).eval()


def _check_ends(strategy: Strategy, grows: bool) -> None:
    """Refuse a strategy that would train for ever."""
    ends, given = strategy.criterion.ends, label(strategy.criterion)
    if "phase" not in ends and strategy.optimiser.epochs is None:
        raise StrategyError(
            f"nothing ends a phase of training: the criterion {given!r} cannot, and the optimiser has no `epochs`. Give the "
            f"optimiser `epochs`, or add a criterion that can{_such_as('phase')}; any_of joins several"
        )
    if grows and strategy.growth and "search" not in ends:
        raise StrategyError(
            f"nothing ends the growth: the criterion {given!r} cannot. Leave `growth` empty, or add a criterion that "
            f"can{_such_as('search')}; any_of joins several"
        )


def _such_as(what: str) -> str:
    """Return the installed criteria that declare that they can end it, for a message."""
    classes = [part for plugin in installed().found for part in plugin.parts if issubclass(part, GrowthCriterion)]
    names = sorted(part.name for part in classes if isinstance(part.ends, frozenset) and part.ends == {what})
    return f", such as {' or '.join(names)}" if names else ""


def _loaded(strategy: Strategy) -> Data:
    try:
        torch.empty(0, device=strategy.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise StrategyError(f"device {strategy.device!r} cannot be used here: {why}; 'cpu' always can") from error
    return strategy.task.load(torch.device(strategy.device), strategy.torch_dtype)
