"""Hypothesis strategies: sizes down to 1, optimisers, seeds, networks that have trained, and broken JSON."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import reject, strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from nasframe import Address, Backbone, Optimiser, Seed, Site, Strategy, Structure, Task
from nasframe.errors import NonFiniteError
from nasframe.testing.fakes import Descent, Endless, Keep
from nasframe.testing.trained import TrainedNetwork


def sizes(high: int = 4) -> SearchStrategy[int]:
    """A number of units, steps or examples."""
    return st.integers(1, high)


def seeds() -> SearchStrategy[Seed]:
    """A seed."""
    return st.integers(0, 2**16).map(lambda n: Seed((n, "drawn")))


def optimisers() -> SearchStrategy[Optimiser]:
    """SGD with momentum, Adam or AdamW, at rates that move a network within a few steps."""
    rates, decays = st.sampled_from([0.003, 0.01, 0.03]), st.sampled_from([0.0, 0.01])
    adam = st.builds(
        Optimiser,
        method=st.sampled_from(["adam", "adamw"]),
        learning_rate=rates,
        weight_decay=decays,
        betas=st.sampled_from([(0.9, 0.999), (0.5, 0.9)]),
    )
    return adam | st.builds(Optimiser, method=st.just("sgd"), learning_rate=rates, weight_decay=decays, momentum=st.just(0.9))


@st.composite
def searches(draw: DrawFn, backbone: Backbone, task: Task) -> Strategy:
    """A search of that backbone on that task at float64, whose alphas move as fast as the weights; nothing grows or goes."""
    return Strategy(
        task=task,
        backbone=backbone,
        architect=Descent(),
        criterion=Endless(),
        pruner=Keep(),
        nodes=draw(sizes(3)),
        batch=draw(sizes(5)),
        optimiser=draw(optimisers()),
        seed=draw(st.integers(0, 999)),
        dtype="float64",
    )


def trained_networks(strategies: SearchStrategy[Strategy], steps: int = 20) -> SearchStrategy[TrainedNetwork]:
    """A search of one of these strategies after so many updates, unless it diverges within them."""
    return strategies.map(lambda strategy: _trained(strategy, steps)).filter(_tame)


def _trained(strategy: Strategy, steps: int) -> TrainedNetwork:
    try:
        return TrainedNetwork.of(strategy, steps)
    except NonFiniteError:
        reject()


def _tame(trained: TrainedNetwork) -> bool:
    return all(float(trained.outputs(training).abs().max()) < 1e3 for training in (False, True))


@st.composite
def removals(draw: DrawFn, structure: Structure, decide: bool = False) -> Mapping[Address, frozenset[int]]:
    """Candidates to remove, by site: any but all of a node, or all but one at most at each site where the structure is to
    be decided.
    """
    gone = {address: draw(_part(site, decide)) for address, site in structure.sites() if not site.decided}
    for address, site in structure.sites():
        others = [a for a in structure.sites_of(Address.of(address.cell, site.node)) if a != address]
        stays = any(a not in gone or len(gone[a]) < len(dict(structure.sites())[a].candidates) for a in others)
        if address in gone and stays and draw(st.booleans()):
            gone[address] = frozenset(c.id for c in site.candidates)
    return {address: ids for address, ids in gone.items() if ids}


def _part(site: Site, decide: bool) -> SearchStrategy[frozenset[int]]:
    ids = frozenset(c.id for c in site.candidates)
    kept = st.sampled_from(sorted(ids)).map(lambda id: frozenset({id}))
    return (kept if decide else st.frozensets(st.sampled_from(sorted(ids)), min_size=1)).map(lambda k: ids - k)


#: what stands in a JSON text by mistake
JUNK: SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, [], {}, [{}], "", "x", "n0", "a.b", "a/b"]),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    st.text(max_size=3),
)


@st.composite
def spoilt(draw: DrawFn, data: Any) -> Any:
    """Plain values with one of them, at any depth, left out or replaced by something else."""
    spoilt = json.loads(json.dumps(data))
    path = draw(st.sampled_from([*_paths(data)]))
    inner = functools.reduce(operator.getitem, path[:-1], spoilt)
    if draw(st.booleans()):
        inner[path[-1]] = draw(JUNK)
    else:
        del inner[path[-1]]
    return spoilt


def _paths(data: Any) -> Iterator[tuple[Any, ...]]:
    keys = [*data] if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield from ((key,), *((key, *rest) for rest in _paths(data[key])))
