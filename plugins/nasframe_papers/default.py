"""The strategy that `nasframe search` starts from if the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from nasframe import Recipe


@attrs.frozen
class Default(Recipe):
    """A recurrent cell of Two-to-One (Jie & Gao 2021) that grows up to six nodes and forecasts a time series."""

    name: ClassVar[str] = "default"

    def values(self) -> Mapping[str, Any]:
        """Return what a search of a few minutes on two cores needs."""
        return {
            "task": {"name": "forecasting"},
            "backbone": {"name": "two_to_one", "hidden": 16},
            "architect": {"name": "first_order"},
            "growth": [{"name": "node"}],
            "criterion": {
                "name": "any_of",
                "parts": [{"name": "patience"}, {"name": "no_better"}, {"name": "max_nodes", "nodes": 6}],
            },
            "pruner": {"name": "strongest"},
        }
