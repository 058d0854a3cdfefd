"""The comparison at the end of a run: the found network next to random architectures of its space and baselines.

All are trained from scratch with the updates that the whole search took, from each of the strategy's seeds. The network
with the least validation loss among those of the search space is the one that the run hands over.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from nasframe.errors import NonFiniteError
from nasframe.records import EpochEnded, Evaluated, Record, Started, TrialEnded
from nasframe.search.evaluate import Evaluation, Reference, Trial, module_of, predicting, tested
from nasframe.search.loop import Loop, better
from nasframe.search.plan import Trials, walk
from nasframe.search.pool import evaluations
from nasframe.search.random_architecture import random_architecture
from nasframe.search.state import Snapshot, State, snapshot
from nasframe.search.trainer import weights_of
from nasframe.seeds import Seed
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

    def run(self) -> Iterator[Record]:
        """Evaluate what has not been evaluated yet, yield the records, and hand over the best network of the space.

        Raises:
            NonFiniteError: if the training of every network of the space diverged.
        """
        state = self.state
        if state.phase == "handed over":
            return
        # an architecture that was looked up in a table has no weights to test
        if not state.evaluations and not (state.trials and state.best is not None and state.best.valid is None):
            yield self._keep(self._inherited())
        # these follow from the state, so that a comparison that was interrupted continues behind the recorded ones; the first
        # evaluation, of the network with the weights of the search, is no trial
        trials = self.trials()
        # Trials are never skipped or reordered, so that a count says which are left.
        done = sum(e.name not in (INHERITED, RETRAINED) for e in state.evaluations)
        found = evaluations(
            [trial for _, trial in trials[done:]],
            self.loop.sized(state),
            self.loop.data,
            workers=self.loop.workers.count,
            plugins=self.loop.workers.plugins,
            check=self.loop.workers.check,
        )
        for (name, trial), evaluation in zip(trials[done:], found, strict=True):
            yield self._keep(self._evaluated(name, trial, evaluation))
        # After the last evaluation: `trials` follow from the network, which has to be the found one until then.
        yield self._hand_over()

    def trials(self) -> list[tuple[str, Trial]]:
        """Return the names and trials of the comparison, which follow from the state alone."""
        strategy, state = self.loop.strategy, self.state
        # baselines are chosen with about as many parameters as the network that was found
        first = next(iter(state.evaluations), None) or predicting(state.network, self.loop.data)
        parameters = first.parameters
        seeds = range(strategy.seeds)
        # A retraining is compared with the baselines that need no training.
        if not searched(self.state):
            references = self._references(parameters, trainable=False)
            return [(n, Trial(Reference(n, parameters), 0, self.loop.seed("compare", n, 0))) for n in references]
        # nothing below reads an outcome, so that a resumed comparison has the same trials in the same order
        architecture = self.state.network.structure
        rows: list[tuple[str, Trial]] = []
        for number in seeds:
            seed = self.loop.seed("compare", FOUND, number)
            rows.append((FOUND, Trial(architecture, state.updates, seed)))
        for number in seeds:
            seed = self.loop.seed("compare", RANDOM, number)
            rows.append((RANDOM, Trial(self._random(seed("draw")), state.updates, seed)))
        trained = set(self._references(parameters, trainable=True))
        for name in self.loop.data.references(parameters):
            for number in seeds if name in trained else range(1):  # without training every seed gives the same
                seed = self.loop.seed("compare", name, number)
                rows.append((name, Trial(Reference(name, parameters), state.updates, seed)))
        return rows

    def _references(self, parameters: int, *, trainable: bool) -> list[str]:
        strategy, data = self.loop.strategy, self.loop.data
        names = [*data.references(parameters)]
        # whether a baseline trains is seen from the parameters of its module only
        modules = {n: module_of(Trial(Reference(n, parameters), 0, self.loop.seed("look", n)), strategy, data) for n in names}
        return [name for name in names if bool(weights_of(modules[name])) == trainable]

    def _random(self, seed: Seed) -> Structure:
        """Return a random architecture of the space that was searched."""
        strategy = self.loop.strategy
        # As the search chose: from the decisions of its space, or else by the pruner and the backbone.
        if self.state.trials:
            # An architecture may have fewer nodes than the supernet of its space, which had a decision for each pick.
            nodes, picks = strategy.nodes, self.state.trials[-1].picks
            while len((space := self.state.network.backbone.space(self._supernet(nodes))).decisions) < len(picks):
                nodes += 1
            return space.architecture(space.random(seed))
        nodes = min(len(cell.nodes) for _, cell in self.state.network.structure.cells)
        return random_architecture(strategy, self._supernet(nodes), seed)

    def _supernet(self, nodes: int) -> Structure:
        """Return the supernet with so many nodes in each cell, or as many as the found architecture has there if that is more."""
        found, backbone = self.state.network.structure, self.state.network.backbone
        # Random architectures are drawn from a space of the same size as the found one, in the same backbone: a larger or smaller
        # network would compare sizes and not searching.
        structure = backbone.initial(self.loop.data.sizes, nodes)
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
            trained=self._trained(),
            valid=state.best.valid,
            scores={} if state.diverged else tested(state.network, data),
            diverged=state.diverged,
            best=not state.diverged,
        )

    def _trained(self) -> int:
        """Return the number of updates that the weights of the search have received."""
        state, plan = self.state, self.loop.strategy.plan
        if not state.trials:
            return state.updates
        # the trials of the last step of trials, in which they are numbered from 0
        trials = state.trials[-(state.trials[-1].number + 1) :]
        best: TrialEnded | None = next((trial for trial in reversed(trials) if trial.best), None)
        inherits = [step.inherit for step in walk(plan) if isinstance(step, Trials)][-1]
        # The updates after the trials, those before them if they began with the weights of a supernet, and those of the best trial
        # and its parents. The record of a trial counts the updates of the run with this trial.
        found = state.updates - trials[-1].updates + (trials[0].updates - trials[0].trained if inherits else 0)
        while best is not None:
            found += best.trained
            best = None if best.parent is None else trials[best.parent]
        return found

    def _evaluated(self, name: str, trial: Trial, evaluation: Evaluation) -> Evaluated:
        state, structure = self.state, trial.of if isinstance(trial.of, Structure) else None
        # without a validation split there is nothing to choose by, and the found network remains the winner
        best = False
        # A baseline has no structure: it is not of the space, and is never handed over.
        if structure is not None and evaluation.valid is not None and better(evaluation.valid, state.winner):
            best = True
            state.winner = Snapshot(structure, evaluation.tensors, evaluation.valid)
        return Evaluated(
            **state.position,
            number=len(state.evaluations),
            name=name,
            structure=None if structure is None else structure.to_dict(),
            parameters=evaluation.parameters,
            flops=evaluation.flops,
            trained=evaluation.updates,
            valid=evaluation.valid,
            scores=evaluation.scores,
            diverged=evaluation.diverged,
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
    """Return whether the run searched: it tried architectures, decided sites, or trained alphas. A retraining does none of it."""
    first = next(record for record in state.lineage if isinstance(record, Started))
    undecided = any(len(site["candidates"]) > 1 for cell in first.structure["cells"].values() for site in cell["sites"])
    return undecided or bool(state.trials) or any(isinstance(r, EpochEnded) and r.moves_alphas for r in state.history)
