"""The state of a step of trials beside its records: what the architect remembers, and the trials in flight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from nasframe.interfaces.ask_tell import Memory
from nasframe.interfaces.evaluator import Outcome


@attrs.frozen
class Pending:
    """A trial that was requested and whose result the architect has not received.

    Attributes:
        picks: the architecture.
        budget: its budget.
        parent: the number of the trial from whose weights it starts; None for fresh weights.
    """

    picks: tuple[int, ...]
    budget: int
    parent: int | None


@attrs.define
class TrialState:
    """The state of a step of trials beside its records.

    Attributes:
        memory: the memory of the architect.
        first: the number of trials that the run had before the step.
        requested: the number of requests so far.
        pending: the trials in flight, by number.
        arrived: the results of those that wait for an earlier one, without tensors, by number.
        weights: the tensors of the trials that may become parents, of those that have arrived, and of the best one, by number.
    """

    memory: Memory
    first: int = 0
    requested: int = 0
    pending: dict[int, Pending] = attrs.field(factory=dict)
    arrived: dict[int, Outcome] = attrs.field(factory=dict)
    weights: dict[int, Mapping[str, Tensor]] = attrs.field(factory=dict)

    def dump(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as JSON values and tensors, from which `load` makes an equal one."""
        # Numbers are keys, and those of JSON objects are strings: lists of pairs keep them numbers.
        plain = {
            "first": self.first,
            "requested": self.requested,
            "memory": self.memory.values,
            "pending": [[number, attrs.asdict(pending)] for number, pending in sorted(self.pending.items())],
            "arrived": [
                [number, {"valid": outcome.valid, "updates": outcome.updates, "scores": dict(outcome.scores)}]
                for number, outcome in sorted(self.arrived.items())
            ],
        }
        flat = {f"memory/{name}": tensor for name, tensor in self.memory.tensors.items()}
        flat |= {f"weights/{n}/{name}": t for n, tensors in sorted(self.weights.items()) for name, t in tensors.items()}
        return plain, flat

    @classmethod
    def load(cls, plain: Mapping[str, Any], flat: Mapping[str, Tensor], device: str) -> TrialState:
        """Return the state that `dump` returned, with the weights on a device."""
        memory = {name.removeprefix("memory/"): t.clone() for name, t in flat.items() if name.startswith("memory/")}
        weights: dict[int, dict[str, Tensor]] = {}
        for path, tensor in flat.items():
            if path.startswith("weights/"):
                _, number, name = path.split("/", 2)
                weights.setdefault(int(number), {})[name] = tensor.to(device, copy=True)
        return cls(
            Memory(plain["memory"], memory),
            plain["first"],
            plain["requested"],
            {number: Pending(tuple(p["picks"]), p["budget"], p["parent"]) for number, p in plain["pending"]},
            {number: Outcome(**values) for number, values in plain["arrived"]},
            dict(sorted(weights.items())),
        )
