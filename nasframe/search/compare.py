"""The comparison at the end of a run: the found network next to random architectures of its space and baselines.

All are trained from scratch with the updates that the whole search took, from each of the strategy's seeds. The network
with the least validation loss among those of the search space is the one that the run hands over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from nasframe.errors import NonFiniteError
from nasframe.plugins import Plugins
from nasframe.records import EpochEnded, Evaluated, Record
from nasframe.search.evaluate import Outcome, Reference, Trial, module_of, outcomes, predicting, tested
from nasframe.search.loop import Loop, better
from nasframe.search.random_architecture import random_architecture
from nasframe.search.state import Snapshot, State, snapshot
from nasframe.search.trainer import weights_of
from nasframe.structure.structure import Structure

#: the rows of the comparison
INHERITED = "found cell, weights of the search"
FOUND = "found cell, trained from scratch"
RANDOM = "random architecture"
RETRAINED = "retrained cell"


@attrs.frozen(eq=False)
class Comparison:
    """Compares the network of a search that is over.

    Args:
        loop: the search.
        state: its state, in phase "done".
    """

    loop: Loop
    state: State

    def run(
        self, workers: int = 1, plugins: Plugins | None = None, check: Callable[[], None] = lambda: None
    ) -> Iterator[Record]:
        """Evaluate what has not been evaluated yet, yield the records, and hand over the best network of the space.

        Raises:
            NonFiniteError: if the training of every network of the space diverged.
        """
        state = self.state
        if state.phase == "handed over":
            return
        if not state.evaluations:
            yield self._keep(self._inherited())
        # these follow from the state, so that a comparison that was interrupted continues behind the recorded ones; the first
        # evaluation, of the network with the weights of the search, is no trial
        trials = self.trials()
        done = len(state.evaluations) - 1
        found = outcomes(
            [trial for _, trial in trials[done:]],
            self.loop.strategy,
            self.loop.data,
            workers=workers,
            plugins=plugins,
            check=check,
        )
        for (name, trial), outcome in zip(trials[done:], found, strict=True):
            yield self._keep(self._evaluated(name, trial, outcome))
        yield self._hand_over()

    def trials(self) -> list[tuple[str, Trial]]:
        """Return the names and trials of the comparison, which follow from the state alone."""
        strategy, state = self.loop.strategy, self.state
        # baselines are chosen with about as many parameters as the network that was found
        parameters = state.evaluations[0].parameters
        seeds = range(strategy.seeds)
        if not searched(self.state):
            references = self._references(parameters, trainable=False)
            return [(n, Trial(Reference(n, parameters), 0, self.loop.seed("compare", n, 0))) for n in references]
        # nothing below reads an outcome, so that a resumed comparison has the same trials in the same order
        architecture, space = self.state.network.structure, self._space()
        rows: list[tuple[str, Trial]] = []
        for number in seeds:
            seed = self.loop.seed("compare", FOUND, number)
            rows.append((FOUND, Trial(architecture, state.updates, seed)))
        for number in seeds:
            seed = self.loop.seed("compare", RANDOM, number)
            rows.append((RANDOM, Trial(random_architecture(strategy, space, seed("draw")), state.updates, seed)))
        trained = set(self._references(parameters, trainable=True))
        for name in self.loop.data.references(parameters):
            for number in seeds if name in trained else range(1):  # without training every seed gives the same
                seed = self.loop.seed("compare", name, number)
                rows.append((name, Trial(Reference(name, parameters), state.updates, seed)))
        return rows

    def _references(self, parameters: int, *, trainable: bool) -> list[str]:
        strategy, data = self.loop.strategy, self.loop.data
        names = [*data.references(parameters)]
        modules = {n: module_of(Trial(Reference(n, parameters), 0, self.loop.seed("look", n)), strategy, data) for n in names}
        return [name for name in names if bool(weights_of(modules[name])) == trainable]

    def _space(self) -> Structure:
        """Return the supernet with as many nodes in each cell as the found architecture has."""
        found, backbone = self.state.network.structure, self.loop.strategy.backbone
        structure = backbone.initial(self.loop.data.sizes, min(len(cell.nodes) for _, cell in found.cells))
        for type, cell in found.cells:
            # growth may have given one cell type more nodes than another
            while len(structure.cell(type).nodes) < len(cell.nodes):
                structure = backbone.grown(structure, type).structure
        return structure

    def _inherited(self) -> Evaluated:
        state, data = self.state, self.loop.data
        assert state.best is not None
        cost = predicting(state.network, data)
        # the first candidate for the hand-over; each evaluation of the space may replace it
        state.winner = None if state.diverged else snapshot(state.network, state.best.valid)
        return Evaluated(
            **state.position,
            number=0,
            name=INHERITED if searched(self.state) else RETRAINED,
            structure=state.network.structure.to_dict(),
            parameters=cost.parameters,
            flops=cost.flops,
            trained=state.updates,
            valid=state.best.valid,
            scores={} if state.diverged else tested(state.network, data),
            diverged=state.diverged,
            best=not state.diverged,
        )

    def _evaluated(self, name: str, trial: Trial, outcome: Outcome) -> Evaluated:
        state, structure = self.state, trial.of if isinstance(trial.of, Structure) else None
        # without a validation split there is nothing to choose by, and the found network remains the winner
        best = False
        if structure is not None and outcome.valid is not None and better(outcome.valid, state.winner):
            best = True
            state.winner = Snapshot(structure, outcome.tensors, outcome.valid)
        return Evaluated(
            **state.position,
            number=len(state.evaluations),
            name=name,
            structure=None if structure is None else structure.to_dict(),
            parameters=outcome.parameters,
            flops=outcome.flops,
            trained=outcome.updates,
            valid=outcome.valid,
            scores=outcome.scores,
            diverged=outcome.diverged,
            best=best,
        )

    def _keep(self, record: Evaluated) -> Evaluated:
        self.state.keep(record)
        return record

    def _hand_over(self) -> Record:
        state = self.state
        if state.winner is None:
            raise NonFiniteError(
                "the training of the found cell, of its copies trained from scratch and of every random architecture diverged: "
                "lower the learning rate, or leave out the operations that diverge"
            )
        # `best` marks each network that was the best when it was evaluated: the last one is the winner
        best = max((e for e in state.evaluations if e.best), key=lambda e: e.number)
        loss = "" if best.valid is None else f", with a validation loss of {best.valid:.6g}"
        record = self.loop.changer.restore(state, state.winner, kind="hand over", why=f"{best.name}{loss}")
        state.enter("handed over")
        return record


def searched(state: State) -> bool:
    """Return whether the run searched; a retraining does not."""
    return any(isinstance(record, EpochEnded) and record.phase == "search" for record in state.history)
