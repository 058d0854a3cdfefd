"""The strategy that `nasframe search` starts from if the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe.interfaces.recipe import Recipe


@attrs.frozen
class Default(Recipe):
    """A recurrent cell of Two-to-One (Jie & Gao 2021) that grows to two nodes, competes with random cells and forecasts a time series."""

    name: ClassVar[str] = "default"

    def values(self) -> Mapping[str, Any]:
        """Return what a search of a few minutes on two cores needs.

        The numbers of nodes and of finalists, and that their parameters are equal, were chosen by the validation loss on the pedestrians
        (docs/measurements/default.md).
        """
        # After a growth the rate of the alphas is 0.03, as with the paper's 3e-4 and the factor of 100 that was measured for it.
        return {
            "task": {"name": "forecasting", "series": "melbourne_pedestrians"},
            "backbone": {"name": "two_to_one", "hidden": 16, "equal": "parameters"},
            "architect": {"name": "first_order", "optimiser": {"learning_rate": 1e-2}, "after_growth": 3.0},
            "growth": [{"name": "node"}],
            "criterion": {"name": "any_of", "parts": [{"name": "no_better"}, {"name": "max_nodes", "nodes": 2}]},
            "pruner": {"name": "strongest"},
            "optimiser": {"learning_rate": 1e-2, "epochs": 12},
            "plan": {
                "name": "finals",
                "epochs": 4,
                "architect": {"name": "successive_halving", "candidates": 18, "suggested": 3, "updates": 50},
            },
            "seeds": 3,
        }
