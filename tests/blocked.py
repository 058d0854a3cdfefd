"""A search without some of the shipped plugins, in the place of which there are stand-ins: python blocked.py PLUGIN[,PLUGIN ...]."""

from __future__ import annotations

import importlib.abc
import sys

blocked = sys.argv[1]


class Block(importlib.abc.MetaPathFinder):
    """Refuses to import the packages of these names."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in blocked.split(","):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Block())

from standins import STANDINS  # noqa: E402

import nasframe  # noqa: E402
from nasframe.plugins import Plugin  # noqa: E402
from nasframe.testing.fakes import Chain, Dense, PassThrough  # noqa: E402

found = nasframe.plugins.discover()
standins = Plugin("standins", "tests", "0", (*STANDINS, Chain, PassThrough, Dense))
plugins = nasframe.plugins.Plugins((*found.found, standins))


def either(kind: str, name: str, standin: str) -> str:
    """Return the shipped part, or the stand-in for it."""
    return name if name in found.names(kind) else standin


strategy = nasframe.Strategy.from_dict(
    {
        "task": "toy_series",
        "backbone": either("backbone", "two_to_one", "chain"),
        "architect": either("architect", "first_order", "still"),
        "criterion": {"name": "scripted", "growths": 1},
        "pruner": either("pruner", "strongest", "first"),
        "growth": ["node"] if "node" in found.names("morphism") else [],
        "dtype": "float64",
    },
    plugins,
)
search = nasframe.Search(strategy)
assert search.run().structure.decided
print("without", blocked, "stage", search.state.stage)
for problem in found.problems():
    print(problem)
