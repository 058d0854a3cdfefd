"""What a change of structure promises about the function that the network computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from nasframe.structure.address import Address


@attrs.frozen
class Bound:
    """A bound by the maximum norms of inputs: the sum over `terms` of coefficient * product of |input|.

    `terms` maps a tuple of inputs to its coefficient, an operation's inputs by position, a node's by name: {(): 1.0} is
    the constant 1, {(0,): a, (0, 1): b} is a |x| + b |x| |h| for inputs (x, h). Coefficients are not negative.
    """

    terms: Mapping[tuple[Any, ...], float]

    def __call__(self, norms: Any) -> float:
        """The bound for inputs whose entries are at most norms[input] in absolute value."""
        return sum(coefficient * math.prod(norms[i] for i in inputs) for inputs, coefficient in self.terms.items())

    def of(self, names: Sequence[str]) -> Bound:
        """The same bound with the inputs' names in the place of their positions."""
        return Bound({tuple(names[i] for i in inputs): c for inputs, c in self.terms.items()})

    def largest(self, other: Bound) -> Bound:
        """A bound that holds wherever one of the two does."""
        keys = [*self.terms, *(k for k in other.terms if k not in self.terms)]
        return Bound({k: max(self.terms.get(k, 0.0), other.terms.get(k, 0.0)) for k in keys})

    def __add__(self, other: Bound) -> Bound:
        keys = [*self.terms, *(k for k in other.terms if k not in self.terms)]
        return Bound({k: self.terms.get(k, 0.0) + other.terms.get(k, 0.0) for k in keys})

    def __mul__(self, factor: float) -> Bound:
        return Bound({k: factor * v for k, v in self.terms.items()})

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON: the inputs joined by "*", the constant under "1"."""
        return {"*".join(map(str, k)) or "1": v for k, v in self.terms.items()}


@attrs.frozen
class Claim:
    """How far a change preserves the function: exact, approximate with bounds, or lossy.

    `bounds` maps a node's address to a bound on max |its output - the output it should have| given its inputs, computed
    before the change from the network's own numbers. Of the whole network the distance is measured, not claimed.
    """

    kind: str
    bounds: Mapping[Address, Bound] = attrs.field(factory=dict)

    @classmethod
    def exact(cls) -> Claim:
        """The network computes the same function, up to rounding."""
        return cls("exact")

    @classmethod
    def approximate(cls, bounds: Mapping[Address, Bound]) -> Claim:
        """The changed nodes put out the same up to these bounds."""
        return cls("approximate", bounds)

    @classmethod
    def lossy(cls) -> Claim:
        """Nothing is promised."""
        return cls("lossy")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": self.kind} | ({"bounds": {k: b.to_dict() for k, b in self.bounds.items()}} if self.bounds else {})


def tolerance(reference: torch.Tensor) -> float:
    """How far apart two honest computations of `reference` may lie: 256 units of rounding at its scale."""
    return (
        256 * torch.finfo(reference.dtype).eps * max(float(reference.detach().abs().max()), torch.finfo(reference.dtype).tiny)
    )
