"""The search: it carries out the steps of a plan, and continues wherever its state is.

With the plan "stage" it is Algorithm 2 of Jie & Gao 2021. In a turn of its repeat, `Train` trains weights and alphas (the phase "search"),
`Change` removes candidates, `Train` trains the weights alone ("tune"), and `Judge` grows the network into the next stage or ends
the repeat. Then `Restore` returns to the best network with its weights; where that is not yet an architecture, it is pruned and
trained again ("retune"). `Fold` folds the gates, and the search is "done". The comparison that may follow
(`nasframe.search.compare`) ends as "handed over". Every decision reads the validation split.

If a loss is not finite, the phase ends and its best network so far is restored; if there is none, the surrounding repeat ends with
the best network of the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set as AbstractSet
from functools import partial
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

from nasframe.errors import ChangeError, ClaimError, NonFiniteError, StrategyError, StructureError
from nasframe.interfaces.batch_size import BatchSize
from nasframe.interfaces.criterion import Decision
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name
from nasframe.interfaces.task import Data
from nasframe.network.network import Network, build, tensors
from nasframe.records import Changed, EpochEnded, Finished, Record, Refused, StageEnded, Stepped, finite
from nasframe.search.changes import Changer, sizes
from nasframe.search.choose import ranked
from nasframe.search.context import Context
from nasframe.search.gain import gains
from nasframe.search.measuring import asked
from nasframe.search.plan import Change, Fold, Judge, Move, Restore, Train, Trials, at, following, leave
from nasframe.search.pool import Workers
from nasframe.search.state import Snapshot, State, check_decided, go, placed, snapshot, trainer
from nasframe.search.strategy import Strategy
from nasframe.search.suggestions import suggestions
from nasframe.search.trainer import Trainer, alphas_of, mixing_weights
from nasframe.search.trials import TrialRunner
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from, without_gates
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure

T = TypeVar("T")


@attrs.frozen(eq=False)
class Loop:
    """A strategy on its data.

    Args:
        strategy: decides what happens.
        data: the task's data.
        clock: returns the seconds since some moment; while a search runs, those that the run has taken so far.
        workers: where trials are evaluated.
    """

    strategy: Strategy
    data: Data
    clock: Callable[[], float] = time.monotonic
    workers: Workers = Workers()

    @property
    def trainer(self) -> Trainer:
        """Return the trainer of the strategy, whatever the plan's phases have of their own."""
        return trainer(self.strategy, self.data)

    @property
    def changer(self) -> Changer:
        """Return what makes changes outside of the plan."""
        return Changer(self.strategy, self.trainer)

    def space(self, state: State, *, inherit: bool = False) -> Space:
        """Return the architectures that trials choose from: those of the network, or of the first supernet if that is decided.

        Args:
            state: the state of the run.
            inherit: whether trials start from the weights of the network. If not, nodes that grew behind a gate have none: a training
                from scratch would begin with a gate that is shut.
        """
        network, first = state.network, self.strategy.backbone
        if network.structure.decided:
            return first.space(first.initial(self.data.sizes, self.strategy.nodes))
        space = network.backbone.space(network.structure if inherit else without_gates(network.structure))
        return attrs.evolve(space, suggested=suggestions(network, space))

    def sized(self, state: State) -> Strategy:
        """Return the strategy with the batch size of the present state, for what is trained outside of the phases of the plan.

        Raises:
            StrategyError: if it has not been decided yet.
        """
        return attrs.evolve(self.strategy, batch=state.batch or self.strategy.fixed_batch)

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
        timed = (r for r in (*state.history, *state.trials) if not isinstance(r, Refused))
        # The readings of the clock are in the records, whatever criterion took them.
        spent = (r.readings.get("seconds") or 0.0 for r in timed)
        started = self.clock() - max(spent, default=0.0)
        yield from attrs.evolve(self, clock=lambda: self.clock() - started)._run(state)

    def _run(self, state: State) -> Iterator[Record]:
        # each block ends by going to another step; a resumed search begins with whatever step its state is at
        while (step := at(self.strategy.plan, state.place)) is not None:
            match step:
                case Train():  # Algorithm 2, lines 4 and 7
                    yield from self._train(state, step)
                case Change():  # line 6
                    yield from self._change(state, step)
                case Judge():  # lines 9 to 16
                    yield from self._judge(state, step)
                case Restore():  # line 19, from the best network's weights
                    yield self._restore(state)
                case Move():
                    yield self._move(state, step)
                case Fold():
                    yield from self._fold(state)
                case Trials():
                    yield from self._trials(state, step)
        # a growth may have followed the last step that decides
        check_decided(state.network.structure, ())
        if state.best is None:
            state.best = self._present(state)
        elif state.best.structure == state.network.structure and not _holds(state.network, state.best):
            # The plan ends with a phase and not with a step `restore`. What is handed over is what the loss of the best network belongs to.
            yield self._at(state).restore(state, state.best, kind="restore", why="the best network is handed over")
        yield Finished(**state.position, valid=state.best.valid, diverged=state.diverged)

    def _present(self, state: State) -> Snapshot:
        """Return the present network, which is the result where none has competed since it was decided or moved."""
        valid = self._at(state).loss(state.network)
        state.diverged = valid is None and bool(self.data.validation.size)
        return snapshot(state.network, valid)

    def _next(self, state: State) -> None:
        """Go to the step after the present one."""
        go(state, self.strategy, self.data, following(self.strategy.plan, state.place, state.over))

    def _leave(self, state: State) -> None:
        """Go to the step after the repeat around the present one."""
        go(state, self.strategy, self.data, leave(self.strategy.plan, state.place, state.over))

    def _at(self, state: State) -> Changer:
        """Return what makes changes at the present step; it has the trainer of that step."""
        return Changer(self.strategy, trainer(self.strategy, self.data, at(self.strategy.plan, state.place)))

    def _asked(
        self, state: State, question: Callable[[Context], T], by: str, seed: Seed | None = None
    ) -> Generator[Record, None, tuple[T, Mapping[str, Tensor]]]:
        """Return the answer of a part that measures, and its evidence; `by` names the part in this decision."""
        # `due` differs between the changes that a phase makes after the same epoch
        seed = seed or self.seed("measure", by, len(state.lineage), state.phase, state.updates, state.due)
        trainer, progress = self._at(state).trainer, None
        if isinstance(at(self.strategy.plan, state.place), Train):
            progress = trainer.progress(state)
        currency = self.strategy.currency
        return (
            yield from asked(question, by, state, trainer, seed=seed, progress=progress, clock=self.clock, currency=currency)
        )

    # training

    def _train(self, state: State, step: Train) -> Iterator[Record]:
        place, size, trained = state.place, self.data.train.size, trainer(self.strategy, self.data, step)
        # `_end_epoch` goes to another step when the phase is over
        while state.place == place:
            # changes that are due since the last epoch, of which an interruption may have left some
            while state.due:
                # `due` counts down: the change that is next is so many places from the end
                yield from self._change(state, step.during[-state.due])
            if state.sizing:
                yield from self._size(state)
            # keyed by the position of the epoch, so that a resumed epoch has the same order and the same noise
            seed = self.seed("epoch", state.stage, step.phase, state.epoch)
            for loss in trained.epoch(state, seed, search=step.moves_alphas and state.epoch >= step.grace):
                yield Stepped(**state.position, samples=state.samples, size=size, loss=loss)
            yield from self._end_epoch(state, step, trained)

    def _size(self, state: State) -> Iterator[Record]:
        """Decide the batch size of a phase that begins, or whose network has changed."""
        rule = self.strategy.batch
        if isinstance(rule, BatchSize):
            readings, _ = yield from self._asked(state, rule.measure, "batch")
            size = rule.decide(state.batch or None, readings)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise StrategyError(
                    f"batch size {short_name(rule)!r} decides {size!r}; it must be a whole number of at least 1"
                )
            # `State.keep` drops what was measured, but no record is kept of this decision
            state.batch, state.measured = size, {}
            state.batch_readings = {name: finite(value) for name, value in readings.items()}
        state.sizing = False

    def _end_epoch(self, state: State, step: Train, trained: Trainer) -> Iterator[Record]:
        # First what the epoch came to, as a record without a decision, which the criterion reads together with the history.
        network, measured, criterion = state.network, trained.validate(state), step.criterion or self.strategy.criterion
        readings, _ = yield from self._asked(state, criterion.measure, "criterion")
        mixing = mixing_weights(network)
        record = EpochEnded(
            **state.position,
            train=measured.train,
            valid=measured.valid,
            diverged=measured.diverged,
            scores=measured.scores,
            moves_alphas=step.moves_alphas,
            batch=state.batch,
            batch_readings=state.batch_readings,
            **sizes(network),
            mixing=named_mixing(network, mixing),
            readings=readings,
        )
        if not measured.diverged:
            # `fallback` is the best network of this phase, `best` that of the run, among phases whose losses are comparable
            shot = snapshot(network, measured.valid) if better(measured.valid, state.fallback) else None
            if step.competes and better(measured.valid, state.best):
                state.best = shot or snapshot(network, measured.valid)
            state.fallback = shot or state.fallback
        # Then the decision. The criterion is called also where the training diverged, so that its memory follows the history.
        state.memory, decision = self._decide(state, step, record, [])
        if measured.diverged:
            decision = self._diverged(state)
        elif decision.next not in ("end", "stop") and state.epoch + 1 == trained.optimiser.epochs:
            decision = Decision("end", reason=f"the learning rate has come to its end after {state.epoch + 1} epochs")
        ended, fallback = decision.next in ("end", "stop"), state.fallback
        if ended:
            record = attrs.evolve(record, decision=decision.next, reason=decision.reason)
        state.keep(record)
        records: list[Record] = [record]
        # the state is that of the next epoch before any record is yielded: whoever reads a record may commit the state
        state.epoch, state.samples, state.loss = state.epoch + 1, 0, 0.0
        if decision.next == "stop":
            state.stopping = decision.reason
        if measured.diverged and fallback is not None:
            records.append(self._at(state).restore(state, fallback, kind="restore", why=decision.reason))
            if step.competes and state.best is None:
                # the phase never had a finite loss: the network has the weights that it began with
                state.best, state.diverged = fallback, fallback.valid is None
        if measured.diverged and fallback is None:
            # this phase has no finite network that could be pruned or judged: the repeat ends with the best one of the run
            place = state.place
            self._leave(state)
            # Outside of a repeat the next step follows at once, and a network that diverged must not come to it.
            if len(place) == 1 and state.best is not None:
                records.append(self._at(state).restore(state, state.best, kind="restore", why=decision.reason))
        elif ended:
            self._next(state)
        elif decision.change is not False:
            state.due = len(step.during)
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
            f"{what}, after {state.updates} updates, before the phase had a network with a finite validation loss: lower the "
            "learning rate, or leave out the operation that diverges"
        )

    def _decide(
        self, state: State, step: Train | Judge, record: EpochEnded | StageEnded, proposals: list[Proposal]
    ) -> tuple[dict[str, Any], Decision]:
        """Return the next memory and the decision of the step's criterion; a criterion that a step names has its own memory."""
        criterion = step.criterion or self.strategy.criterion
        by = "strategy" if step.criterion is None else "step " + ".".join(map(str, state.place[::2]))
        memory, decision = criterion.decide(state.memory.get(by), [*state.history, record], proposals)
        return {**state.memory, by: memory}, decision

    # changes

    def _judge(self, state: State, step: Judge) -> Iterator[Record]:
        criterion, growth = step.criterion or self.strategy.criterion, step.growth or self.strategy.growth
        epochs = [r for r in state.history if isinstance(r, EpochEnded) and r.stage == state.stage]
        # The least loss of an epoch and not that of the last one: its network is what the stage has to offer.
        losses = [r.valid for r in epochs if r.phase == step.phase and r.valid is not None]
        readings, _ = yield from self._asked(state, criterion.measure, "criterion")
        record = StageEnded(**state.position, valid=min(losses, default=None), **sizes(state.network), readings=readings)
        # Before the decision, which may be to prefer one proposal to another.
        proposals, refused, compared = yield from self._proposals(state, growth, state.network.structure)
        # the criterion decides in any case, so that its memory does not depend on other reasons to stop
        memory, decision = self._decide(state, step, record, [p for _, p in proposals])
        if state.stopping is not None:
            decision = Decision("stop", reason=state.stopping)
        elif not proposals:
            asked = "no morphism proposes a change" if growth else "nothing is to grow"
            decision = Decision("stop", reason="; ".join([asked, *refused]))
        elif decision.next is None:
            # why the phase before has ended; a plan may judge before any phase
            ends = (f"{r.reason}, and " for r in reversed(state.history) if isinstance(r, EpochEnded) and r.decision == "end")
            decision = Decision("continue", reason=f"{next(ends, '')}no criterion says stop")
        changes: list[Record] = []
        if decision.next != "stop":
            # Before the record of the stage is kept, which says why the search stops if every growth is refused. The criterion's
            # choice is tried first, and the others in their order.
            chosen = proposals.pop(decision.what or 0)
            for morphism, proposal in (chosen, *proposals):
                try:
                    # the gains of all proposals are evidence, also of those that are not chosen
                    with_gains = attrs.evolve(proposal, evidence={**proposal.evidence, **compared})
                    changes = [self._grow(state, morphism, with_gains, decision.reason)]
                    break
                except ClaimError:
                    raise  # a fault of the morphism, and not a growth that is impossible
                except (ChangeError, StructureError) as error:
                    refused.append(f"{morphism.name}: {error}")
            else:
                decision = Decision("stop", reason="; ".join(["no proposed change can be made", *dict.fromkeys(refused)]))
        record = attrs.evolve(record, decision=decision.next, reason=decision.reason)
        # Record, memory and position follow the growth without a yield, so that nobody commits one without the other.
        state.memory = memory
        state.keep(record)
        if decision.next == "stop":
            self._leave(state)
        else:
            self._next(state)
        yield from [record, *changes]

    def _proposals(
        self, state: State, growth: Sequence[Morphism], structure: Structure
    ) -> Generator[Record, None, tuple[list[tuple[Morphism, Proposal]], list[str], Mapping[str, Tensor]]]:
        """Return what the morphisms propose, the first choice first, the reasons of those that cannot propose anything, and the gains.

        A morphism that could change the network at first may be unable to change the grown one. The gains are those that were measured to
        compare the proposals.
        """
        proposals, refused = list[tuple[Morphism, Proposal]](), []
        for place, morphism in enumerate(growth):
            propose = partial(morphism.propose, structure=structure)
            try:
                # by its place, as a strategy may have two morphisms of one name
                found, measured = yield from self._asked(state, propose, f"growth {place}")
                proposals += [(morphism, attrs.evolve(p, evidence={**measured, **p.evidence})) for p in found]
            except (ChangeError, StructureError) as error:
                refused.append(f"{morphism.name}: {error}")
        # counted in the lineage, which survives an interruption
        used = Counter(by for r in state.lineage if isinstance(r, Changed) for by in grown_by(r))
        currency, seed = self.strategy.currency, self.change_seed(state)
        # what the morphisms state, of which some was measured while they proposed
        if currency == "stated":
            return ranked(proposals, used), refused, {}

        def compared(context: Context) -> list[tuple[float, float]]:
            return gains(context, structure, proposals, currency, seed)

        # with the seed of the change, on whose batch the gain of the change is measured once more (`Changer`)
        values, evidence = yield from self._asked(state, compared, "gains", seed)
        valued = [(m, attrs.evolve(p, gain=gain)) for (m, p), (gain, _) in zip(proposals, values, strict=True)]
        return ranked(valued, used, [cost for _, cost in values]), refused, evidence

    def _grow(self, state: State, morphism: Morphism, proposal: Proposal, reason: str) -> Record:
        return self._at(state).grow(state, morphism, proposal, why=reason, seed=self.change_seed(state))

    def _change(self, state: State, step: Change) -> Iterator[Record]:
        """Make a change of the plan, or, within a phase, the first one of those that are due."""
        during = isinstance(at(self.strategy.plan, state.place), Train)
        changer, shot, missed = self._at(state), None, False
        records, refused = list[Record](), list[str]()
        gone: Mapping[Address, AbstractSet[int]] = {}
        evidence: Mapping[str, Tensor] = {}
        pruner = step.pruner or self.strategy.pruner
        # What goes and what comes is measured and decided on the present network, before anything changes.
        if step.prune:
            scores, evidence = yield from self._asked(state, pruner.scores, "pruner")
            gone = pruner.remove(state.network.structure, scores)
        seed, proposals = self.change_seed(state), list[tuple[Morphism, Proposal]]()
        if step.grow or step.reset:
            growth = step.growth or self.strategy.growth
            if step.grow:
                # What grows is proposed for the network without the removed candidates, although both are one change.
                left = remove_from(state.network.structure, gone) if gone else state.network.structure
                proposals, refused, compared = yield from self._proposals(state, growth, left)
                evidence = {**evidence, **compared}
            # Removal, growth and reset are one change, with one child, one record and one distance.
            made, impossible = changer.best_change(
                state,
                gone,
                proposals,
                per=step.per,
                needed=step.needed,
                reset=step.reset,
                by=pruner.name if gone else step.name,
                why=_why(state, step, during, pruned=bool(gone), grown=bool(proposals)),
                seed=seed,
                evidence=evidence,
            )
            refused += impossible
            missed = step.needed and made is None
            if missed and not proposals:
                refused.insert(0, "no morphism proposes a change")
            if made is not None:
                records.append(made)
            # a growth that was made instead of a refused one leaves nothing to report
            if refused and (made is None or not grown_by(made)):
                kept = Refused(**state.position, by=", ".join(map(short_name, growth)), why="; ".join(dict.fromkeys(refused)))
                state.keep(kept)
                records.append(kept)
        # A removal alone also measures what the pruner might have kept in the place of what it kept.
        elif step.prune:
            why = _why(state, step, during, pruned=True, grown=False)
            made = changer.remove(
                state, gone, by=pruner.name, why=why, seed=seed, evidence=evidence, scores=scores, fold=step.fold
            )
            records.append(made)
        if step.derive and not state.network.structure.decided:
            mixing = mixing_weights(state.network)
            # a pruner may leave several candidates at a site, or more edges than an architecture has
            rest = state.network.backbone.derive(state.network.structure, mixing)
            seed, why = self.change_seed(state), "what the pruner left undecided"
            records.append(changer.remove(state, rest, by="derive", why=why, seed=seed, fold=step.fold))
        if step.restart:
            records += self._restart(state)
            # what remains if the first epoch of the training that follows diverges
            shot = snapshot(state.network, changer.loss(state.network))
        if state.network.structure.decided and state.best is not None and not state.best.structure.decided:
            # the loss of a supernet says nothing about its architecture: from here on architectures are compared
            state.best = None
        # a change that found nothing to do has no record that would drop what was measured for it
        state.measured = {}
        if during:
            state.due, state.sizing = state.due - 1, True
        else:
            self._leave(state) if missed else self._next(state)
            # after the next step was entered, which begins without a fallback
            state.fallback = shot
        yield from records

    def _restore(self, state: State) -> Record:
        if state.best is None:
            state.best = self._present(state)
        which = "the last network" if state.best.valid is None else "the best network"
        loss = "" if state.best.valid is None else f", with a validation loss of {state.best.valid:.6g}"
        # the paper's Algorithm 2, line 19, prunes the best structure with the last weights; here it has the weights it was
        # best with
        record = self._at(state).restore(state, state.best, kind="restore", why=which + loss)
        if not state.network.structure.decided:
            # the loss of a supernet says nothing about its architecture: from here on tuned architectures are compared
            state.best = None
        self._next(state)
        return record

    def _restart(self, state: State) -> list[Record]:
        """Begin the tuning with fresh weights where those that the pruning left are worse.

        The weights of a supernet were trained for a mixture, and may suit none of its architectures: then it takes the
        tuning longer to undo them than to begin anew.
        """
        changer = self._at(state)
        left = changer.loss(state.network)
        seed = self.change_seed(state)
        fresh = build(state.network.structure, seed, like=state.network)
        with torch.no_grad():  # only the weights begin anew: what the alphas have learned is not in question
            for (_, new), (_, old) in zip(alphas_of(fresh), alphas_of(state.network), strict=True):
                new.copy_(old)
        loss = changer.loss(fresh)
        if loss is None or (left is not None and left <= loss):
            return []
        shown = "not finite" if left is None else f"{left:.6g}"
        why = f"the weights that the pruning left have a validation loss that is {shown}, fresh ones {loss:.6g}"
        return [changer.restore(state, snapshot(fresh, loss), kind="restart", why=why)]

    def _move(self, state: State, step: Move) -> Record:
        structure = state.network.structure.with_backbone(step.backbone, self.data.sizes)
        network = build(structure, self.change_seed(state), like=state.network)
        record = self._at(state).restore(
            state, snapshot(network, None), kind="move", why="the plan goes on in another backbone"
        )
        # networks in two backbones are not compared
        state.best = None
        self._next(state)
        return record

    def _fold(self, state: State) -> Iterator[Record]:
        records = []
        if any(True for _ in state.network.gates()):
            why = "gates are folded where they can be"
            records.append(self._at(state).fold(state, why=why, seed=self.change_seed(state)))
        self._next(state)
        yield from records

    # trials

    def _trials(self, state: State, step: Trials) -> Iterator[Record]:
        """Evaluate what the architect proposes, and put the network of the best trial in the present one's place."""
        architect, options = step.architect or self.strategy.ask_tell, ("evaluator", "in_flight")
        assert architect is not None  # a plan in which trials have no architect is refused
        strategy = attrs.evolve(self.sized(state), **{k: v for k in options if (v := getattr(step, k)) is not None})
        runner = TrialRunner(
            architect=architect,
            strategy=strategy,
            data=self.data,
            # follows from the network, which is the same until the step ends: a resumed step has the same space
            space=self.space(state, inherit=step.inherit),
            state=state,
            seed=self.change_seed(state),
            inherit=step.inherit,
            workers=self.workers,
            clock=self.clock,
        )
        yield from runner.run()
        try:
            best = runner.best()
        except NonFiniteError as error:
            # as after a phase that diverged: what an earlier step found is not lost
            if state.best is None or not state.best.structure.decided:
                raise
            record = self._at(state).restore(state, state.best, kind="restore", why=f"{error}; the best network is restored")
            state.asking = None
            self._next(state)
            yield record
            return
        structure, weights = runner.space.architecture(best.picks), runner.trials.weights.get(best.number)
        if weights is None:  # its outcome was looked up, and that is not the loss of fresh weights
            shot = snapshot(placed(self.strategy, build(structure, self.seed("initial"))), None)
        else:
            shot = Snapshot(structure, weights.tensors, best.valid)
        why = f"trial {best.number} has the least validation loss, {best.valid:.6g}, of those with budget {best.budget}"
        record = self._at(state).restore(state, shot, kind="trial", why=why)
        if state.best is None or not state.best.structure.decided or better(shot.valid, state.best):
            # the loss of a supernet says nothing about its architectures
            state.best = shot
        state.asking = None
        self._next(state)
        yield record


def _holds(network: Network, shot: Snapshot) -> bool:
    """Return whether a network has the tensors of a snapshot of its structure."""
    return all(torch.equal(tensor, shot.tensors[name]) for name, tensor in tensors(network).items())


def grown_by(record: Changed) -> list[str]:
    """Return the morphisms that grew the network in a change."""
    if record.change == "edit":
        return [added["by"] for added in record.request["added"]]
    return [record.by] if record.change == "grow" else []


def _why(state: State, step: Change, during: bool, *, pruned: bool, grown: bool) -> str:
    """Return the reason of a change of the plan."""
    if step.derive:
        return "pruned to an architecture"
    done = " and ".join(word for word, does in (("pruned", pruned), ("grown", grown), ("reset", step.reset)) if does)
    trained = next((r.phase for r in reversed(state.history) if isinstance(r, EpochEnded)), None)
    where = "" if trained is None else f" {'within' if during else 'after'} phase {trained!r} of stage {state.stage}"
    return f"{done}{where}"


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
