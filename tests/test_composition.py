"""Whatever is shipped goes together: backbones, architects, criteria, pruners, plans, and growths."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import pytest
import torch
from batch_sizes import Product
from convolutional import PLUGINS
from full import FULL
from hypothesis import given, settings, strategies as st
from nasframe_convolutional.backbone import ImageBackbone
from nasframe_growing import NodeGrowth
from nasframe_robustness import DartsPT, Sgas
from nasframe_sampling import Inherited
from nasframe_zero_cost import ZeroCost
from test_resume import digest
from twins import GrowingTwins

from nasframe import AskTellArchitect, Data, Search, Strategy, installed
from nasframe.errors import ChangeError
from nasframe.records import Record
from nasframe.search import evaluators
from nasframe.search.loop import Loop
from nasframe.search.plan import END, STAGE, Change, Plan, Repeat, Restore, Train, Trials
from nasframe.search.state import State, initial
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved

#: the options of parts that need some, or are to be tried with some; all others have their defaults
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "two_to_one": [{"hidden": 3}],
    "darts_recurrent": [{"hidden": 3, "output": "last"}, {"hidden": 3, "output": "mean"}],
    "darts_convolutional": [
        {"channels": 2, "cells": 3, "drop_path": 0.2, "operations": ["separable", "identity", "zero"], "output": "mean"}
    ],
    "partial_channels": [{"channels": 2, "cells": 2, "parts": 2, "operations": ["separable", "identity", "zero"]}],
    "nas_bench_201": [{"channels": 2, "cells": 1, "operations": ["zero", "identity", "dense_convolution"]}],
    "strongest": [{}, {"keep": 2}],
    "node": [{"form": "noise", "delta": 0.05}, {"form": "gate"}],
    "max_nodes": [{"nodes": 1}],
    "max_parameters": [{"parameters": 60}],
    "max_updates": [{"updates": 3}],
    "max_seconds": [{"seconds": 2.5}],
    "epochs": [{"epochs": 1}],
    "any_of": [{"parts": ["no_better", {"name": "max_nodes", "nodes": 1}]}],
    "all_of": [{"parts": ["no_better", {"name": "max_nodes", "nodes": 1}]}],
    "second_order": [{"follow": False}, {"follow": True}],
    "exact_second_order": [{"follow": False}, {"follow": True, "terms": ["beta_decay"]}],
    "random_search": [{"trials": 3, "updates": 2}],
    "regularised_evolution": [
        {"population": 2, "sample": 2, "trials": 4, "updates": 2, "inherit": inherit} for inherit in (False, True)
    ],
    "successive_halving": [{"candidates": 6, "updates": 1}],
}

#: the currencies of the first compositions of a backbone; the others state their gains, as measuring takes most of the time of a search
CURRENCIES = ("flops", "parameters", "flops", "parameters")
IMAGES = {"name": "blobs", "size": 4, "flips": True}
SERIES = {"name": "toy_series", "windows": 4}


def parts(kind: str) -> list[dict[str, Any]]:
    """Every shipped part of a kind."""
    return [{"name": name, **options} for name in installed().names(kind) for options in OPTIONS.get(name, [{}])]


def named(part: dict[str, Any]) -> str:
    """The name of a test with it."""
    return " ".join(str(value) for value in part.values() if not isinstance(value, list))


def sees(backbone: dict[str, Any]) -> bool:
    """Whether a backbone is for images."""
    return issubclass(installed().get("backbone", backbone["name"]), ImageBackbone)


def asks(architect: dict[str, Any]) -> bool:
    """Whether an architect proposes whole architectures, in the place of moving alphas."""
    return issubclass(installed().get("architect", architect["name"]), AskTellArchitect)


#: image networks come last: they take the longest, and of parts that fit equally well `compositions` chooses the first
BACKBONES = sorted(parts("backbone"), key=sees)
ARCHITECTS = [part for part in parts("architect") if not asks(part)]
PROPOSERS = [part for part in parts("architect") if asks(part)]


def composed(backbone: dict[str, Any], *others: Any) -> Strategy:
    """A tiny search by these parts."""
    architect, criterion, pruner, plan, growth = others
    return Strategy.from_dict(
        {
            "task": IMAGES if sees(backbone) else SERIES,
            "backbone": backbone,
            "architect": architect,
            # not every criterion ends a stage, or the search
            "criterion": {"name": "any_of", "parts": [criterion, {"name": "scripted", "growths": 1}]},
            "pruner": pruner,
            "plan": plan,
            "growth": [growth],
            "batch": 3,
            "optimiser": {"epochs": 2},
            "dtype": "float64",
        },
        PLUGINS,
    )


#: the parts of a composition by kind; a value is named by the place of its kind and its place in that kind
KINDS = (BACKBONES, ARCHITECTS, parts("criterion"), parts("pruner"), ["stage", "end"], parts("morphism"))
Value = tuple[int, int]


@functools.cache
def fits(one: Value, other: Value) -> bool:
    """Whether two parts can be in one composition: a morphism needs something in the backbone that it can change."""
    if (one[0], other[0]) != (0, len(KINDS) - 1):
        return True
    strategy = composed(KINDS[0][one[1]], ARCHITECTS[0], "patience", "strongest", "end", KINDS[-1][other[1]])
    structure = strategy.backbone.initial(strategy.task.load(torch.device("cpu"), torch.float64).sizes, 1)
    try:
        return strategy.growth[0].admits(structure)
    except ChangeError:  # no network of this backbone can be changed in this way
        return False


def pairs(values: Iterable[Value]) -> set[tuple[Value, Value]]:
    """Return the pairs of values of different kinds that fit."""
    return {(a, b) for a, b in itertools.combinations(sorted(values), 2) if a[0] != b[0] and fits(a, b)}


@functools.cache
def compositions() -> tuple[tuple[Value, ...], ...]:
    """Return compositions in which any two parts that fit meet: as few as a greedy choice finds."""
    values = [[(kind, place) for place in range(len(parts))] for kind, parts in enumerate(KINDS)]
    left, rows = pairs(itertools.chain(*values)), []
    # kinds with many parts have most of the pairs, so that their choice is made first
    order = sorted(range(len(KINDS)), key=lambda kind: -len(KINDS[kind]))
    while left:
        row = {value[0]: value for value in min(left)}
        for kind in order:
            if kind not in row:
                fitting = [v for v in values[kind] if all(fits(*sorted((v, w))) for w in row.values())]
                row[kind] = max(fitting, key=lambda v: len(pairs([v, *row.values()]) & left))
        rows.append(tuple(row[kind] for kind in range(len(KINDS))))
        left -= pairs(rows[-1])
    return tuple(rows)


def test_every_two_parts_meet() -> None:
    """Any two shipped parts of different kinds are in some composition, if the one can change the other."""
    met = {frozenset(pair) for row in compositions() for pair in itertools.combinations(row, 2)}
    for one, other in itertools.combinations(range(len(KINDS)), 2):
        for a, b in itertools.product(enumerate(KINDS[one]), enumerate(KINDS[other])):
            pair = (one, a[0]), (other, b[0])
            assert frozenset(pair) in met or not fits(*pair), (a, b)
    morphisms = [(len(KINDS) - 1, place) for place in range(len(KINDS[-1]))]
    assert all(any(fits((0, place), morphism) for place in range(len(BACKBONES))) for morphism in morphisms)
    # no fewer compositions can do, as each has one pair of two kinds
    least = max(len(one) * len(other) for one, other in itertools.combinations(KINDS, 2))
    assert len(compositions()) < 1.1 * least


def run(strategy: Strategy, data: Data, state: State) -> Iterator[Record]:
    """The search's events. Each update takes a second."""
    return Loop(strategy, data, lambda: float(state.updates)).run(state)


