"""A whole search in a fraction of a second."""

from __future__ import annotations

from typing import Any

from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne
from standins import STANDINS, ToySeries

from nasframe import Strategy, installed
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.fakes import Scripted

#: the shipped plugins and the stand-ins
PLUGINS = Plugins((*installed().found, Plugin("standins", "tests", "0", STANDINS)))


def toy_strategy(**changes: Any) -> Strategy:
    """A search with two growths, pruning and dropout."""
    parts: dict[str, Any] = {
        "task": ToySeries(),
        "backbone": TwoToOne(hidden=3, dropout=0.2),
        "architect": FirstOrder(),
        "criterion": Scripted(),
        "pruner": Strongest(),
        "growth": (NodeGrowth(delta=0.05),),
        "batch": 10,
        "dtype": "float64",
    }
    parts |= changes
    if isinstance(parts.get("plan"), str):
        parts["plan"] = PLUGINS.make("plan", parts["plan"]).steps()
    return Strategy(**parts)
