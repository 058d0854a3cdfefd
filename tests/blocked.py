"""A search without one of the shipped plugins: python blocked.py PLUGIN. Stand-ins take the place of what is missing."""

from __future__ import annotations

import importlib.abc
import sys
from typing import ClassVar

import attrs
from torch import nn


class Block(importlib.abc.MetaPathFinder):
    """Refuses to import the packages of these names."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Block())

from standins import STANDINS  # noqa: E402

import nasframe  # noqa: E402
from nasframe.plugins import Plugin  # noqa: E402


@attrs.frozen
class Kept(nasframe.Operation):
    """x."""

    name: ClassVar[str] = "kept"
    arity: ClassVar[int] = 1
    residual: ClassVar[tuple[str, ...]] = ()

    def build(self, *, width):
        return nn.Identity()


@attrs.frozen
class Turned(nasframe.Operation):
    """tanh(W x + b)."""

    name: ClassVar[str] = "turned"
    arity: ClassVar[int] = 1

    def build(self, *, width):
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())


@attrs.frozen
class Chain(nasframe.Backbone):
    """A node takes in the one before it, the first one the inputs, at each step of a series for itself."""

    name: ClassVar[str] = "chain"
    inputs: ClassVar[tuple[str, ...]] = ("x",)

    def initial(self, sizes, nodes):
        structure = nasframe.Structure(self, tuple(sizes.items()), (("chain", nasframe.Cell()),))
        for _ in range(nodes):
            structure = self._longer(structure)
        return structure

    def body(self, structure):
        return Links(structure)

    def grown(self, structure, cell):
        child, last = self._longer(structure), self.outputs(structure.cell(cell))
        site = child.cell(cell).sites[-1]
        return nasframe.Grown(child, site.node, last, {f"{cell}/{site.id}": nasframe.births([site], last)[site.id]})

    def derive(self, structure, weights):
        return nasframe.all_but_strongest(structure, weights)

    def _longer(self, structure):
        last = self.outputs(structure.cell("chain")) or self.inputs
        return nasframe.one_more(structure, "chain", lambda node: {node: last}, (Kept(), Turned()))


class Links(nn.Module):
    def __init__(self, structure):
        super().__init__()
        width = structure.size("inputs")
        sites = structure.cell("chain").sites
        self.links = nn.ModuleList(nasframe.Mixture(f"chain/{site.id}", site, width=width) for site in sites)
        self.head = nn.Linear(width, structure.size("outputs"))

    def forward(self, x, shares):
        for link in self.links:
            x = link(shares, x)
        return self.head(x)


found = nasframe.discover()
standins = Plugin("standins", "tests", "0", (*STANDINS, Chain, Kept, Turned))
plugins = nasframe.Plugins((*found.found, standins))


def either(kind: str, name: str, standin: str) -> str:
    """The shipped part, or what stands in for it."""
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
print("stage", search.state.stage)
for problem in found.problems():
    print(problem)
