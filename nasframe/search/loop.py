"""The search as Algorithm 2 of Jie & Gao 2021, which continues wherever the counters of its state are.

A stage goes through phases: "search" trains weights and alphas; where pruning is done at each stage, "prune" removes
candidates and "tune" trains the weights alone; "judge" grows the network into the next stage or ends the search. Then
"finish" returns to the best network with its weights and, where that is not yet an architecture, "derive" prunes it for
"retune"; "fold" folds the gates; and the search is "done". The comparison that may follow (`nasframe.search.compare`) ends as
"handed over". Every decision reads the validation split.

If a loss is not finite, the phase ends and its best network so far is restored; if there is none, the search ends with the
best network of the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import attrs
from torch import Tensor

from nasframe.errors import ChangeError, NonFiniteError, StructureError
from nasframe.interfaces.criterion import Decision
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name
from nasframe.interfaces.task import Data
from nasframe.network.network import Network, build
from nasframe.records import Changed, EpochEnded, Finished, Record, StageEnded, Stepped
from nasframe.search.changes import Changer, sizes
from nasframe.search.choose import ranked
from nasframe.search.context import Context
from nasframe.search.measuring import asked
from nasframe.search.state import Snapshot, State, rebuilt, snapshot, trainer
from nasframe.search.strategy import Strategy
from nasframe.search.trainer import Trainer, mixing_weights
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.space import Space

T = TypeVar("T")

#: what follows a phase of training
AFTER = {"tune": "judge", "retune": "fold"}
#: the phases that a growth can follow
GROWING = ("search", "prune", "tune", "judge")
#: the phases in which there is nothing left to search
OVER = ("done", "handed over")


@attrs.frozen(eq=False)
class Loop:
    """A strategy on its data.

    Args:
        strategy: decides what happens.
        data: the task's data.
        clock: returns the seconds since some moment; while a search runs, those that the run has taken so far.
    """

    strategy: Strategy
    data: Data
    clock: Callable[[], float] = time.monotonic

    @property
    def trainer(self) -> Trainer:
        """Return the trainer of the strategy."""
        return trainer(self.strategy, self.data)

    @property
    def changer(self) -> Changer:
        """Return what makes the changes."""
        return Changer(self.strategy, self.trainer)

    @property
    def space(self) -> Space:
        """Return the architectures that an ask/tell architect chooses from."""
        backbone = self.strategy.backbone
        return backbone.space(backbone.initial(self.data.sizes, self.strategy.nodes))

    def seed(self, *purpose: int | str) -> Seed:
        """Return the seed of a purpose in this run."""
        return Seed((self.strategy.seed, *purpose))

    def change_seed(self, state: State) -> Seed:
        """Return the seed of the next change: its key is the position in the lineage, which no other change has."""
        return self.seed("change", len(state.lineage))

    def run(self, state: State) -> Iterator[Record]:
        """Take the state to the end of the search and yield a record of each thing done (Algorithm 2).

        Whenever a record is yielded, the state is complete: a search that continues from it comes to the same bytes.
        """
        # a resumed search goes on from the time it had spent; the clock's values mean nothing in another process
        spent = (r.readings.get("seconds") or 0.0 for r in state.history)
        started = self.clock() - max(spent, default=0.0)
        yield from attrs.evolve(self, clock=lambda: self.clock() - started)._run(state)

    def _run(self, state: State) -> Iterator[Record]:
        # each block ends by entering another phase; a resumed search begins in whatever phase its state is in
        while state.phase not in OVER:
            match state.phase:
                case "search" | "tune" | "retune":  # lines 4 and 7
                    yield from self._train(state)
                case "prune":  # line 6
                    yield from self._prune(state)
                case "judge":  # lines 9 to 16
                    yield from self._judge(state)
                case "finish":  # line 19, from the best network's weights
                    yield self._finish(state)
                case "derive":
                    yield from self._derive(state)
                case "fold":
                    yield from self._fold(state)
        assert state.best is not None  # the search went through "finish"
        yield Finished(**state.position, valid=state.best.valid, diverged=state.diverged)

    def _asked(
        self, state: State, question: Callable[[Context], T], by: str
    ) -> Generator[Record, None, tuple[T, Mapping[str, Tensor]]]:
        """Return the answer of a part that measures, and its evidence; `by` names the part in this decision."""
        seed = self.seed("measure", by, len(state.lineage), state.phase, state.updates)
        epochs = self.strategy.optimiser.epochs
        progress = state.epoch / epochs if epochs else None
        return (yield from asked(question, by, state, self.trainer, seed=seed, progress=progress, clock=self.clock))

    # training

    def _train(self, state: State) -> Iterator[Record]:
        phase, size = state.phase, self.data.train.size
        while state.phase == phase:
            # keyed by the position of the epoch, so that a resumed epoch has the same order and the same noise
            seed = self.seed("epoch", state.stage, phase, state.epoch)
            for loss in self.trainer.epoch(state, seed, search=phase == "search"):
                yield Stepped(**state.position, samples=state.samples, size=size, loss=loss)
            yield from self._end_epoch(state)

    def _end_epoch(self, state: State) -> Iterator[Record]:
        network, measured = state.network, self.trainer.validate(state)
        readings, _ = yield from self._asked(state, self.strategy.criterion.measure, "criterion")
        mixing = mixing_weights(network)
        record = EpochEnded(
            **state.position,
            train=measured.train,
            valid=measured.valid,
            diverged=measured.diverged,
            scores=measured.scores,
            **sizes(network),
            mixing=named_mixing(network, mixing),
            readings=readings,
        )
        if not measured.diverged:
            # `fallback` is the best network of this phase, `best` that of the run, among phases whose losses are comparable
            shot = snapshot(network, measured.valid) if better(measured.valid, state.fallback) else None
            if state.phase in (self._counted, "retune") and better(measured.valid, state.best):
                state.best = shot or snapshot(network, measured.valid)
            state.fallback = shot or state.fallback
        state.memory, decision = self._decide(state, record, [])
        if measured.diverged:
            decision = self._diverged(state)
        elif decision.next not in ("end", "stop") and state.epoch + 1 == self.strategy.optimiser.epochs:
            decision = Decision("end", reason=f"the learning rate has come to its end after {state.epoch + 1} epochs")
        ended = decision.next in ("end", "stop")
        if ended:
            record = attrs.evolve(record, decision=decision.next, reason=decision.reason)
        state.keep(record)
        # `enter` resets the phase and the fallback, which are needed below
        phase, fallback = state.phase, state.fallback
        records: list[Record] = [record]
        # the state is that of the next epoch before any record is yielded: whoever reads a record may commit the state
        state.epoch, state.samples, state.loss = state.epoch + 1, 0, 0.0
        if measured.diverged and fallback is not None:
            records.append(self.changer.restore(state, fallback, kind="restore", why=decision.reason))
        if decision.next == "stop":
            state.stopping = decision.reason
        if ended:
            state.enter(AFTER.get(phase, "prune" if self.strategy.prune == "stage" else "judge"))
        # this phase has no finite network that could be pruned or judged: the search ends with the best one of the run
        if measured.diverged and fallback is None:
            state.enter("finish")
        if measured.diverged and phase == "retune" and state.best is None:
            # tuning never had a finite loss: the architecture has the weights that the pruning left
            state.best, state.diverged = fallback, fallback is None or fallback.valid is None
        yield from records

    def _diverged(self, state: State) -> Decision:
        """Return the decision after a loss that is not finite.

        Raises:
            NonFiniteError: if there is no network to return to.
        """
        what = f"the training diverged in phase {state.phase!r} of stage {state.stage}, epoch {state.epoch}"
        if state.fallback is not None:
            return Decision("end", reason=f"{what}; the best network of the phase is restored")
        if state.best is not None:
            return Decision("stop", reason=f"{what}; the best network of the run is restored")
        raise NonFiniteError(
            f"{what}, after {state.updates} updates, before there was any network with a finite validation loss: lower the "
            "learning rate, or leave out the operation that diverges"
        )

    @property
    def _counted(self) -> str:
        # like is compared with like: pruned and tuned networks with each other, or supernets with each other
        return "tune" if self.strategy.prune == "stage" else "search"

    def _decide(self, state: State, record: EpochEnded | StageEnded, proposals: list[Proposal]) -> tuple[Any, Decision]:
        return self.strategy.criterion.decide(state.memory, [*state.history, record], proposals)

    # changes

    def _judge(self, state: State) -> Iterator[Record]:
        epochs = [r for r in state.history if isinstance(r, EpochEnded) and r.stage == state.stage]
        losses = [r.valid for r in epochs if r.phase == self._counted and r.valid is not None]
        readings, _ = yield from self._asked(state, self.strategy.criterion.measure, "criterion")
        record = StageEnded(**state.position, valid=min(losses, default=None), **sizes(state.network), readings=readings)
        proposals, refused = yield from self._proposals(state)
        # the criterion decides in any case, so that its memory does not depend on other reasons to stop
        memory, decision = self._decide(state, record, [p for _, p in proposals])
        if state.stopping is not None:
            decision = Decision("stop", reason=state.stopping)
        elif not proposals:
            asked = "no morphism proposes a change" if self.strategy.growth else "nothing is to grow"
            decision = Decision("stop", reason="; ".join([asked, *refused]))
        elif decision.next is None:
            ended = next(r.reason for r in reversed(state.history) if r.decision == "end")  # the phase before
            decision = Decision("continue", reason=f"{ended}, and no criterion says stop")
        record = attrs.evolve(record, decision=decision.next, reason=decision.reason)
        if decision.next == "stop":
            state.enter("finish")
            changes: list[Record] = []
        else:
            # first, as a growth that is refused leaves no record of the stage behind
            changes = [self._grow(state, *proposals[decision.what or 0], decision.reason)]
        state.memory = memory
        state.keep(record)
        yield from [record, *changes]

    def _proposals(self, state: State) -> Generator[Record, None, tuple[list[tuple[Morphism, Proposal]], list[str]]]:
        """Return what the morphisms propose, the first choice first, and the reasons of those that cannot propose anything.

        A morphism that could change the network at first may be unable to change the grown one.
        """
        proposals, refused, structure = [], [], state.network.structure
        for place, morphism in enumerate(self.strategy.growth):
            propose = partial(morphism.propose, structure=structure)
            try:
                found, measured = yield from self._asked(state, propose, f"growth {place}")
                proposals += [(morphism, attrs.evolve(p, evidence={**measured, **p.evidence})) for p in found]
            except (ChangeError, StructureError) as error:
                refused.append(f"{morphism.name}: {error}")
        # counted in the lineage, which survives an interruption
        used = Counter(r.by for r in state.lineage if isinstance(r, Changed) and r.change == "grow")
        return ranked(proposals, used), refused

    def _grow(self, state: State, morphism: Morphism, proposal: Proposal, reason: str) -> Record:
        record = self.changer.grow(state, morphism, proposal, why=reason, seed=self.change_seed(state))
        state.enter("search")
        return record

    def _prune(self, state: State) -> Iterator[Record]:
        record = yield from self._remove_by_pruner(state, "pruned after the stage")
        state.enter("tune")
        yield record

    def _remove_by_pruner(self, state: State, why: str) -> Generator[Record, None, Record]:
        pruner, seed = self.strategy.pruner, self.change_seed(state)
        scores, evidence = yield from self._asked(state, pruner.scores, "pruner")
        gone = pruner.remove(state.network.structure, scores)
        return self.changer.remove(state, gone, by=pruner.name, why=why, seed=seed, evidence=evidence)

    def _finish(self, state: State) -> Record:
        assert state.best is not None  # every stage that is judged has been validated
        which = "the last network" if state.best.valid is None else "the best network"
        loss = "" if state.best.valid is None else f", with a validation loss of {state.best.valid:.6g}"
        # the paper's Algorithm 2, line 19, prunes the best structure with the last weights; here it has the weights it was
        # best with
        record = self.changer.restore(state, state.best, kind="restore", why=which + loss)
        if state.network.structure.decided:
            state.enter("fold")
        else:
            # the loss of a supernet says nothing about its architecture: from here on tuned architectures are compared
            state.best = None
            state.enter("derive")
        return record

    def _derive(self, state: State) -> Iterator[Record]:
        removed = yield from self._remove_by_pruner(state, "pruned at the end")
        records = [removed]
        if not state.network.structure.decided:
            mixing = mixing_weights(state.network)
            # a pruner may leave several candidates at a site, or more edges than an architecture has
            rest = self.strategy.backbone.derive(state.network.structure, mixing)
            seed = self.change_seed(state)
            why = "what the pruner left undecided"
            records.append(self.changer.remove(state, rest, by="derive", why=why, seed=seed))
        records += self._restart(state)
        state.enter("retune")
        # what remains if the first epoch of tuning diverges; after `enter`, which resets it
        state.fallback = snapshot(state.network, self.changer.loss(state.network))
        yield from records

    def _restart(self, state: State) -> list[Record]:
        """Begin the tuning with fresh weights where those that the pruning left are worse.

        The weights of a supernet were trained for a mixture, and may suit none of its architectures: then it takes the
        tuning longer to undo them than to begin anew.
        """
        left = self.changer.loss(state.network)
        seed = self.change_seed(state)
        fresh = build(state.network.structure, seed, like=state.network)
        loss = self.changer.loss(fresh)
        if loss is None or (left is not None and left <= loss):
            return []
        shown = "not finite" if left is None else f"{left:.6g}"
        why = f"the weights that the pruning left have a validation loss that is {shown}, fresh ones {loss:.6g}"
        return [self.changer.restore(state, snapshot(fresh, loss), kind="restart", why=why)]

    def _fold(self, state: State) -> Iterator[Record]:
        assert state.best is not None
        # the last epoch of the phase need not be its best one
        state.network = rebuilt(self.strategy, state.best)
        state.optimisers = self.trainer.optimisers(state.network)
        records = []
        if any(True for _ in state.network.gates()):
            why = "gates are folded where they can be"
            records.append(self.changer.fold(state, why=why, seed=self.change_seed(state)))
        state.enter("done")
        yield from records


def named_mixing(network: Network, mixing: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the mixing weights of each undecided site, by the ids and short names of its candidates."""
    sites = dict(network.structure.sites())
    return {
        address: {
            f"{c.id} {short_name(c.operation)}": weight
            for c, weight in zip(sites[Address(address)].candidates, weights.tolist(), strict=True)
        }
        for address, weights in mixing.items()
    }


def better(valid: float | None, best: Snapshot | None) -> bool:
    """Return whether a network with that validation loss replaces the best one; without validation, the last one does."""
    return best is None or best.valid is None or valid is None or valid < best.valid
