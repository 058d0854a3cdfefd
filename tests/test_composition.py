"""Whatever is shipped goes together: each backbone with each architect, criterion, pruner, way of pruning and growth."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_resume import digest
from toy import PLUGINS

from nasframe import Data, Loop, Strategy, installed
from nasframe.search.state import State, dump, initial, load

#: what a part must be told, or is to be tried with; all others are tried as they come
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "darts_recurrent": [{"output": "last"}, {"output": "mean"}],
    "node": [{"form": "noise", "delta": 0.05}, {"form": "gate"}],
    "max_nodes": [{"nodes": 1}],
    "max_parameters": [{"parameters": 60}],
    "max_updates": [{"updates": 3}],
    "max_seconds": [{"seconds": 2.5}],
    "any_of": [{"parts": ["no_better", {"name": "max_nodes", "nodes": 1}]}],
    "all_of": [{"parts": ["no_better", {"name": "max_nodes", "nodes": 1}]}],
    "second_order": [{"follow": False}, {"follow": True}],
    "exact_second_order": [{"follow": False}, {"follow": True}],
}


def parts(kind: str) -> list[dict[str, Any]]:
    """Every shipped part of a kind."""
    return [{"name": name, **options} for name in installed().names(kind) for options in OPTIONS.get(name, [{}])]


def compositions(backbone: dict[str, Any], architect: dict[str, Any]) -> Iterator[Strategy]:
    """Every strategy of shipped parts with that backbone and that architect."""
    for criterion, pruner, prune, growth in itertools.product(
        parts("criterion"), parts("pruner"), ("stage", "end"), parts("morphism")
    ):
        # not every criterion ends a stage, or the search
        bounded = {"name": "any_of", "parts": [criterion, {"name": "scripted", "growths": 1}]}
        yield Strategy.from_dict(
            {
                "task": {"name": "toy_series", "windows": 4},
                "backbone": {**backbone, "hidden": 3},
                "architect": architect,
                "criterion": bounded,
                "pruner": pruner,
                "prune": prune,
                "growth": [growth],
                "batch": 3,
                "dtype": "float64",
            },
            PLUGINS,
        )


def run(strategy: Strategy, data: Data, state: State, most: int | None = None) -> int:
    """Run the search to its end, or so many events far; how many there were. Each update takes a second."""
    return sum(1 for _ in itertools.islice(Loop(strategy, data, lambda: float(state.updates)).run(state), most))


@pytest.mark.parametrize("architect", parts("architect"), ids=lambda part: " ".join(map(str, part.values())))
@pytest.mark.parametrize("backbone", parts("backbone"), ids=lambda part: " ".join(map(str, part.values())))
def test_all_that_is_shipped_goes_together(backbone: dict[str, Any], architect: dict[str, Any]) -> None:
    """Every composition searches to an architecture, and to the same bytes when it is resumed in the middle, unless it reads
    the clock, which goes on meanwhile.
    """
    for strategy in compositions(backbone, architect):
        data = strategy.task.load(torch.device("cpu"), torch.float64)
        whole, broken = initial(strategy, data.sizes), initial(strategy, data.sizes)
        events = run(strategy, data, whole)
        run(strategy, data, broken, events // 2)
        resumed = load(*dump(broken), strategy, PLUGINS)
        run(strategy, data, resumed)

        assert whole.network.structure.decided, strategy
        assert resumed.network.structure.decided, strategy
        assert strategy.criterion.reads or digest(whole) == digest(resumed), strategy
