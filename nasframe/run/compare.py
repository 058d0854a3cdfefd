"""The found network beside its references, on the test part, which is read here and nowhere else."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from torch import nn

from nasframe.network import build
from nasframe.search.fit import fit, scores
from nasframe.search.search import Search
from nasframe.seeds import Seed

#: epochs without improvement after which a comparison stops training, the same for all
PATIENCE = 20
FOUND, INHERITED = "found, trained anew", "found, inherited weights"


@attrs.frozen
class Row:
    """A network in the comparison: per metric, a value for each seed."""

    name: str
    parameters: int
    updates: tuple[int, ...]
    values: dict[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values[metric])

    def error(self, metric: str) -> float | None:
        """The standard error of the mean; None where there is one value."""
        values = self.values[metric]
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        means = {m: {"mean": self.mean(m), "standard_error": self.error(m), "values": list(v)} for m, v in self.values.items()}
        return {"name": self.name, "parameters": self.parameters, "updates": list(self.updates), "test": means}


def compare(search: Search) -> Iterator[tuple[str, Callable[[], Row]]]:
    """The found network with its inherited weights and trained anew, then the references, trained alike: what is to be
    compared, and what makes its row.

    All are trained for at most as many updates as the whole search took, from each of the strategy's seeds.
    """
    yield INHERITED, lambda: _row(search, INHERITED, iter([(search.network, search.state.updates)]))
    found = search.network.structure
    builders: dict[str, Callable[[Seed], nn.Module]] = {
        FOUND: lambda seed: build(found, seed, like=search.network),
        **{name: _lent(make) for name, make in search.data.references(_parameters(search.network)).items()},
    }
    for name, make in builders.items():
        yield name, functools.partial(_reference, search, name, make)


def _reference(search: Search, name: str, make: Callable[[Seed], nn.Module]) -> Row:
    return _row(search, name, _trained(search, name, make))


def _lent(make: Callable[[], nn.Module]) -> Callable[[Seed], nn.Module]:
    def with_seed(seed: Seed) -> nn.Module:
        with seed.lent():
            return make()

    return with_seed


def _trained(search: Search, name: str, make: Callable[[Seed], nn.Module]) -> Iterator[tuple[nn.Module, int]]:
    strategy, updates = search.strategy, search.state.updates
    for number in range(strategy.seeds):
        seed = Seed((strategy.seed, "compare", name, number))
        network = make(seed("build")).to(device=strategy.device, dtype=strategy.torch_dtype)
        fitted = fit(network, search.data, strategy, updates, PATIENCE, seed)
        yield fitted.network, fitted.updates
        if not fitted.updates:
            return  # nothing to train: every seed would give the same


def _row(search: Search, name: str, networks: Iterator[tuple[nn.Module, int]]) -> Row:
    values: dict[str, list[float]] = {}
    updates, count = [], 0
    for network, done in networks:
        updates.append(done)
        count = _parameters(network)
        for metric, value in scores(network, search.data).items():
            values.setdefault(metric, []).append(value)
    return Row(name, count, tuple(updates), {m: tuple(v) for m, v in values.items()})


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
