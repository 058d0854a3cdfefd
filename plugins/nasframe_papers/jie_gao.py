"""The four searches of Jie & Gao (2021): two backbones that grow, pruned at each stage or at the end.

They have the protocol of 4.1: n_h = n_x and one layer; batches of 50; Adam at 1e-3 for the weights and at 3e-4 for the
alphas in all stages; no regularisation; sigma = delta; a stage ends by early stopping on the validation split, and the
search ends when a grown network is no better.

The paper gives no patience, delta, first or largest number of nodes for time series. They are 3 epochs, 0.01, two nodes as
in 4.2, and seven nodes, the most in Table 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.recipe import Recipe


class GrowingSearch(Recipe):
    """A search in which a recurrent cell grows by nodes (Algorithm 2)."""

    backbone: ClassVar[str]
    plan: ClassVar[str]

    def values(self) -> Mapping[str, Any]:
        """Return the protocol of 4.1."""
        return {
            "task": {"name": "forecasting", "window": 10},
            "backbone": {"name": self.backbone},
            # A factor of 1: the paper has one learning rate for all stages, unlike the default of this architect.
            "architect": {"name": "first_order", "optimiser": {"learning_rate": 3e-4}, "after_growth": 1.0},
            "growth": [{"name": "node"}],
            "criterion": {
                "name": "any_of",
                "parts": [{"name": "patience", "epochs": 3}, {"name": "no_better"}, {"name": "max_nodes", "nodes": 7}],
            },
            "pruner": {"name": "strongest"},
            "plan": self.plan,
            "nodes": 2,
            "batch": 50,
            "optimiser": {"learning_rate": 1e-3},
        }


@attrs.frozen
class DartsGrowStage(GrowingSearch):
    """Grow a recurrent DARTS cell, pruned at each stage: "DARTS-1" of Jie & Gao (2021), 4.1."""

    name: ClassVar[str] = "darts-grow-stage"
    backbone: ClassVar[str] = "darts_recurrent"
    plan: ClassVar[str] = "stage"


@attrs.frozen
class DartsGrowEnd(GrowingSearch):
    """Grow a recurrent DARTS cell, pruned at the end: "DARTS-2" of Jie & Gao (2021), 4.1."""

    name: ClassVar[str] = "darts-grow-end"
    backbone: ClassVar[str] = "darts_recurrent"
    plan: ClassVar[str] = "end"


@attrs.frozen
class TwoToOneGrowStage(GrowingSearch):
    """Grow a Two-to-One cell, pruned at each stage: "new-1" of Jie & Gao (2021), 4.1."""

    name: ClassVar[str] = "two-to-one-grow-stage"
    backbone: ClassVar[str] = "two_to_one"
    plan: ClassVar[str] = "stage"


@attrs.frozen
class TwoToOneGrowEnd(GrowingSearch):
    """Grow a Two-to-One cell, pruned at the end: "new-2" of Jie & Gao (2021), 4.1."""

    name: ClassVar[str] = "two-to-one-grow-end"
    backbone: ClassVar[str] = "two_to_one"
    plan: ClassVar[str] = "end"
