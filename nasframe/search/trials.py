"""The runner of a step of trials: architectures are requested, evaluated in a pool, and their results are given to the architect.

With k trials in flight, the architect makes request n when it has received exactly the results of the trials 0 to n - k, and it
receives results in the order of their numbers. Whatever arrives earlier waits in the state. So a search depends neither on the number
of workers nor on the order in which results arrive, and can be interrupted anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from nasframe.errors import NonFiniteError, StrategyError, StructureError
from nasframe.interfaces.ask_tell import AskTellArchitect, Memory, Request
from nasframe.interfaces.evaluator import Outcome, Trained
from nasframe.interfaces.part import short_name
from nasframe.interfaces.task import Data
from nasframe.records import Record, TrialArrived, TrialEnded
from nasframe.search.evaluate import Trial
from nasframe.search.pool import Pool, Workers
from nasframe.search.state import State, copied
from nasframe.search.strategy import Strategy
from nasframe.search.trial_state import Pending, TrialState, TrialWeights
from nasframe.seeds import Seed
from nasframe.structure.space import Space


@attrs.frozen(eq=False, kw_only=True)
class TrialRunner:
    """Carries out a step of trials.

    Args:
        architect: proposes the architectures.
        strategy: how to evaluate them: its evaluator, and the number of trials in flight.
        data: the data of its task.
        space: the architectures to choose from.
        state: the state of the run, at the step.
        seed: the seed of the step.
        inherit: whether trials without a parent start from the weights that they share with the network.
        workers: where trials are evaluated.
        clock: returns the seconds of the run so far.
    """

    architect: AskTellArchitect
    strategy: Strategy
    data: Data
    space: Space
    state: State
    seed: Seed
    inherit: bool
    workers: Workers
    clock: Callable[[], float]

    @property
    def trials(self) -> TrialState:
        """The trials in flight, and what the architect remembers."""
        assert self.state.asking is not None
        return self.state.asking

    @property
    def ended(self) -> list[TrialEnded]:
        """The trials of the step whose results the architect has received."""
        return self.state.trials[self.trials.first :]

    def run(self) -> Iterator[Record]:
        """Run the trials to the end and yield a record of each thing done.

        Whenever a record is yielded, the state is complete: a search that continues from it comes to the same bytes.
        """
        state, strategy, workers = self.state, self.strategy, self.workers
        if state.asking is None:
            # once, before the first trial, and not after an interruption
            strategy.evaluator.check(self.space)
            memory = self._kept(self.architect.start(self.space, self.seed("start")))
            state.asking = TrialState(memory, first=len(state.trials))
            self._ask()
        with Pool(
            strategy,
            self.data,
            workers=min(workers.count, strategy.in_flight),
            plugins=workers.plugins,
            space=self.space,
            check=workers.check,
        ) as pool:
            # What is in flight follows from the state. After an interruption the trials whose results had not arrived are
            # submitted again, and give the same results.
            while self.trials.pending:
                number = len(self.ended)
                # First what the architect can receive, as its next requests then run while other results are awaited.
                if number in self.trials.arrived:
                    yield self._tell(number)
                    continue
                for other, pending in self.trials.pending.items():
                    if other not in pool.outstanding and other not in self.trials.arrived:
                        pool.submit(other, self._trial(other, pending))
                arrived, outcome = pool.next()
                yield self._arrived(arrived, outcome)

    def best(self) -> TrialEnded:
        """Return the best trial of the step.

        Raises:
            StrategyError: if the architect requested no trial.
            NonFiniteError: if all trials diverged.
        """
        count, best = len(self.ended), self._best()
        if not count:
            raise StrategyError(f"architect {short_name(self.architect)!r} requested no trial; its first answer was to wait")
        if best is None:
            raise NonFiniteError(
                f"the training of all {count} architectures diverged: lower the learning rate, or leave out the operations that diverge"
            )
        return best

    def _trial(self, number: int, pending: Pending) -> Trial:
        parent, weights, network = None, self.trials.weights, self.state.network
        # a parent that diverged, or that was looked up in a table, has no weights
        if pending.parent is not None and pending.parent in weights:
            picks = self.ended[pending.parent].picks
            parent = Trained(self.space.architecture(picks), weights[pending.parent].tensors)
        elif self.inherit:
            # the network stays as it is during the step
            parent = Trained(network.structure, copied(network))
        architecture = self.space.architecture(pending.picks)
        return Trial(architecture, pending.budget, self.seed("trial", number), search=True, parent=parent)

    def _arrived(self, number: int, outcome: Outcome) -> TrialArrived:
        """Keep a result until the architect has received those before it."""
        # The weights are kept apart, because they are written once, and the rest of the outcome with each commit.
        self.trials.arrived[number] = attrs.evolve(outcome, tensors={})
        if outcome.tensors:
            self.trials.weights[number] = TrialWeights.of(dict(outcome.tensors))
        return TrialArrived(**self.state.position, number=number)

    def _tell(self, number: int) -> TrialEnded:
        state, trials = self.state, self.trials
        pending, outcome = trials.pending[number], trials.arrived[number]
        # The position of a record: trials are counted as epochs are.
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
        # a copy of the memory, so that an architect which modifies it in place changes nothing
        trials.memory = self._kept(self.architect.tell(self.space, trials.memory.copy(), record, self.seed("tell", number)))
        del trials.pending[number], trials.arrived[number]
        state.keep(record)
        # what is read to decide about the next trials belongs to this record: a resumed run goes on from that time
        readings, cut = self._ask()
        state.trials[-1] = record = attrs.evolve(record, readings=readings, cut=cut)
        return record

    def _ask(self) -> tuple[Mapping[str, float], bool]:
        """Ask for requests until enough trials are in flight, the architect waits or the criterion affords no more.

        Then weights that nobody needs are dropped. Return the seconds that the criterion read, if it did, and whether it ended trials
        that the architect would have continued.
        """
        trials, readings, cut = self.trials, dict[str, float](), False

        def clock() -> float:
            readings["seconds"] = self.clock()
            return readings["seconds"]

        # The number of results that the architect has received decides how many requests it may make, and not the number
        # that has arrived: the speed of the workers must not matter.
        while trials.requested < len(self.ended) + self.strategy.in_flight:
            # what is in flight counts, too, with the budgets that were requested
            spent = self.state.updates + sum(pending.budget for pending in trials.pending.values())
            affords = not trials.requested or self.strategy.criterion.affords(spent, clock)
            if not affords and trials.pending:
                break
            # before the request, because weights that were not needed then are dropped already
            number, needed = trials.requested, self.architect.needs(trials.memory.copy())
            memory, request = self.architect.ask(self.space, trials.memory.copy(), number, self.seed("ask", number))
            if not affords:
                # The request is not carried out, and the memory stays: it only shows whether the architect would have gone on.
                cut = request is not None
                break
            trials.memory = self._kept(memory)
            if request is None:
                break
            trials.pending[number] = self._checked(request, number, needed)
            trials.requested += 1
        best = self._best()
        # The weights of the best trial become the network of the run when the step ends.
        kept = {*self.architect.needs(trials.memory.copy()), *trials.arrived, *(p.parent for p in trials.pending.values())}
        kept |= set() if best is None else {best.number}
        trials.weights = {number: weights for number, weights in sorted(trials.weights.items()) if number in kept}
        return readings, cut

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
        # the last one that was the best so far
        return next((trial for trial in reversed(self.ended) if trial.best), None)


def better(trial: TrialEnded, best: TrialEnded | None) -> bool:
    """Return whether a trial is better than the best one so far: only trials of equal budget are compared, and more is better."""
    if trial.valid is None:
        return False
    # Losses after different budgets do not compare; a trial with a larger budget replaces all with smaller ones.
    if best is None or best.valid is None or trial.budget > best.budget:
        return True
    return trial.budget == best.budget and trial.valid < best.valid
