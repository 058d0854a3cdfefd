"""The state of a run: all that the next step needs, and nothing that follows from the strategy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.map import Map
from nasframe.change.optimisers import carry, named_state
from nasframe.errors import CheckpointError, StrategyError, StructureError
from nasframe.interfaces.task import Data
from nasframe.network.network import Network, build, tensors
from nasframe.plugins import Plugins
from nasframe.records import Changed, EpochEnded, Evaluated, Record, Refused, StageEnded, Started, TrialEnded
from nasframe.search.memory import check_memory
from nasframe.search.optimiser import Optimiser
from nasframe.search.plan import Position, Repeat, Step, Train, Trials, at, decides_surely, enter, walk
from nasframe.search.strategy import Strategy
from nasframe.search.trainer import Trainer, Training, alphas_of, weights_of
from nasframe.search.trial_state import TrialState
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

#: the parameters that each optimiser moves
GROUPS = {"weights": weights_of, "alphas": alphas_of}


@attrs.frozen(eq=False)
class Snapshot:
    """A network as it was at the end of an epoch.

    Attributes:
        structure: its structure.
        tensors: a copy of its parameters and buffers.
        valid: its validation loss; None if there is no validation split or the network diverged.
    """

    structure: Structure
    tensors: Mapping[str, Tensor]
    valid: float | None


@attrs.define
class State(Training[Network]):
    """The state of a run (`nasframe.search.loop` explains the phases).

    Attributes:
        place: the position in the plan.
        phase: the name of the phase that trains, or of another step.
        turns: for each repeat around the position, the outer ones first, the length of the lineage when its present turn began.
        due: the number of changes that the phase still makes before it trains on.
        sizing: whether the batch size is decided before the phase trains on.
        batch_readings: what the present batch size was decided by.
        best: the best network among those that are compared with each other.
        fallback: the best network of this phase, to return to if the training diverges.
        winner: the best network of the comparison, which the run hands over.
        stopping: why the search ends with this stage, if a criterion decided so within it.
        diverged: whether no training of the final architecture had a finite validation loss.
        memory: the states of the criteria, JSON values: that of the "strategy", and those of steps that have their own.
        asking: what a step of trials has in flight; None outside of such a step.
        history: the records of epochs, stages and refused growths.
        lineage: the record of the first structure and those of all changes.
        trials: the records of the trials of all steps.
        evaluations: the records of the comparison.
        evidence: the tensors that changes were decided by: "<position in the lineage>/<name>".
        measured: the values that were measured for the decision that is being made, by part and by key.
    """

    place: Position
    turns: list[int] = attrs.field(factory=list)
    phase: str = "search"
    due: int = 0
    sizing: bool = False
    batch_readings: Mapping[str, float | None] = attrs.field(factory=dict)
    best: Snapshot | None = None
    fallback: Snapshot | None = None
    winner: Snapshot | None = None
    stopping: str | None = None
    diverged: bool = False
    memory: dict[str, Any] = attrs.field(factory=dict)
    asking: TrialState | None = None
    history: list[EpochEnded | StageEnded | Refused] = attrs.field(factory=list)
    lineage: list[Started | Changed] = attrs.field(factory=list)
    trials: list[TrialEnded] = attrs.field(factory=list)
    evaluations: list[Evaluated] = attrs.field(factory=list)
    evidence: dict[str, Tensor] = attrs.field(factory=dict)
    measured: dict[str, dict[str, Tensor]] = attrs.field(factory=dict)

    @property
    def position(self) -> dict[str, Any]:
        """Return the fields by which a record says where the run is."""
        return {"stage": self.stage, "phase": self.phase, "epoch": self.epoch, "updates": self.updates}

    def enter(self, phase: str) -> None:
        """Set the counters to the beginning of a phase, which has no fallback yet."""
        self.phase, self.due, self.sizing = phase, 0, True
        self.epoch, self.samples, self.loss, self.fallback = 0, 0, 0.0, None

    def over(self, repeat: Repeat, turns: int) -> bool:
        """Return whether a repeat is over after so many turns."""
        if repeat.until == "decided":
            return self.network.structure.decided
        # A "stop" ends every later repeat as well, but after one turn: its steps are carried out once.
        stopped = turns > 0 and self.stopping is not None
        return stopped or (repeat.times is not None and turns >= repeat.times)

    def keep(self, record: Record) -> None:
        """Append a record to the journal of its kind, and drop what was measured for the decision that it is about."""
        assert record.journal is not None
        self.measured = {}
        getattr(self, record.journal).append(record)


def trainer(strategy: Strategy, data: Data, step: Step | None = None) -> Trainer:
    """Return the trainer at a step of the plan: a phase may have its own optimiser and its own number of epochs."""
    optimiser = _optimiser(strategy, step)
    if isinstance(step, Train) and step.epochs is not None:
        optimiser = attrs.evolve(optimiser, epochs=step.epochs)
    return Trainer(data, strategy.gradient_architect, optimiser, strategy.device)


def _optimiser(strategy: Strategy, step: Step | None) -> Optimiser:
    return step.optimiser if isinstance(step, Train) and step.optimiser is not None else strategy.optimiser


def go(state: State, strategy: Strategy, data: Data, place: Position) -> None:
    """Enter the step at a position in the plan: set the phase, its counters, the stage and the turns of repeats."""
    # before anything is written, as it may refuse the next turn
    _check_turns(state, strategy, place)
    before, step = at(strategy.plan, state.place), at(strategy.plan, place)
    if _optimiser(strategy, before) != _optimiser(strategy, step):
        # the moments of another optimiser mean something else
        state.optimisers = trainer(strategy, data, step).optimisers(state.network)
    phase = "done" if step is None else step.phase if isinstance(step, Train) else step.name
    if isinstance(step, Train | Trials):
        # a stage and a phase name an epoch, or a trial, together with its number: a phase that begins again is one of the next stage
        epochs = {(r.stage, r.phase) for r in state.history if isinstance(r, EpochEnded)}
        state.stage += (state.stage, phase) in epochs | {(r.stage, r.phase) for r in state.trials}
    state.enter(phase)
    # A repeat at a level is around both positions in the same turn if they agree up to its turn; else a turn begins here.
    kept = [place[: 2 * level + 2] == state.place[: 2 * level + 2] for level in range(len(place) // 2)]
    state.turns = [state.turns[level] if same else len(state.lineage) for level, same in enumerate(kept)]
    state.place = place


def _check_turns(state: State, strategy: Strategy, place: Position) -> None:
    """Refuse another turn of a repeat until "decided" if the present turn leaves every candidate that it began with.

    Raises:
        StrategyError: if the repeat would never end.
    """
    for level, began in enumerate(state.turns):
        # The first 2 * level + 1 numbers of a position are that of the repeat, and the one after them is its turn.
        outer = 2 * level + 1
        repeat = at(strategy.plan, state.place[:outer])
        again = place[:outer] == state.place[:outer] and place[outer] != state.place[outer]
        if again and isinstance(repeat, Repeat) and repeat.until == "decided":
            gone = set[str]()
            for record in state.lineage[began:]:
                if isinstance(record, Changed):
                    gone |= {id for ids in record.removed.values() for id in ids}
                    # a return to an earlier network brings back what was removed
                    gone -= {id for ids in record.added.values() for id in ids}
            if not gone:
                raise StrategyError(
                    f'turn {state.place[outer]} of a repeat until "decided" removed no candidate, so that the repeat would never '
                    f"end: {several(state.network.structure)}. Use a pruner that removes more, give the change derive = true, which "
                    "decides what the pruner leaves, or write until = 'times'"
                )


def several(structure: Structure) -> str:
    """Return a clause that says which sites have several candidates, the first ones by their address."""
    undecided = [address for address, site in structure.sites() if not site.decided]
    rest = f" and {len(undecided) - 3} more" if len(undecided) > 3 else ""
    many = len(undecided) != 1
    return f"{', '.join(undecided[:3])}{rest} {'have' if many else 'has'} several candidates{' each' if many else ''}"


def check_decided(structure: Structure, left: Sequence[Step]) -> None:
    """Refuse the rest of a plan that may end with several candidates at a site.

    Args:
        structure: the present structure.
        left: the steps that are left.

    Raises:
        StrategyError: if no step is sure to decide.
    """
    if not structure.decided and not any(map(decides_surely, left)):
        raise StrategyError(
            f"{several(structure)}, and no step of the plan from here on is sure to decide them: a pruner may leave several. Give a "
            "change derive = true, which decides what the pruner leaves, or repeat until = 'decided'; to train an architecture, use "
            "nasframe retrain"
        )


def initial(strategy: Strategy, data: Data) -> State:
    """Return the state before the first step of a search."""
    structure = strategy.backbone.initial(data.sizes, strategy.nodes)
    first = next(step for step in walk(strategy.plan) if not isinstance(step, Repeat))
    if isinstance(first, Trials):
        # a supernet that is never trained need not be built, and may be too large: the network is the architecture of the first picks
        space = strategy.backbone.space(structure)
        structure = space.architecture([0] * len(space.decisions))
    return _beginning(strategy, data, structure)


def retraining(strategy: Strategy, structure: Structure, data: Data) -> State:
    """Return the state before the cells of an architecture are trained from scratch in the strategy's backbone."""
    moved = structure.with_backbone(strategy.backbone, data.sizes)
    if not moved.decided:
        raise StructureError(f"{several(moved)}; give an architecture, as the end of a search writes it")
    return _beginning(strategy, data, moved)


