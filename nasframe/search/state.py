"""The one state of a search: what it was when the last event was yielded, and all that the next step needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe.change.map import Map
from nasframe.change.optimisers import carry, named_state
from nasframe.errors import CheckpointError, StructureError
from nasframe.network.network import Network, build, tensors
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure


@attrs.frozen(eq=False)
class Best:
    """The best network so far with its own weights: a pruning at the end starts from these, not from the last ones.

    `valid` is its validation loss; None where there is no validation part, and the last network counts.
    """

    structure: Structure
    tensors: Mapping[str, Tensor]
    valid: float | None


@attrs.define
class State:
    """Counters, network, optimisers, the best network, history and lineage.

    Args:
        stage: how many growths there have been.
        phase: where in the stage the search stands (see search/loop.py).
        epoch: of this phase.
        samples: of this epoch.
        updates: of the weights, in the whole search.
        loss: the sum of the training losses of this epoch's examples so far.
        stopping: why the search is to end with this stage, if a criterion said so in the midst of it.
        memory: the criterion's state, in JSON's values.
        history, lineage: the records of metrics and of changes, in JSON's values.
        evidence: the tensors that changes were made by: "<position in the lineage>/<name>".
    """

    network: Network
    optimisers: dict[str, Optimizer]
    best: Best | None = None
    stage: int = 0
    phase: str = "search"
    epoch: int = 0
    samples: int = 0
    updates: int = 0
    loss: float = 0.0
    stopping: str | None = None
    memory: Any = None
    history: list[dict[str, Any]] = attrs.field(factory=list)
    lineage: list[dict[str, Any]] = attrs.field(factory=list)
    evidence: dict[str, Tensor] = attrs.field(factory=dict)


def weights_of(network: Network) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the weights' optimiser moves, by name."""
    return [(n, p) for n, p in network.named_parameters() if not n.startswith("alphas.")]


def alphas_of(network: Network) -> list[tuple[str, nn.Parameter]]:
    """The parameters that the architect moves, by name."""
    return [(n, p) for n, p in network.named_parameters() if n.startswith("alphas.")]


GROUPS = {"weights": weights_of, "alphas": alphas_of}


def optimisers(strategy: Strategy, network: Network, stage: int) -> dict[str, Optimizer]:
    """Fresh optimisers. Their settings follow from the strategy and the stage, so only their tensors are state."""
    return {
        "weights": strategy.optimiser.build(weights_of(network)),
        "alphas": strategy.architect.build_optimiser(alphas_of(network), stage),
    }


def succeed(state: State, strategy: Strategy, child: Network, full: Map) -> None:
    """Put the child in its parent's place; its optimisers take over what the map says."""
    new = optimisers(strategy, child, state.stage)
    for group, named in GROUPS.items():
        carry(state.optimisers[group], named(state.network), new[group], named(child), full)
    state.network, state.optimisers = child, new


def initial(strategy: Strategy, sizes: Mapping[str, int]) -> State:
    """The state before the first step."""
    structure = strategy.backbone.initial(sizes, strategy.nodes)
    network = _placed_as(strategy, build(structure, Seed((strategy.seed, "initial"))))
    return State(network, optimisers(strategy, network, 0))


def retraining(strategy: Strategy, structure: Structure, sizes: Mapping[str, int]) -> State:
    """The state in which the cells of an architecture, in the strategy's own backbone, are to be trained from the beginning."""
    moved = structure.within(strategy.backbone, sizes)
    if not moved.decided:
        several = ", ".join(a for a, s in moved.sites() if not s.decided)
        raise StructureError(f"{several} have several candidates each; give an architecture, as the end of a search writes it")
    network = _placed_as(strategy, build(moved, Seed((strategy.seed, "initial"))))
    return State(network, optimisers(strategy, network, 0), phase="retune")


def rebuilt(strategy: Strategy, structure: Structure, values: Mapping[str, Tensor]) -> Network:
    """The network of a structure with these values of all its tensors."""
    network = _placed_as(strategy, build(structure, Seed((0, "overwritten"))))
    fill(network, values)
    return network


def fill(network: Network, values: Mapping[str, Tensor]) -> None:
    """Write every tensor of the network, names and shapes checked first."""
    own = tensors(network)
    if own.keys() != values.keys():
        raise CheckpointError(
            f"the tensors do not fit the structure: missing {sorted(own.keys() - values.keys())}, "
            f"unexpected {sorted(values.keys() - own.keys())}"
        )
    wrong = [n for n, t in own.items() if t.shape != values[n].shape or t.dtype != values[n].dtype]
    if wrong:
        raise CheckpointError(
            "tensors of another shape or dtype than the structure has: "
            + ", ".join(f"{n} is {tuple(values[n].shape)} {values[n].dtype}" for n in wrong)
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(values[name])


def snapshot(network: Network) -> dict[str, Tensor]:
    """A copy of every tensor."""
    return {name: tensor.detach().clone() for name, tensor in tensors(network).items()}


def dump(state: State) -> tuple[str, dict[str, Tensor]]:
    """The state as JSON and tensors, from which `load` makes an equal one."""
    flat = _prefixed("network", snapshot(state.network))
    for group, named in GROUPS.items():
        for name, entries in named_state(state.optimisers[group], named(state.network)).items():
            flat |= {f"{group}/{k}/{name}": torch.as_tensor(v).detach().clone() for k, v in entries.items() if v is not None}
    if state.best is not None:
        flat |= _prefixed("best", {k: v.clone() for k, v in state.best.tensors.items()})
    flat |= _prefixed("evidence", state.evidence)
    plain = {k: getattr(state, k) for k in _PLAIN} | {
        "structure": state.network.structure.to_dict(),
        "training": state.network.training,
        "best": state.best and {"structure": state.best.structure.to_dict(), "valid": state.best.valid},
    }
    return json.dumps(plain, allow_nan=False), {k: v.contiguous() for k, v in flat.items()}


def load(text: str, flat: Mapping[str, Tensor], strategy: Strategy, plugins: Any) -> State:
    """The state that `dump` wrote."""
    plain = json.loads(text)
    network = rebuilt(strategy, Structure.from_dict(plain["structure"], plugins.make), _under("network", flat))
    network.train(plain["training"])
    own = optimisers(strategy, network, plain["stage"])
    for group, named in GROUPS.items():
        parameters = dict(named(network))
        for path, value in _under(group, flat).items():
            key, name = path.split("/", 1)
            own[group].state[parameters[name]][key] = _placed(key, value, parameters[name])
    best = plain["best"] and Best(
        Structure.from_dict(plain["best"]["structure"], plugins.make),
        {k: v.to(strategy.device) for k, v in _under("best", flat).items()},
        plain["best"]["valid"],
    )
    return State(network, own, best, evidence=_under("evidence", flat), **{k: plain[k] for k in _PLAIN})


_PLAIN = ("stage", "phase", "epoch", "samples", "updates", "loss", "stopping", "memory", "history", "lineage")


def _placed(key: str, value: Tensor, parameter: nn.Parameter) -> Tensor:
    # torch counts an optimiser's steps on the CPU, wherever the parameter is
    return value.clone() if key == "step" else value.to(parameter.device, copy=True)


def _placed_as(strategy: Strategy, network: Network) -> Network:
    network.fast = strategy.fast
    return network.to(device=strategy.device, dtype=strategy.torch_dtype)


def _prefixed(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in values.items()}


def _under(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}/"): v for k, v in values.items() if k.startswith(f"{prefix}/")}
