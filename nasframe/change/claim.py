"""Claims: how far a change preserves the function that a network computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from nasframe.structure.address import Address


@attrs.frozen
class Bound:
    """A bound on an output: a polynomial in the maximum norms of the inputs, with coefficients that are not negative.

    Attributes:
        terms: the coefficient of each product of norms, by the tuple of its inputs. An operation refers to its inputs by
            position, a node to its inputs by name.

    Example:
        The bound a |x| + b |x| |h| of an operation with the inputs (x, h), plus the constant 1:

        >>> bound = Bound({(0,): 2.0, (0, 1): 3.0}) + Bound({(): 1.0})
        >>> bound((1.0, 10.0))
        33.0
        >>> bound.of(["x", "h"]).to_dict()
        {'x': 2.0, 'x*h': 3.0, '1': 1.0}
    """

    terms: Mapping[tuple[Any, ...], float]

    def __call__(self, norms: Any) -> float:
        """Return the bound for inputs with the maximum norms `norms[input]`."""
        # an empty tuple of inputs is the constant term: the product over nothing is 1
        return sum(coefficient * math.prod(norms[i] for i in inputs) for inputs, coefficient in self.terms.items())

    def of(self, names: Sequence[str]) -> Bound:
        """Return the same bound with the names of the inputs instead of their positions."""
        return Bound({tuple(names[i] for i in inputs): c for inputs, c in self.terms.items()})

    def largest(self, other: Bound) -> Bound:
        """Return a bound that is at least as large as this and the other: the larger coefficient of each term."""
        # The terms keep their order, which a set would not: the bound becomes JSON, which has the same bytes in every
        # run.
        keys = [*self.terms, *(k for k in other.terms if k not in self.terms)]
        # Neither norms nor coefficients are negative, so that a larger coefficient never makes the bound smaller.
        return Bound({k: max(self.terms.get(k, 0.0), other.terms.get(k, 0.0)) for k in keys})

    def __add__(self, other: Bound) -> Bound:
        keys = [*self.terms, *(k for k in other.terms if k not in self.terms)]
        return Bound({k: self.terms.get(k, 0.0) + other.terms.get(k, 0.0) for k in keys})

    def __mul__(self, factor: float) -> Bound:
        return Bound({k: factor * v for k, v in self.terms.items()})

    def to_dict(self) -> dict[str, float]:
        """Return JSON values: each coefficient by the names of its inputs joined with "*", the constant as "1"."""
        return {"*".join(map(str, k)) or "1": v for k, v in self.terms.items()}


@attrs.frozen
class Claim:
    """How far a change preserves the function of a network: exactly, approximately with a bound, or not.

    A bound concerns a changed node given its inputs. The distance of the whole network is measured, and not claimed.

    Attributes:
        kind: "exact", "approximate" or "lossy".
        bounds: for an approximate change, by the address of each changed node, a bound on max |o - o'|, where o is the output of
            the node and o' the output with which the network would compute the same as before. The bound is computed before
            the change from the parameters of the network.
    """

    kind: str
    bounds: Mapping[Address, Bound] = attrs.field(factory=dict)

    @classmethod
    def exact(cls) -> Claim:
        """Return the claim that the network computes the same function, up to rounding."""
        return cls("exact")

    @classmethod
    def approximate(cls, bounds: Mapping[Address, Bound]) -> Claim:
        """Return the claim that the outputs of the changed nodes differ by at most these bounds."""
        return cls("approximate", bounds)

    @classmethod
    def lossy(cls) -> Claim:
        """Return the claim of a change that does not preserve the function."""
        return cls("lossy")

    def to_dict(self) -> dict[str, Any]:
        """Return the claim as JSON values."""
        return {"kind": self.kind} | ({"bounds": {k: b.to_dict() for k, b in self.bounds.items()}} if self.bounds else {})


def tolerance(reference: torch.Tensor) -> float:
    """Return the difference that rounding may cause between two computations of `reference`: 256 eps max |reference|."""
    # rounding in a sum of n products is of the order of sqrt(n) eps, and of n eps at worst; 256 leaves room for wide layers
    # and several of them
    info = torch.finfo(reference.dtype)
    return 256 * info.eps * max(float(reference.detach().abs().max()), info.tiny)