@pytest.mark.parametrize("backbone", range(len(BACKBONES)), ids=map(named, BACKBONES))
def test_all_that_is_shipped_goes_together(backbone: int) -> None:
    """Every composition searches to an architecture. Every third one is resumed somewhere on the way, to the same bytes, unless it
    reads the clock, which goes on meanwhile. A quick run takes every fourth composition, of images every eighth.
    """
    rows = [*enumerate(row for row in compositions() if row[0] == (0, backbone))]
    for place, row in rows if FULL else rows[:: 8 if sees(BACKBONES[backbone]) else 4]:
        parts = composed(*(KINDS[kind][number] for kind, number in row))
        strategy = attrs.evolve(parts, currency=dict(enumerate(CURRENCIES)).get(place, "stated"))
        data = strategy.task.load(torch.device("cpu"), torch.float64)
        state = initial(strategy, data)
        events = run(strategy, data, state)
        for _ in itertools.islice(events, 4 + place % 9):
            pass
        states = [state, revived(*saved(state), strategy, PLUGINS)] if place % 3 == 1 else [state]
        for _ in itertools.chain(events, *(run(strategy, data, each) for each in states[1:])):
            pass

        assert all(each.network.structure.decided for each in states), strategy
        timed = any("seconds" in getattr(record, "readings", ()) for record in state.history)
        assert timed or len({*map(digest, states)}) == 1, strategy


