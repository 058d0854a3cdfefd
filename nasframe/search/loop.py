"""The search as Algorithm 2 of Jie & Gao 2021, entered wherever the counters of its state stand.

A stage goes through phases: "search" (weights and alphas); where pruning is done at each stage "prune" and "tune" (weights
alone); "judge", which grows the network into the next stage or ends the search. Then "finish" takes the best network with
its own weights and, where it is not yet an architecture, prunes it for "retune"; "fold" folds the gates; and it is "done".
Every decision reads the validation split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.change.apply import Change, fold_gates, remove_candidates
from nasframe.errors import ChangeError, NonFiniteError, StructureError
from nasframe.interfaces.criterion import Decision
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import label
from nasframe.interfaces.task import Data
from nasframe.network.network import Network, advance
from nasframe.search.batches import batches
from nasframe.search.bilevel import Batch, Forward, alternating_step, problem, weights_step
from nasframe.search.records import Changed, EpochEnded, Event, Finished, StageEnded, Stepped
from nasframe.search.state import Best, State, optimisers, rebuilt, snapshot, weights_of
from nasframe.search.strategy import Strategy
from nasframe.search.transact import mixing_weights, restore, sizes, transact
from nasframe.seeds import Seed

#: what follows a phase of training
AFTER = {"tune": "judge", "retune": "fold"}


@attrs.frozen(eq=False)
class Loop:
    """A strategy on its data. The clock is read only for a criterion that declares it."""

    strategy: Strategy
    data: Data
    clock: Callable[[], float] = time.monotonic

    def run(self, state: State) -> Iterator[Event]:
        """Move the state to the end of the search, and yield after each thing done (Algorithm 2)."""
        started = self._started(state)
        while state.phase != "done":
            match state.phase:
                case "search" | "tune" | "retune":  # lines 4 and 7
                    yield from self._train(state, started)
                case "prune":  # line 6
                    yield self._prune(state)
                case "judge":  # lines 9 to 16
                    yield from self._judge(state)
                case "finish":  # line 19, from the best network's own weights
                    yield from self._finish(state)
                case "fold":
                    yield from self._fold(state)
        assert state.best is not None  # the search came through "finish"
        yield Finished(*_position(state), valid=state.best.valid)

    def _started(self, state: State) -> float | None:
        if "clock" not in self.strategy.criterion.reads:
            return None
        return self.clock() - max((r["seconds"] for r in state.history if "seconds" in r), default=0.0)

    def seed(self, *purpose: int | str) -> Seed:
        """The seed of a purpose in this run."""
        return Seed((self.strategy.seed, *purpose))

    def _rule(self, network: Network) -> Mapping[str, Tensor]:
        return mixing_weights(self.strategy.architect, network)

    # training

    def _train(self, state: State, started: float | None) -> Iterator[Event]:
        phase, size = state.phase, self.data.train.size
        while state.phase == phase:
            order = _shuffled(self.seed("order", state.stage, phase, state.epoch), size)
            for index in batches(order[state.samples :], self.strategy.batch):
                loss = self._step(state, index)
                yield Stepped(*_position(state), samples=state.samples, size=size, loss=loss)
            yield self._end_epoch(state, started)

    def _step(self, state: State, index: Tensor) -> float:
        network, strategy = state.network.train(), self.strategy
        advance(network, strategy.optimiser.progress(state.epoch))
        strategy.optimiser.anneal(state.optimisers["weights"], state.epoch)
        seed = self.seed("step", state.stage, state.phase, state.epoch, state.samples)
        with seed.as_global(strategy.device):
            train = partial(self._loss, self.data.train.draw(index), seed("train"))

            def own() -> Tensor:
                return train(network, self._rule(network))

            if state.phase == "search":
                held_out = self.data.validation.draw(self._validation_index(state))
                valid = partial(self._loss, held_out, seed("valid"))
                loss = alternating_step(problem(state, strategy, train, valid), strategy.architect, state.optimisers, own)
            else:
                loss = weights_step(dict(weights_of(network)), state.optimisers["weights"], own)
        value = _finite(float(loss), "training loss", state)
        state.loss += value * len(index)
        state.samples += len(index)
        state.updates += 1
        return value

    def _validation_index(self, state: State) -> Tensor:
        size = self.data.validation.size
        order = _shuffled(self.seed("validation order", state.stage, state.phase, state.epoch), size)
        return order[(state.samples + torch.arange(min(self.strategy.batch, size))) % size]

    def _loss(self, batch: Batch, noise: Seed, forward: Forward, weights: Mapping[str, Tensor]) -> Tensor:
        inputs, targets = batch
        with noise.as_global(
            self.strategy.device
        ):  # the same at every call: a difference of two losses is not that of two masks
            return self.data.objective(forward(inputs, weights), targets)

    def _end_epoch(self, state: State, started: float | None) -> Event:
        network, weights = state.network.eval(), self._rule(state.network)
        record = {"kind": "epoch", **attrs.asdict(Event(*_position(state))), "train": state.loss / state.samples}
        valid = None
        if self.data.validation.size:
            valid, scores = self.data.measure(lambda inputs: network(inputs, weights), self.data.validation)
            record |= {"valid": _finite(valid, "validation loss", state), "scores": scores}
        record |= sizes(state.network)
        if weights:
            record["mixing"] = shares(state.network, weights)
        if started is not None:
            record["seconds"] = self.clock() - started
        if state.phase in (self._counted, "retune") and better(valid, state.best):
            state.best = Best(state.network.structure, snapshot(state.network), valid)
        memory, decision = self._decide(state, record, [])
        if decision.action not in ("grow", "stop") and state.epoch + 1 == self.strategy.optimiser.epochs:
            decision = Decision("grow", f"the learning rate has come to its end after {state.epoch + 1} epochs")
            record |= {"decision": decision.action, "reason": decision.reason}
        _note(state, memory, record)
        event = EpochEnded(*_position(state), record=record)
        state.epoch, state.samples, state.loss = state.epoch + 1, 0, 0.0
        if decision.action == "stop":
            state.stopping = decision.reason
        if decision.action in ("grow", "stop"):
            after = AFTER.get(state.phase, "prune" if self.strategy.prune == "stage" else "judge")
            _enter(state, after)
        return event

    @property
    def _counted(self) -> str:
        # like is compared with like: pruned and tuned networks with each other, or supernets with each other
        return "tune" if self.strategy.prune == "stage" else "search"

    def _decide(self, state: State, record: dict[str, Any], proposals: list[Proposal]) -> tuple[Any, Decision]:
        memory, decision = self.strategy.criterion.decide(state.memory, [*state.history, record], proposals)
        if decision.action not in ("wait", "abstain"):
            record |= {"decision": decision.action, "reason": decision.reason}
        return memory, decision

    # changes

    def _judge(self, state: State) -> Iterator[Event]:
        judged = [r["valid"] for r in state.history if r.get("phase") == self._counted and r["stage"] == state.stage]
        record = {
            "kind": "stage",
            "stage": state.stage,
            "updates": state.updates,
            "valid": min(judged),
            **sizes(state.network),
        }
        proposals, refused = self._proposals(state.network)
        memory, decision = self._decide(state, record, [p for _, p in proposals])
        if state.stopping is not None:
            decision = Decision("stop", state.stopping)
        elif not proposals:
            asked = "no morphism proposes a change" if self.strategy.growth else "nothing is to grow"
            decision = Decision("stop", "; ".join([asked, *refused]))
        elif decision.action not in ("grow", "stop"):
            ended = next(r["reason"] for r in reversed(state.history) if r.get("decision") == "grow")  # the phase before
            decision = Decision("grow", f"{ended}, and no criterion says stop")
        record |= {"decision": decision.action, "reason": decision.reason}
        events: list[Event] = [StageEnded(*_position(state), record=record)]
        if decision.action == "stop":
            _enter(state, "finish")
        else:
            events.append(self._grow(state, *_chosen(proposals, decision.what), decision.reason))
        _note(state, memory, record)  # a growth that is refused leaves no record of the stage behind
        yield from events

    def _proposals(self, network: Network) -> tuple[list[tuple[Morphism, Proposal]], list[str]]:
        """What the morphisms propose, and why those do not that cannot: what could grow at first may have come to its end."""
        proposals, refused = [], []
        for morphism in self.strategy.growth:
            try:
                proposals += [(morphism, proposal) for proposal in morphism.propose(network)]
            except (ChangeError, StructureError) as error:
                refused.append(f"{morphism.name}: {error}")
        return proposals, refused

    def _grow(self, state: State, morphism: Morphism, proposal: Proposal, reason: str) -> Event:
        seed = self.seed("grow", state.stage)
        change = morphism.change(state.network, proposal.request, proposal.evidence, seed)
        event = self._transact(state, change, "grow", morphism.name, seed, reason)
        _enter(state, "search")
        return event

    def _prune(self, state: State) -> Event:
        seed = self.seed("prune", state.stage)
        gone = self.strategy.pruner.remove(state.network.structure, self._rule(state.network))
        event = self._remove(state, gone, self.strategy.pruner.name, seed, "pruned after the stage")
        _enter(state, "tune")
        return event

    def _finish(self, state: State) -> Iterator[Event]:
        assert state.best is not None  # every stage that is judged has been validated
        events: list[Event] = [Changed(*_position(state), record=restore(state, self.strategy, state.best))]
        if state.network.structure.decided:
            _enter(state, "fold")
        else:
            events += self._derive(state)
            state.best = None
            _enter(state, "retune")
        yield from events

    def _derive(self, state: State) -> Iterator[Event]:
        pruner, backbone, seed = self.strategy.pruner, self.strategy.backbone, self.seed("derive")
        gone = pruner.remove(state.network.structure, self._rule(state.network))
        yield self._remove(state, gone, pruner.name, seed("prune"), "pruned at the end")
        if not state.network.structure.decided:
            rest = backbone.derive(state.network.structure, self._rule(state.network))
            yield self._remove(state, rest, "derive", seed("rest"), "what the pruner left undecided")

    def _fold(self, state: State) -> Iterator[Event]:
        assert state.best is not None
        state.network = rebuilt(self.strategy, state.best.structure, state.best.tensors)
        state.optimisers = optimisers(self.strategy, state.network, state.stage)
        events = []
        if any(True for _ in state.network.gates()):
            seed = self.seed("fold")
            change = fold_gates(state.network, seed)
            events.append(self._transact(state, change, "fold", "fold", seed, "gates are folded where they can be"))
        _enter(state, "done")
        yield from events

    def _remove(self, state: State, gone: Mapping[str, Set[int]], name: str, seed: Seed, why: str) -> Event:
        return self._transact(state, remove_candidates(state.network, gone, seed), "remove", name, seed, why)

    def _transact(self, state: State, change: Change, kind: str, name: str, seed: Seed, why: str) -> Event:
        record = transact(state, self.strategy, self.data, change, kind, name, seed, why)
        return Changed(*_position(state), record=record)


def shares(network: Network, weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """The weights of each undecided site, by its candidates' ids and how these are called."""
    sites = dict(network.structure.sites())
    return {
        address: {
            f"{c.id} {label(c.operation)}": share for c, share in zip(sites[address].candidates, weight.tolist(), strict=True)
        }
        for address, weight in weights.items()
    }


def better(valid: float | None, best: Best | None) -> bool:
    """Whether a network with that validation loss takes the best one's place; where nothing is validated, the last one does."""
    return best is None or best.valid is None or valid is None or valid < best.valid


def _position(state: State) -> tuple[int, str, int, int]:
    return state.stage, state.phase, state.epoch, state.updates


def _note(state: State, memory: Any, record: dict[str, Any]) -> None:
    state.memory, state.history = memory, [*state.history, record]


def _enter(state: State, phase: str) -> None:
    state.phase, state.epoch, state.samples, state.loss = phase, 0, 0, 0.0


def _shuffled(seed: Seed, size: int) -> Tensor:
    return torch.randperm(size, generator=seed.generator())


def _chosen(proposals: list[tuple[Morphism, Proposal]], what: int | None) -> tuple[Morphism, Proposal]:
    return proposals[what] if what is not None else max(proposals, key=lambda mp: mp[1].gain)


def _finite(value: float, what: str, state: State) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the {what} is {value} in stage {state.stage}, phase {state.phase}, epoch {state.epoch}, after "
            f"{state.updates} updates: lower the learning rate, or leave out the operation that diverges"
        )
    return value
