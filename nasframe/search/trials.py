"""The runner of ask/tell searches: trials are requested, evaluated in a pool, and told to the architect.

With k trials in flight (`Strategy.in_flight`), request n is asked for when exactly the results of the trials 0 to n - k have
been told, and results are told in the order of their numbers. Whatever arrives earlier waits in the state. So a search depends
neither on the number of workers nor on the order in which results arrive, and can be interrupted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from torch import Tensor

from nasframe.errors import NonFiniteError, StrategyError, StructureError
from nasframe.interfaces.ask_tell import AskTellArchitect, Memory, Request
from nasframe.interfaces.evaluator import Outcome, Trained
from nasframe.interfaces.part import short_name
from nasframe.network.network import build
from nasframe.plugins import Plugins
from nasframe.records import Finished, Record, TrialArrived, TrialEnded
from nasframe.search.evaluate import Trial
from nasframe.search.loop import Loop
from nasframe.search.pool import Pool
from nasframe.search.state import Snapshot, State, copied, placed
from nasframe.search.trial_state import Pending, TrialState
from nasframe.structure.space import Space


@attrs.frozen(eq=False)
class TrialRunner:
    """Runs the trials of an ask/tell search.

    Args:
        loop: the strategy on its data.
        state: the state of the run, in phase "trials".
        space: the space of the search.
    """

    loop: Loop
    state: State
    space: Space

    @property
    def architect(self) -> AskTellArchitect:
        """The ask/tell architect of the strategy."""
        architect = self.loop.strategy.ask_tell
        assert architect is not None, "the runner is for ask/tell architects"
        return architect

    @property
    def trials(self) -> TrialState:
        """The trials in flight, and what the architect remembers."""
        assert self.state.asking is not None
        return self.state.asking

    def run(self, workers: int, plugins: Plugins, check: Callable[[], None]) -> Iterator[Record]:
        """Run the trials to the end and yield a record of each thing done.

        Whenever a record is yielded, the state is complete: a search that continues from it comes to the same bytes.

        Args:
            workers: the number of processes. The results do not depend on it.
            plugins: where a worker finds the strategy's parts.
            check: is called several times a second and may raise an exception in order to stop.
        """
        state, strategy = self.state, self.loop.strategy
        if state.phase != "trials":
            return
        if state.asking is None:
            strategy.evaluator.check(self.space)
            state.asking = TrialState(self._kept(self.architect.start(self.space, self.loop.seed("start"))))
            self._ask()
        workers = min(workers, strategy.in_flight)
        with Pool(strategy, self.loop.data, workers=workers, plugins=plugins, space=self.space, check=check) as pool:
            while self.trials.pending:
                number = len(state.trials)
                if number in self.trials.arrived:
                    yield self._tell(number)
                    continue
                for other, pending in self.trials.pending.items():
                    if other not in pool.outstanding and other not in self.trials.arrived:
                        pool.submit(other, self._trial(other, pending))
                arrived, outcome = pool.next()
                yield self._arrived(arrived, outcome)
        yield from self._finish()

    def _trial(self, number: int, pending: Pending) -> Trial:
        parent, weights = None, self.trials.weights
        # a parent that diverged, or that was looked up in a table, has no weights
        if pending.parent is not None and pending.parent in weights:
            picks = self.state.trials[pending.parent].picks
            parent = Trained(self.space.architecture(picks), weights[pending.parent])
        architecture = self.space.architecture(pending.picks)
        return Trial(architecture, pending.budget, self.loop.seed("trial", number), search=True, parent=parent)

    def _arrived(self, number: int, outcome: Outcome) -> TrialArrived:
        """Keep a result until those before it have been told."""
        self.trials.arrived[number] = attrs.evolve(outcome, tensors={})
        if outcome.tensors:
            self.trials.weights[number] = dict(outcome.tensors)
        return TrialArrived(**self.state.position, number=number)

    def _tell(self, number: int) -> TrialEnded:
        state, trials = self.state, self.trials
        pending, outcome = trials.pending[number], trials.arrived[number]
        state.epoch, state.updates = number, state.updates + outcome.updates
        record = TrialEnded(
            **state.position,
            number=number,
            picks=pending.picks,
            budget=pending.budget,
            parent=pending.parent,
            trained=outcome.updates,
            valid=outcome.valid,
            scores=outcome.scores,
        )
        record = attrs.evolve(record, best=better(record, self._best()))
        trials.memory = self._kept(
            self.architect.tell(self.space, trials.memory.copy(), record, self.loop.seed("tell", number))
        )
        del trials.pending[number], trials.arrived[number]
        state.keep(record)
        self._ask()
        return record

    def _ask(self) -> None:
        """Ask for requests until enough trials are in flight or the architect waits, and drop weights that nobody needs."""
        state, trials = self.state, self.trials
        while trials.requested < len(state.trials) + self.loop.strategy.in_flight:
            number, needed = trials.requested, self.architect.needs(trials.memory.copy())
            memory, request = self.architect.ask(self.space, trials.memory.copy(), number, self.loop.seed("ask", number))
            trials.memory = self._kept(memory)
            if request is None:
                break
            trials.pending[number] = self._checked(request, number, needed)
            trials.requested += 1
        best = self._best()
        kept = {*self.architect.needs(trials.memory.copy()), *trials.arrived, *(p.parent for p in trials.pending.values())}
        kept |= set() if best is None else {best.number}
        trials.weights = {number: tensors for number, tensors in sorted(trials.weights.items()) if number in kept}

    def _checked(self, request: Request, number: int, needed: Any) -> Pending:
        who = f"architect {short_name(self.architect)!r} requests trial {number}"
        try:
            picks = self.space.picks(request.structure)
        except StructureError as error:
            raise StrategyError(f"{who}, but {error}") from error
        if isinstance(request.budget, bool) or not isinstance(request.budget, int) or request.budget < 1:
            raise StrategyError(f"{who} with budget {request.budget!r}; it must be a whole number of at least 1")
        if request.parent is not None and request.parent not in needed:
            raise StrategyError(
                f"{who} with the weights of trial {request.parent}, which `needs` did not name: they may have been dropped. Return the "
                "number in `needs` as long as the trial may become a parent"
            )
        return Pending(picks, request.budget, request.parent)

    def _kept(self, memory: Memory) -> Memory:
        """Return the memory as a resumed run would have it, so that an interruption makes no difference."""
        try:
            return memory.copy()
        except (TypeError, ValueError, AttributeError) as error:
            raise StrategyError(
                f"architect {short_name(self.architect)!r} returned a memory that cannot be stored ({error}); return Memory(values, "
                "tensors), with finite numbers, strings, booleans, None, lists and dictionaries as values"
            ) from error

    def _best(self) -> TrialEnded | None:
        return next((trial for trial in reversed(self.state.trials) if trial.best), None)

    def _finish(self) -> Iterator[Record]:
        """Put the network of the best trial in the place of the first one."""
        state, strategy, best = self.state, self.loop.strategy, self._best()
        if not state.trials:
            raise StrategyError(f"architect {short_name(self.architect)!r} requested no trial; its first answer was to wait")
        if best is None:
            raise NonFiniteError(
                f"the training of all {len(state.trials)} architectures diverged: lower the learning rate, or leave out the operations "
                "that diverge"
            )
        structure = self.space.architecture(best.picks)
        tensors: Mapping[str, Tensor] | None = self.trials.weights.get(best.number)
        if tensors is None:  # its outcome was looked up, and that is not the loss of fresh weights
            state.best = Snapshot(structure, copied(placed(strategy, build(structure, self.loop.seed("initial")))), None)
        else:
            state.best = Snapshot(structure, tensors, best.valid)
        why = f"trial {best.number} has the least validation loss, {best.valid:.6g}, of those with budget {best.budget}"
        record = self.loop.changer.restore(state, state.best, kind="trial", why=why)
        state.asking = None
        state.enter("done")
        yield record
        yield Finished(**state.position, valid=best.valid)


def better(trial: TrialEnded, best: TrialEnded | None) -> bool:
    """Return whether a trial is better than the best one so far: only trials of equal budget are compared, and more is better."""
    if trial.valid is None:
        return False
    if best is None or best.valid is None or trial.budget > best.budget:
        return True
    return trial.budget == best.budget and trial.valid < best.valid
