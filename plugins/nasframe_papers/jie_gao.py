"""The four strategies of Jie & Gao 2021 (section 4), with the protocol of 4.1.

n_h = n_x and one layer; batches of 50; Adam at 1e-3 for the weights and at 3e-4 for the alphas, always; no regularisation;
sigma = delta; a stage ends by early stopping on the validation part, and the search when a grown network is no better. The
paper gives no patience, delta, first or last number of nodes for time series: 3 epochs, 0.01, two nodes as in 4.2, and
seven at most, the most of Table 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe import Recipe


class JieGao(Recipe):
    """A backbone that grows, pruned at each stage or at the end."""

    backbone: ClassVar[str]
    prune: ClassVar[str]

    def values(self) -> Mapping[str, Any]:
        """The protocol."""
        return {
            "task": {"name": "forecasting", "window": 10},
            "backbone": {"name": self.backbone},
            "architect": {"name": "first_order", "optimiser": {"learning_rate": 3e-4}, "after_growth": 1.0},
            "growth": [{"name": "node"}],
            "criterion": {
                "name": "any_of",
                "parts": [{"name": "patience", "epochs": 3}, {"name": "no_better"}, {"name": "max_nodes", "nodes": 7}],
            },
            "pruner": {"name": "strongest"},
            "prune": self.prune,
            "nodes": 2,
            "batch": 50,
            "optimiser": {"learning_rate": 1e-3},
        }


@attrs.frozen
class Darts1(JieGao):
    """The DARTS backbone, pruned at each stage."""

    name: ClassVar[str] = "DARTS-1"
    backbone: ClassVar[str] = "darts_recurrent"
    prune: ClassVar[str] = "stage"


@attrs.frozen
class Darts2(JieGao):
    """The DARTS backbone, pruned at the end."""

    name: ClassVar[str] = "DARTS-2"
    backbone: ClassVar[str] = "darts_recurrent"
    prune: ClassVar[str] = "end"


@attrs.frozen
class New1(JieGao):
    """The Two-to-One backbone, pruned at each stage."""

    name: ClassVar[str] = "new-1"
    backbone: ClassVar[str] = "two_to_one"
    prune: ClassVar[str] = "stage"


@attrs.frozen
class New2(JieGao):
    """The Two-to-One backbone, pruned at the end."""

    name: ClassVar[str] = "new-2"
    backbone: ClassVar[str] = "two_to_one"
    prune: ClassVar[str] = "end"
