"""The cases that laws are tried on."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st

from nasframe import Strategy
from nasframe.interfaces.part import short_name
from nasframe.testing.strategies import trained_network
from nasframe.testing.subject import Subject
from nasframe.testing.trained import TrainedNetwork

#: the number of steps that a network has trained before a law is tried on it
# Enough for moments, running statistics and alphas to differ from their initial values.
STEPS = 5


@attrs.frozen(eq=False, kw_only=True)
class Case:
    """A part, and what it takes to try it. Whatever is expensive is made when a law uses it.

    Args:
        subject: the class of the part and where it comes from.
        part: the part.
        data: draws what a law needs in addition: `case.data.draw(strategy)`.
    """

    subject: Subject
    part: Any
    data: st.DataObject

    def __str__(self) -> str:
        """Return the case in words."""
        return short_name(self.part)

    def details(self) -> str:
        """Return the case in words for a report, with what is expensive to find out."""
        return str(self)


@attrs.frozen(eq=False, kw_only=True)
class SearchCase(Case):
    """A part that is tried in a small search."""

    strategy: Strategy

    def __str__(self) -> str:
        s = self.strategy
        where = f"{short_name(self.part)} in {short_name(s.backbone)}, {s.nodes} nodes, on {short_name(s.task)}"
        return f"{where}; {short_name(s.architect)}, batch {s.batch}, optimiser {s.optimiser.method}, seed {s.seed}"

    @property
    def trained(self) -> TrainedNetwork:
        """Return a copy of the network after some steps of the search."""
        return trained_network(self.strategy, STEPS)