@pytest.mark.parametrize("architect", PROPOSERS, ids=named)
@pytest.mark.parametrize("backbone", BACKBONES, ids=named)
def test_architects_that_propose_go_with_every_backbone(backbone: dict[str, Any], architect: dict[str, Any]) -> None:
    """With each evaluator, trials lead to an architecture, and to the same bytes when the search is resumed on the way.

    In a quick run each backbone and architect has one of the evaluators.
    """
    strategy = attrs.evolve(composed(backbone, architect, "patience", "strongest", "trials", "node"), growth=(), in_flight=2)
    decisions = Search(strategy).space.decisions
    table = evaluators.Table.of(
        {picks: float(sum(picks)) for picks in itertools.product(*(range(d.options) for d in decisions))}
    )
    each = {"train": evaluators.Train(), "table": table, "inherited": Inherited(), "zero_cost": ZeroCost(examples=4)}
    # the table of NAS-Bench-201 is a file about cells of three nodes; other tests search by it
    assert each.keys() | {"nas_bench_201"} == {*installed().names("evaluator")}
    if not sees(backbone):
        del each["zero_cost"]  # recurrent cells may have no ReLU, which its default score needs
    if not FULL:
        place = BACKBONES.index(backbone) + PROPOSERS.index(architect)
        each = dict([[*each.items()][place % len(each)]])
    for evaluator in each.values():
        chosen = attrs.evolve(strategy, evaluator=evaluator)
        search = Search(chosen)
        events = iter(search)
        for _ in itertools.islice(events, 3):
            pass
        resumed = Search(chosen, state=revived(*saved(search.state), chosen, PLUGINS))
        for _ in itertools.chain(events, resumed):
            pass

        assert search.network.structure.decided
        assert digest(search.state) == digest(resumed.state)


GATE = (NodeGrowth("gate"),)
BOTH = ("weights", "alphas")
TUNE = Train(phase="tune", epochs=1, competes=True)
RELAXATIONS = [PLUGINS.make("relaxation", part) for part in parts("relaxation")]


def plans(proposer: AskTellArchitect) -> dict[str, Plan]:
    """Return the shipped plans, those of third parties, and one in which trials inherit the weights of a supernet."""
    supernet = Train(phase="search", parameters=BOTH, epochs=1)
    return {
        "stage": STAGE,
        "end": END,
        "darts_pt": DartsPT(epochs=1, tuning=1).steps(),
        "sgas": Sgas(warmup=1, between=1, tuning=1, keep=1).steps(),
        "growing_twins": GrowingTwins(epochs=2, threshold=0.05).steps(),
        "cycles": (
            Repeat(
                steps=(attrs.evolve(supernet, epochs=2, grace=1), Change(grow=True, growth=GATE, reset=BOTH[1:])),
                until="times",
                times=2,
            ),
            Change(prune=True, derive=True),
            TUNE,
            Restore(),
        ),
        "trials": (supernet, Trials(architect=proposer, inherit=True), TUNE, Restore()),
    }


def relaxed(architect: Any, relaxation: Any) -> Any:
    """Return the architect with a relaxation; one that contains another architect has that of the other."""
    if "architect" in attrs.fields_dict(type(architect)):
        return attrs.evolve(architect, architect=relaxed(architect.architect, relaxation))
    return attrs.evolve(architect, relaxation=relaxation)


@settings(max_examples=max(1, settings.default.max_examples // 4))
@given(st.data())
def test_plans_go_with_relaxations_and_architects(data: st.DataObject) -> None:
    """Each plan, relaxation and architect of either kind is in a search that ends with an architecture.

    The search is resumed somewhere on the way, to the same bytes. The batch size is a number or follows a rule.
    """

    def ordered(values: Any) -> list[Any]:
        return data.draw(st.permutations([*values]))

    def made(part: dict[str, Any]) -> Any:
        return PLUGINS.make("architect", part)

    names, relaxations, backbones = ordered(plans(made(PROPOSERS[0]))), ordered(RELAXATIONS), ordered(BACKBONES)
    architects, proposers, batches = ordered(ARCHITECTS), ordered(PROPOSERS), ordered([3, Product(500)])
    # the numbers of these lists have few common factors, so that they meet in many ways
    for i in range(max(len(names), len(relaxations), len(architects))):
        name, backbone = names[i % len(names)], backbones[i % len(backbones)]
        strategy = composed(backbone, architects[i % len(architects)], "patience", "strongest", "end", "node")
        strategy = attrs.evolve(
            strategy,
            architect=relaxed(strategy.architect, relaxations[i % len(relaxations)]),
            criterion=Scripted(growths=1),
            plan=plans(made(proposers[i % len(proposers)]))[name],
            growth=GATE,
            batch=batches[i % len(batches)],
            in_flight=2,
        )
        search = Search(strategy)
        events = iter(search)
        for _ in itertools.islice(events, data.draw(st.integers(3, 15))):
            pass
        resumed = Search(strategy, state=revived(*saved(search.state), strategy, PLUGINS))
        for _ in itertools.chain(events, resumed):
            pass

        assert search.network.structure.decided, strategy
        assert digest(search.state) == digest(resumed.state), strategy
