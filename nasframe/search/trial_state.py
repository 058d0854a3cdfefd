"""The state of a step of trials beside its records: what the architect remembers, and the trials in flight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
import safetensors.torch
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


@attrs.frozen(eq=False)
class TrialWeights:
    """The weights that a trial left. They never change, so that a run folder keeps them in a file that is written once.

    Attributes:
        tensors: the parameters and buffers of the network, by name.
        digest: the SHA-256 digest of their file.
    """

    tensors: Mapping[str, Tensor]
    digest: str

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> TrialWeights:
        """Return the weights with their digest."""
        return cls(tensors, hashlib.sha256(packed(tensors)).hexdigest())


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a file of tensors. Equal tensors give equal bytes."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    )


@attrs.define
class TrialState:
    """The state of a step of trials beside its records.

    Attributes:
        memory: the memory of the architect.
        first: the number of trials that the run had before the step.
        requested: the number of requests so far.
        pending: the trials in flight, by number.
        arrived: the results of those that wait for an earlier one, without tensors, by number.
        weights: those of the trials that may become parents, of those that have arrived, and of the best one, by number.
    """

    memory: Memory
    first: int = 0
    requested: int = 0
    pending: dict[int, Pending] = attrs.field(factory=dict)
    arrived: dict[int, Outcome] = attrs.field(factory=dict)
    weights: dict[int, TrialWeights] = attrs.field(factory=dict)

    def dump(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as JSON values and tensors, from which `load` makes an equal one; of the weights, the digests alone."""
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
            "weights": [[number, weights.digest] for number, weights in sorted(self.weights.items())],
        }
        return plain, dict(self.memory.tensors)

    @classmethod
    def load(
        cls, plain: Mapping[str, Any], flat: Mapping[str, Tensor], weights: Mapping[str, Mapping[str, Tensor]], device: str
    ) -> TrialState:
        """Return the state that `dump` returned.

        Args:
            plain: its JSON values.
            flat: its tensors.
            weights: the tensors of trials, by their digest.
            device: where they are put.
        """
        return cls(
            Memory(plain["memory"], {name: tensor.clone() for name, tensor in flat.items()}),
            plain["first"],
            plain["requested"],
            {number: Pending(tuple(p["picks"]), p["budget"], p["parent"]) for number, p in plain["pending"]},
            {number: Outcome(**values) for number, values in plain["arrived"]},
            {
                number: TrialWeights({name: t.to(device, copy=True) for name, t in weights[digest].items()}, digest)
                for number, digest in plain["weights"]
            },
        )
