"""Hypothesis strategies: sizes down to 1, optimisers, seeds, searches, networks that have trained, and damaged JSON."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings, strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from nasframe import Address, Backbone, Network, Optimiser, Seed, Strategy, Structure, Task
from nasframe.errors import NonFiniteError
from nasframe.testing.compare import largest
from nasframe.testing.fakes import AdamDescent, Endless, Keep, Sigmoids
from nasframe.testing.trained import TrainedNetwork

F = TypeVar("F", bound=Callable[..., Any])
_CACHES: list[Any] = []


# Training the networks is most of the cost of a check. Cases are drawn deterministically, so that all laws of a kind meet
# the same strategies and share their networks.
def cached(function: F) -> F:
    """Cache the results of a function whose arguments are hashable, as laws are tried on the same cases."""
    wrapped: Any = functools.lru_cache(maxsize=128)(function)
    _CACHES.append(wrapped)
    return wrapped


def clear_caches() -> None:
    """Forget all cached results, for a test that changes what they are made by."""
    for cache in _CACHES:
        cache.cache_clear()


class _Found(BaseException):
    """A value was found. Only what is no Exception ends the search of hypothesis at once."""


def draw_one(strategy: SearchStrategy[Any], tries: int = 1, errors: tuple[type[Exception], ...] = ()) -> Any:
    """Return the first value of a strategy that is true, the same one at every call; None if there is none.

    Args:
        strategy: the strategy.
        tries: the number of values to draw.
        errors: if drawing a value raises one of these errors, the value is left out.
    """
    found: list[Any] = []

    @settings(
        max_examples=tries,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        with contextlib.suppress(*errors):
            found.append(data.draw(strategy))
        if found and found[-1]:
            raise _Found  # a value may take a training, so that no further one is drawn

    with contextlib.suppress(_Found):
        run()
    return next(filter(None, found), None)


def sizes(high: int = 4) -> SearchStrategy[int]:
    """Return a strategy that draws a number of units, steps or examples, at least 1.

    Example:
        Criteria that wait for one to three epochs:

        >>> from hypothesis import strategies as st
        >>> from nasframe_growing import Patience
        >>> draw_one(st.builds(Patience, epochs=sizes(3))).epochs in (1, 2, 3)
        True
    """
    return st.integers(1, high)


def seeds() -> SearchStrategy[Seed]:
    """Return a strategy that draws seeds."""
    return st.integers(0, 2**16).map(lambda n: Seed((n, "drawn")))


def optimisers() -> SearchStrategy[Optimiser]:
    """Return SGD with momentum, Adam or AdamW, with learning rates that change a network within a few steps."""
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
def searches(draw: DrawFn, backbone: Backbone, task: Task, most: int = 3) -> Strategy:
    """Return a search with a backbone on a task, in float64, that neither grows nor prunes.

    Its mixing weights are sigmoids of the alphas, which do not sum to one, or softmaxes: a part must not rely on either. The simplest
    search, which is among the cases of each law, has sigmoids, because most parts are written with a softmax in mind. The alphas
    have the learning rate 0.01, so that they change within a few steps.

    Args:
        draw: is given by hypothesis.
        backbone: the backbone.
        task: the task.
        most: the largest number of nodes of a cell.

    Example:
        >>> from nasframe.testing.fakes import Chain, Noise
        >>> task = Noise((("inputs", 3), ("outputs", 1)), inputs=(-1, 3), outputs=(-1, 1))
        >>> strategy = draw_one(searches(Chain(), task))
        >>> strategy.backbone.name, strategy.task.name, strategy.dtype
        ('chain', 'noise', 'float64')
    """
    return Strategy(
        task=task,
        backbone=backbone,
        architect=draw(st.sampled_from([AdamDescent(Sigmoids()), AdamDescent()])),
        criterion=Endless(),
        pruner=Keep(),
        nodes=draw(sizes(most)),
        batch=draw(sizes(5)),
        optimiser=draw(optimisers()),
        seed=draw(st.integers(0, 999)),
        dtype="float64",
    )


def trained_network(strategy: Strategy, steps: int = 8) -> TrainedNetwork:
    """Return a copy of the network of a search after so many steps; reject the case if the training diverges."""
    found = _trained(strategy, steps)
    if found is None:
        reject()
    return found.copy()


@cached
def supernet(strategy: Strategy) -> Network:
    """Return the untrained network of a search, for its sites and shapes: it is shared and must not be changed."""
    return TrainedNetwork.of(strategy, 0).network


@cached
def _trained(strategy: Strategy, steps: int) -> TrainedNetwork | None:
    try:
        found = TrainedNetwork.of(strategy, steps)
    except NonFiniteError:
        return None
    if not steps:
        return found
    # Laws compare differences with rounding in proportion to the outputs.
    outputs = [found.outputs(training) for training in (False, True)]
    # a network that is about to diverge has outputs whose rounding hides every law
    tame = all(bool(o.isfinite().all()) and largest(o) < 1e3 for o in outputs)
    return found if tame and found.state.updates == steps else None


def trained_networks(strategies: SearchStrategy[Strategy], steps: int = 8) -> SearchStrategy[TrainedNetwork]:
    """Return the network of one of these searches after so many steps."""
    return strategies.map(lambda strategy: trained_network(strategy, steps))


@st.composite
def removals(draw: DrawFn, structure: Structure, decide: bool = False) -> Mapping[Address, frozenset[int]]:
    """Return ids of candidates that can be removed, by site.

    Args:
        draw: is given by hypothesis.
        structure: the structure from which they are removed.
        decide: whether one candidate at most remains at each site.
    """
    removed: dict[Address, frozenset[int]] = {}
    for address, site in structure.sites():
        if not site.decided:
            ids = frozenset(c.id for c in site.candidates)
            # sorted: the order of a set differs between processes, and with it the drawn case
            kept = st.sampled_from(sorted(ids)).map(lambda id: frozenset({id}))
            kept = kept if decide else st.frozensets(st.sampled_from(sorted(ids)), min_size=1)
            removed[address] = ids - draw(kept)
    for address, site in structure.sites():
        others = [a for a in structure.sites_of(Address.of(address.cell, site.node)) if a != address]
        # a node must keep one candidate, at whichever of its sites
        stays = any(len(removed.get(a, ())) < len(dict(structure.sites())[a].candidates) for a in others)
        if address in removed and stays and draw(st.booleans()):
            removed[address] = frozenset(c.id for c in site.candidates)
    return {address: ids for address, ids in removed.items() if ids}


#: values that do not belong into a JSON text, or not there
JUNK: SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, [], {}, [{}], "", "x", "n0", "a.b", "a/b"]),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    st.text(max_size=3),
)


@st.composite
def damaged(draw: DrawFn, data: Any) -> Any:
    """Return a copy of JSON values in which one value, at any depth, is left out or replaced."""
    # a deep copy that contains JSON values only
    copy = json.loads(json.dumps(data))
    path = draw(st.sampled_from([*_paths(data)]))
    # The table or list that holds the chosen value.
    inner = functools.reduce(operator.getitem, path[:-1], copy)
    if draw(st.booleans()):
        inner[path[-1]] = draw(JUNK)
    else:
        del inner[path[-1]]
    return copy


def _paths(data: Any) -> Iterator[tuple[Any, ...]]:
    keys = [*data] if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield from ((key,), *((key, *rest) for rest in _paths(data[key])))