def _beginning(strategy: Strategy, data: Data, structure: Structure) -> State:
    check_memory(structure, strategy)
    # The initial weights depend on the seed alone: all searches of one seed and structure begin with the same.
    network = placed(strategy, build(structure, Seed((strategy.seed, "initial")), relaxation=strategy.relaxation))
    # 0 if a rule decides it before the first step
    batch = strategy.batch if isinstance(strategy.batch, int) else 0
    # From behind the last step, so that `go` enters the first one as it enters any other.
    state = State(network, trainer(strategy, data).optimisers(network), batch=batch, place=(len(strategy.plan),))
    go(state, strategy, data, enter(strategy.plan, (0,), state.over))
    state.keep(Started(**state.position, structure=structure.to_dict()))
    return state


def placed(strategy: Strategy, network: Network) -> Network:
    """Return the network on the strategy's device, in its dtype and form."""
    network.fast = strategy.fast
    return network.to(device=strategy.device, dtype=strategy.torch_dtype)


def rebuilt(strategy: Strategy, snapshot: Snapshot) -> Network:
    """Return the network of a snapshot."""
    # building draws initial weights, which `fill` overwrites: the seed has no influence
    network = placed(strategy, build(snapshot.structure, Seed((0, "overwritten")), relaxation=strategy.relaxation))
    fill(network, snapshot.tensors)
    return network


