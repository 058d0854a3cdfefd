"""Rules of a third party for the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from hypothesis import strategies as st

from nasframe import Context
from nasframe.interfaces.batch_size import BatchSize
from nasframe.options import number
from nasframe.plugins import Plugin
from nasframe.testing.examples import Examples


@attrs.frozen
class Product(BatchSize):
    """The largest batch for which the number of examples times the number of parameters stays under a limit.

    Args:
        limit: the limit.
    """

    name: ClassVar[str] = "product"
    limit: int = number(1000, low=1, whole=True)

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the number of parameters of the network, which is counted once."""
        return {"parameters": context.remember("parameters", lambda: sum(p.numel() for p in context.network.parameters()))}

    def decide(self, previous: int | None, readings: Mapping[str, float]) -> int:
        """Return the quotient, and at least one example."""
        return max(1, int(self.limit // readings["parameters"]))


@attrs.frozen
class Halved(BatchSize):
    """Half of the last batch size."""

    name: ClassVar[str] = "halved"
    first: float = number(16, low=0)

    def decide(self, previous: int | None, readings: Mapping[str, float]) -> Any:
        return self.first if previous is None else previous // 2


EXAMPLES = Examples(parts={Product: st.builds(Product, st.integers(1, 2000)), Halved: st.builds(Halved, st.integers(1, 64))})
PLUGIN = Plugin("batch_sizes", "tests", "0", (Product, Halved))
