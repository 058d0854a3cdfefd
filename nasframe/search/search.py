"""The class `Search`: a strategy, its data and the state of a run, to iterate over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from nasframe.errors import StrategyError
from nasframe.interfaces.alpha_loss import AlphaLoss
from nasframe.interfaces.architect import Architect
from nasframe.interfaces.criterion import AnyOf, GrowthCriterion
from nasframe.interfaces.part import short_name
from nasframe.interfaces.relaxation import Relaxation
from nasframe.interfaces.task import Data
from nasframe.network.model import Model
from nasframe.network.network import Network
from nasframe.plugins import Plugins, installed
from nasframe.records import Record
from nasframe.search.changes import sizes
from nasframe.search.compare import Comparison
from nasframe.search.device import computing, loaded
from nasframe.search.loop import Loop
from nasframe.search.plan import (
    OVER,
    RETRAIN,
    Change,
    Judge,
    Position,
    Repeat,
    Step,
    Train,
    Trials,
    at,
    decides_surely,
    remaining,
    walk,
)
from nasframe.search.pool import Workers
from nasframe.search.state import State, check_decided, initial, retraining
from nasframe.search.strategy import Strategy
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure


class Search:
    """A strategy, its data and the state of the run.

    Iterating searches from wherever the state is and yields a record of each thing done. `compare` then trains random
    architectures and baselines, and makes the best network of the search space the one of the run.

    Args:
        strategy: decides what happens.
        data: the data of the strategy's task, if they are loaded already.
        state: the state to continue from; by default the beginning.

    Example:
        >>> import attrs
        >>> from nasframe_growing import Epochs, MaxNodes
        >>> from nasframe_recurrent import TwoToOne
        >>> strategy = nasframe.Strategy.named("two-to-one-grow-end")
        >>> strategy = attrs.evolve(strategy, backbone=TwoToOne(hidden=4), criterion=Epochs(1) | MaxNodes(2), seeds=1)
        >>> search = nasframe.Search(strategy)
        >>> [record.phase for record in search if record.kind == "epoch"]
        ['search', 'retune']
        >>> [record.name for record in search.compare() if record.kind == "evaluation"][-2:]
        ['LSTM', 'GRU']
        >>> model = search.model
    """

    def __init__(self, strategy: Strategy, *, data: Data | None = None, state: State | None = None) -> None:
        _check_ends(strategy, (0,) if state is None else state.place)
        _check_progress(strategy, state)
        # What can be refused by the strategy alone has been refused above, before the data are loaded.
        self.strategy = strategy
        with computing(strategy):
            self.data = data or loaded(strategy)
            self.state = state or initial(strategy, self.data)
            left = [*remaining(strategy.plan, self.state.place)]
            if any(isinstance(step, Trials) and step.inherit for step in left) and (reason := self.space.unshared):
                raise StrategyError(
                    f"the trials of the plan start from the weights of the supernet, but {reason}, or choose a plan whose trials are "
                    "trained from scratch"
                )
            compares = any(isinstance(step, Trials) for step in left)
            if isinstance(next((step for step in left if isinstance(step, Train | Trials)), None), Trials):
                self.loop.sized(self.state)  # refuses trials without a batch size
            if (self.state.network.alphas or compares) and not self.data.validation.size:
                raise StrategyError(
                    "the task holds nothing out for validation, which a search moves its alphas and decides by: give it a share"
                )
            check_decided(self.state.network.structure, left)
            # what a morphism cannot do is reported now, not after an hour
            self._idle = [m.name for m in strategy.growth if self._grows and not m.admits(self.state.network.structure)]

    @classmethod
    def retraining(cls, strategy: Strategy, structure: Structure) -> Search:
        """Return what trains the cells of an architecture from scratch, in the strategy's backbone.

        It has the plan "retrain": training lasts until the strategy's criterion ends the phase.
        """
        strategy = attrs.evolve(strategy, plan=RETRAIN)
        with computing(strategy):
            data = loaded(strategy)
            state = retraining(strategy, structure, data)
        return cls(strategy, data=data, state=state)

    @property
    def _grows(self) -> bool:
        """Return whether the network may still grow by the strategy's morphisms."""
        return any(isinstance(step, Judge) and not step.growth for step in remaining(self.strategy.plan, self.state.place))

    @property
    def loop(self) -> Loop:
        """Return the loop of the strategy on its data."""
        return Loop(self.strategy, self.data)

    @property
    def space(self) -> Space:
        """Return the architectures that trials choose from: see `Loop.space`."""
        return self.loop.space(self.state)

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def records(
        self, workers: int = 1, plugins: Plugins | None = None, check: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """Search from wherever the state is and yield a record of each thing done.

        Iterating over the search does the same in one process.

        Args:
            workers: the number of processes that evaluate the trials of an ask/tell architect. The results do not depend on it.
            plugins: where a worker finds the strategy's parts; by default the installed plugins.
            check: is called several times a second during trials and may raise an exception in order to stop.
        """
        loop = attrs.evolve(self.loop, workers=Workers(workers, plugins or installed(), check))
        return self._guarded(loop.run(self.state))

    def compare(
        self, workers: int = 1, plugins: Plugins | None = None, check: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """Train random architectures and baselines, yield a record of each, and hand over the best network.

        The best network has the least validation loss of all networks of the search space that were trained: the found
        one, the same cells trained from scratch, and random architectures. Afterwards it is `network` and `model`.

        Args:
            workers: the number of processes. The results do not depend on it.
            plugins: where a worker finds the strategy's parts; by default the installed plugins.
            check: is called several times a second and may raise an exception in order to stop.
        """
        if self.state.phase not in OVER:
            raise StrategyError("the search is not over: iterate over it before you compare its network")
        if self.state.trials and not self.state.updates:
            raise StrategyError(
                "no trial of the search trained, so that there is no number of updates for the networks of the comparison: let a phase of "
                "the plan train after the trials, such as "
                '[{name = "trials"}, {name = "train", phase = "tune", epochs = 10, competes = true}, {name = "restore"}]'
            )
        loop = attrs.evolve(self.loop, workers=Workers(workers, plugins or installed(), check))
        yield from self._guarded(Comparison(loop, self.state).run())

    def _guarded(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records; torch's settings are those of the run only while it computes."""
        while True:
            with computing(self.strategy):
                # one record at a time: between two records the caller's code runs with the caller's settings of torch
                record = next(records, None)
            if record is None:
                return
            yield record

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each thing that the user may not expect."""
        yield from self.data.warnings
        yield from self.network.slow_parts()
        if isinstance(at(self.strategy.plan, self.state.place), Trials):
            yield (
                f"the space has {self.space.size:,} architectures; the pruner and the growth of the strategy have no effect on trials, nor "
                "has its criterion, unless it limits their updates"
            )
        for name in self._idle:
            yield f"growth by {name} proposes no change of the network as it is"
        if self.strategy.growth and self._grows and not self.state.history:
            yield from _reached(self.strategy.criterion, sizes(self.network))

    def run(self) -> Network:
        """Search to the end and return the found architecture with its weights."""
        for _ in self:
            pass
        return self.network

    @property
    def network(self) -> Network:
        """Return the present network; an architecture when the search is over."""
        return self.state.network

    @property
    def model(self) -> Model:
        """Return the present network in the units of the data, in evaluation mode."""
        return Model(self.network, self.data.inputs, self.data.outputs, self.data.signature).eval()


def _check_ends(strategy: Strategy, place: Position) -> None:
    """Refuse a strategy in which nothing can end a phase or the search, from this position in its plan on."""
    # Only steps that are still to come: a resumed search is not refused for a phase that it has left behind.
    for step in remaining(strategy.plan, place):
        criterion = strategy.criterion
        if isinstance(step, Train | Judge) and step.criterion is not None:
            criterion = step.criterion
        given = short_name(criterion)
        if isinstance(step, Train):
            epochs = step.epochs or (step.optimiser or strategy.optimiser).epochs
            if epochs is None and "phase" not in criterion.ends:
                raise StrategyError(
                    f"nothing ends a phase of training: the criterion {given!r} cannot, and the optimiser has no `epochs`. Give the "
                    f"optimiser `epochs`, or add a criterion that can{_such_as('phase')}; any_of joins several"
                )
        grows = isinstance(step, Judge) and (step.growth or strategy.growth)
        if grows and "search" not in criterion.ends:
            raise StrategyError(
                f"nothing ends the growth: the criterion {given!r} cannot. Leave `growth` empty, or add a criterion that "
                f"can{_such_as('search')}; any_of joins several"
            )
        # A judge may stop, and a change that is needed may be impossible; both are checked elsewhere. Without them, only a
        # criterion of a phase can end the repeat.
        if isinstance(step, Repeat) and step.until == "stopped":
            inner = [*walk(step.steps)]
            if not any(isinstance(s, Judge) or (isinstance(s, Change) and s.needed) for s in inner):
                trained = [s.criterion or strategy.criterion for s in inner if isinstance(s, Train)]
                if not any("search" in each.ends for each in trained):
                    raise StrategyError(
                        "nothing ends a repeat of the plan: no criterion of its phases can decide \"stop\". Write until = 'times', give "
                        f"it a step that judges, or add a criterion that can{_such_as('search')}; any_of joins several"
                    )


def _check_progress(strategy: Strategy, state: State | None) -> None:
    """Refuse parts that need the progress of a phase where phases have no length."""
    architect = strategy.gradient_architect
    if architect is None:
        return
    searching = [step for step in walk(strategy.plan) if isinstance(step, Train) and step.moves_alphas]
    # A step of the weights samples mixing weights, too, as long as there are sites to decide.
    mixing, _ = _undecided(strategy.plan, decided=state is not None and state.network.structure.decided)
    parts: tuple[tuple[Architect | Relaxation | AlphaLoss, Sequence[Train]], ...] = (
        (architect, searching),
        (architect.relaxation, [*searching, *mixing]),
        *((term, searching) for term in architect.terms),
    )
    for part, phases in parts:
        endless = [step for step in phases if (step.epochs or (step.optimiser or strategy.optimiser).epochs) is None]
        if part.needs_progress and endless:
            phase = endless[0]
            # what a step has itself is not changed by a flag
            flag = "" if phase.optimiser else ", or the optimiser of the strategy `epochs` (--epochs N)"
            raise StrategyError(
                f"{part.kind.replace('_', ' ')} {short_name(part)!r} needs the progress of a phase, and the phase {phase.phase!r} has no "
                f"length, as a criterion may end it at any time: give that step of the plan `epochs`{flag}"
            )


def _undecided(steps: Sequence[Step], *, decided: bool) -> tuple[list[Train], bool]:
    """Return the phases that may train a network with undecided sites, and whether all sites are decided after the steps.

    Args:
        steps: the steps of a plan or of a repeat.
        decided: whether all sites are decided before them.
    """
    found: list[Train] = []
    for step in steps:
        if isinstance(step, Repeat):
            # What the first turn leaves undecided covers later turns, as a network that grew is trained by the same steps.
            inner, decided = _undecided(step.steps, decided=decided)
            found += inner
        elif isinstance(step, Train):
            found += [] if decided else [step]
        decided = decided or decides_surely(step)
    return found, decided


def _reached(criterion: GrowthCriterion, sizes: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each limit that a network of these sizes has reached, so that the search stops after its stage."""
    if isinstance(criterion, AnyOf):
        for part in criterion.parts:
            yield from _reached(part, sizes)
    # A criterion within `all_of` stops nothing alone, so that only `any_of` is looked into.
    for option, field in criterion.limits.items():
        size = sizes.get(field, {})  # there are none of updates and seconds before the search
        # of a number for each cell type the least one: a limit holds when every type has reached it
        least = min(size.values(), default=0) if isinstance(size, Mapping) else size
        if least >= getattr(criterion, option) > 0:
            yield (
                f"the network will not grow: it has {least} {field}, and the criterion {short_name(criterion)!r} stops the search "
                f"after the first stage; give it a larger value of {option}, or begin with fewer {field}"
            )


def _such_as(what: str) -> str:
    """Return the installed criteria that declare that they can end it, for a message."""
    classes = [part for plugin in installed().found for part in plugin.parts if issubclass(part, GrowthCriterion)]
    # A composed criterion has a property in the place of a constant, because it depends on its parts.
    names = sorted(part.name for part in classes if isinstance(part.ends, frozenset) and part.ends == {what})
    return f", such as {' or '.join(names)}" if names else ""