def snapshot(network: Network, valid: float | None) -> Snapshot:
    """Return a snapshot of the network, which has this validation loss."""
    return Snapshot(network.structure, copied(network), valid)


def copied(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer, by name."""
    return {name: tensor.detach().clone() for name, tensor in tensors(network).items()}


def fill(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write every parameter and buffer of a network.

    Raises:
        CheckpointError: if names, shapes or dtypes differ.
    """
    # everything is checked before the first tensor is written, so that a refused file changes nothing
    present = tensors(network)
    if present.keys() != values.keys():
        raise CheckpointError(
            f"the tensors do not fit the structure: missing {sorted(present.keys() - values.keys())}, "
            f"unexpected {sorted(values.keys() - present.keys())}"
        )
    wrong = [n for n, t in present.items() if t.shape != values[n].shape or t.dtype != values[n].dtype]
    if wrong:
        raise CheckpointError(
            "tensors of another shape or dtype than the structure has: "
            + ", ".join(f"{n} is {tuple(values[n].shape)} {values[n].dtype}" for n in wrong)
        )
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(values[name])


def succeed(state: State, fresh: Trainer, child: Network, full: Map) -> None:
    """Put the child in its parent's place; its optimisers follow through the map of the change."""
    # built completely before the state is written: `carry` may refuse
    new = fresh.optimisers(child)
    for group, named in GROUPS.items():
        carry(state.optimisers[group], named(state.network), new[group], named(child), full)
    state.network, state.optimisers = child, new


#: the attributes of the state that are JSON values and small
# Whatever else the state has is written by name in `dump` and read by name in `load`.
_PLAIN = (
    *("stage", "place", "turns", "phase", "due", "sizing", "batch", "batch_readings", "epoch", "samples", "updates", "loss"),
    *("stopping", "diverged", "memory"),
)
_SNAPSHOTS = ("best", "fallback", "winner")


def dump(state: State) -> tuple[str, dict[str, Tensor]]:
    """Return the state as JSON and tensors, from which `load` makes an equal one with the journals, the evidence and `trial_weights`."""
    # The path of a tensor ends with the name of its parameter, because that of an alpha contains a slash.
    flat = _prefixed("network", copied(state.network))
    for group, named in GROUPS.items():
        for name, entries in named_state(state.optimisers[group], named(state.network)).items():
            flat |= {f"{group}/{k}/{name}": torch.as_tensor(v).detach().clone() for k, v in entries.items() if v is not None}
    for by, values in state.measured.items():
        flat |= _prefixed(f"measured/{by}", values)
    kept: dict[str, Any] = {}
    for name in _SNAPSHOTS:
        shot: Snapshot | None = getattr(state, name)
        # the best network of the run is often that of the phase, too: it is written once
        # By identity. The names are in the order of the alphabet, so that `n < name` are those that `load` has read before.
        twin = next((n for n in _SNAPSHOTS if n < name and shot is not None and getattr(state, n) is shot), None)
        kept[name] = twin or (shot and {"structure": shot.structure.to_dict(), "valid": shot.valid})
        if shot is not None and twin is None:
            flat |= _prefixed(name, shot.tensors)
    asking, trials = (None, {}) if state.asking is None else state.asking.dump()
    flat |= _prefixed("asking", trials)
    plain = {k: getattr(state, k) for k in _PLAIN} | {
        "asking": asking,
        "structure": state.network.structure.to_dict(),
        "training": state.network.training,
        "snapshots": kept,
    }
    # clones, because safetensors refuses tensors that share memory
    return json.dumps(plain, allow_nan=False), {k: v.contiguous().clone() for k, v in flat.items()}


def trial_weights(state: State) -> dict[str, Mapping[str, Tensor]]:
    """Return the weights of the trials that the state has, by their digest."""
    return {} if state.asking is None else {each.digest: each.tensors for each in state.asking.weights.values()}


def load(
    text: str,
    flat: Mapping[str, Tensor],
    journals: Mapping[str, Sequence[Record]],
    evidence: Mapping[str, Tensor],
    weights: Mapping[str, Mapping[str, Tensor]],
    *,
    strategy: Strategy,
    data: Data,
    plugins: Plugins,
) -> State:
    """Return the state that `dump` wrote.

    Args:
        text: its JSON.
        flat: its tensors.
        journals: the records of each journal.
        evidence: the evidence of the lineage (`State.evidence`).
        weights: what `trial_weights` returned.
        strategy: the strategy of the run.
        data: the data of its task.
        plugins: where the parts of its structures are found.
    """
    plain = json.loads(text)
    # JSON has no tuples, and positions are compared
    plain["place"] = tuple(plain["place"])
    network = rebuilt(strategy, Snapshot(Structure.from_dict(plain["structure"], plugins.make), _under("network", flat), None))
    network.train(plain["training"])
    # Fresh optimisers, whose moments are filled. Their settings follow from the strategy and the position, and are not
    # stored.
    optimisers = trainer(strategy, data, at(strategy.plan, plain["place"])).optimisers(network)
    for group, named in GROUPS.items():
        parameters = dict(named(network))
        for path, value in _under(group, flat).items():
            # the key first, as the name may have slashes and the key has none
            key, name = path.split("/", 1)
            optimisers[group].state[parameters[name]][key] = _placed(key, value, parameters[name])
    shots: dict[str, Any] = {}
    for name in _SNAPSHOTS:
        kept = plain["snapshots"][name]
        # a text is the name of an earlier snapshot, which is the same one
        if kept is None or isinstance(kept, str):
            shots[name] = shots[kept] if kept else None
        else:
            values = {k: v.to(strategy.device) for k, v in _under(name, flat).items()}
            shots[name] = Snapshot(Structure.from_dict(kept["structure"], plugins.make), values, kept["valid"])
    measured: dict[str, dict[str, Tensor]] = {}
    for path, value in _under("measured", flat).items():
        by, key = path.split("/", 1)
        measured.setdefault(by, {})[key] = value
    asking = plain["asking"] and TrialState.load(plain["asking"], _under("asking", flat), weights, strategy.device)
    lists: dict[str, Any] = {name: [*records] for name, records in journals.items()}
    plain_fields = {k: plain[k] for k in _PLAIN}
    return State(
        network, optimisers, asking=asking, evidence=dict(evidence), measured=measured, **plain_fields, **shots, **lists
    )


def _placed(key: str, value: Tensor, parameter: nn.Parameter) -> Tensor:
    # torch counts an optimiser's steps on the CPU, wherever the parameter is. Copies, because it writes into a state in place.
    return value.clone() if key == "step" else value.to(parameter.device, copy=True)


def _prefixed(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in values.items()}


def _under(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}/"): v for k, v in values.items() if k.startswith(f"{prefix}/")}
