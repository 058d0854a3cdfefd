"""The found network beside its references, on the test part, which is read here and nowhere else."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.interfaces.task import Data
from nasframe.network.cost import Cost
from nasframe.network.network import build
from nasframe.search.fit import fit, scores
from nasframe.search.random_architecture import random_architecture
from nasframe.search.search import Search
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

#: epochs without improvement after which a comparison stops training, the same for all
PATIENCE = 20
FOUND, INHERITED, RANDOM = "found, trained anew", "found, inherited weights", "random architecture, trained anew"
RETRAINED = "retrained"

#: what is compared, and what makes its row
Rows = Iterator[tuple[str, Callable[[], "Row"]]]


@attrs.frozen
class Row:
    """A network in the comparison: the parameters that predict, on average where seeds differ; per metric, a value for each
    seed.
    """

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


def compare(search: Search) -> Rows:
    """After a search the found network with its inherited weights, then it, random architectures and the references, all
    trained anew: for at most as many updates as the whole search took, from each of the strategy's seeds. After a retraining
    the network beside the references that are not trained.
    """
    return _compared(search) if searched(search) else _beside(search)


def searched(search: Search) -> bool:
    """Whether there was a search; in a retraining there is none."""
    return any(record.get("phase") == "search" for record in search.state.history)


def _compared(search: Search) -> Rows:
    yield INHERITED, lambda: _row(search, INHERITED, iter([(search.network, search.state.updates)]))
    found, space = search.network.structure, _space(search)
    builders: dict[str, Callable[[Seed], nn.Module]] = {
        FOUND: lambda seed: build(found, seed, like=search.network),
        RANDOM: lambda seed: build(random_architecture(search.strategy, space, seed("draw")), seed, like=search.network),
        **_references(search),
    }
    for name, make in builders.items():
        yield name, functools.partial(_reference, search, name, make)


def _beside(search: Search) -> Rows:
    yield RETRAINED, lambda: _row(search, RETRAINED, iter([(search.network, search.state.updates)]))
    for name, make in _references(search).items():
        network = _made(search, make, _seed(search, name, 0))
        if not any(p.requires_grad for p in network.parameters()):
            yield name, functools.partial(_row, search, name, iter([(network, 0)]))


def _space(search: Search) -> Structure:
    """The supernet with as many nodes in each cell as the found one has."""
    found, backbone = search.network.structure, search.strategy.backbone
    structure = backbone.initial(search.data.sizes, min(len(cell.nodes) for _, cell in found.cells))
    for type, cell in found.cells:
        while len(structure.cell(type).nodes) < len(cell.nodes):
            structure = backbone.grown(structure, type).structure
    return structure


def _references(search: Search) -> dict[str, Callable[[Seed], nn.Module]]:
    parameters = predicting(search.network, search.data).parameters
    return {name: _lent(make) for name, make in search.data.references(parameters).items()}


def _reference(search: Search, name: str, make: Callable[[Seed], nn.Module]) -> Row:
    return _row(search, name, _trained(search, name, make))


def _lent(make: Callable[[], nn.Module]) -> Callable[[Seed], nn.Module]:
    def with_seed(seed: Seed) -> nn.Module:
        with seed.as_global():
            return make()

    return with_seed


def _trained(search: Search, name: str, make: Callable[[Seed], nn.Module]) -> Iterator[tuple[nn.Module, int]]:
    strategy, updates = search.strategy, search.state.updates
    for number in range(strategy.seeds):
        seed = _seed(search, name, number)
        fitted = fit(_made(search, make, seed), search.data, strategy, updates, PATIENCE, seed)
        yield fitted.network, fitted.updates
        if not fitted.updates:
            return  # nothing to train: every seed would give the same


def _made(search: Search, make: Callable[[Seed], nn.Module], seed: Seed) -> nn.Module:
    return make(seed("build")).to(device=search.strategy.device, dtype=search.strategy.torch_dtype)


def _seed(search: Search, name: str, number: int) -> Seed:
    return Seed((search.strategy.seed, "compare", name, number))


def _row(search: Search, name: str, networks: Iterator[tuple[nn.Module, int]]) -> Row:
    values: dict[str, list[float]] = {}
    updates, counts = [], []
    for network, done in networks:
        updates.append(done)
        counts.append(predicting(network, search.data).parameters)
        for metric, value in scores(network, search.data).items():
            values.setdefault(metric, []).append(value)
    return Row(name, round(statistics.fmean(counts)), tuple(updates), {m: tuple(v) for m, v in values.items()})


def predicting(network: nn.Module, data: Data) -> Cost:
    """What one prediction costs: the parameters that it depends on, all but those of an auxiliary head, and its FLOPs."""
    inputs, _ = data.train.batch(torch.arange(1))
    trainable = [p for p in network.parameters() if p.requires_grad]
    # cuDNN's recurrent layers have no gradient in evaluation mode
    with FlopCounterMode(display=False) as counter, torch.backends.cudnn.flags(enabled=False):
        outputs = network.eval()(inputs)
    slopes = torch.autograd.grad(outputs.sum(), trainable, allow_unused=True) if trainable else ()
    idle = sum(p.numel() for p, slope in zip(trainable, slopes, strict=True) if slope is None)
    return Cost(sum(p.numel() for p in network.parameters()) - idle, counter.get_total_flops())
