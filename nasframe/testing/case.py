"""What a law is tried on."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import torch
from hypothesis import reject, strategies as st

from nasframe import Strategy
from nasframe.errors import NonFiniteError
from nasframe.interfaces.part import short_name
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: updates that a network has behind it when a law meets it
STEPS = 5


@attrs.frozen(eq=False, kw_only=True)
class Case:
    """A part, and what more it takes to try it. Whatever is expensive is made when a law asks for it.

    Args:
        data: draws what a law wants beside: `case.data.draw(strategy)`.
    """

    subject: Subject
    part: Any
    data: st.DataObject

    def __str__(self) -> str:
        """The case in words."""
        return short_name(self.part)

    def told(self) -> str:
        """The case in all words that help a reader, whatever it takes to find them."""
        return str(self)


@attrs.frozen(eq=False, kw_only=True)
class Searched(Case):
    """A part somewhere in a search."""

    strategy: Strategy

    def __str__(self) -> str:
        s = self.strategy
        where = f"{short_name(self.part)} in {short_name(s.backbone)}, {s.nodes} nodes, on {short_name(s.task)}"
        return f"{where}; batch {s.batch}, optimiser {s.optimiser.method}, seed {s.seed}"

    @property
    def trained(self) -> TrainedNetwork:
        """The search after some updates: a copy, to do with as one likes."""
        return trained_network(self.strategy, STEPS)


def trained_network(strategy: Strategy, steps: int) -> TrainedNetwork:
    """The search of a strategy after so many updates; one that leaves the tame numbers is no case."""
    found = _trained(strategy, steps)
    if found is None:
        reject()
    return found.copy()


@functools.lru_cache(maxsize=128)
def _trained(strategy: Strategy, steps: int) -> TrainedNetwork | None:
    try:
        trained = TrainedNetwork.of(strategy, steps)
    except NonFiniteError:
        return None
    outputs = [trained.outputs(training) for training in (False, True)]
    return trained if all(bool(o.isfinite().all()) and float(o.abs().max()) < 1e3 for o in outputs) else None


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same to the bit, tensors within them likewise."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
    if isinstance(a, dict) and isinstance(b, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)
