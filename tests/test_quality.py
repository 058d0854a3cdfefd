"""The protocol for the quality of searches: its statistics, and what it reads, trains and repeats."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_bilevel import Softmax
from nasframe_papers.quality import SearchQuality, protocol, trials
from nasframe_papers.quality.protocol import spreads, verdict
from nasframe_papers.quality.statistics import Cells, Picks, bootstrap, evenly, rank_correlation, ranks
from nasframe_papers.quality.strategies import NAMES, SHIPPED, ZERO_COST, strategies
from nasframe_recurrent import TwoToOne
from series_files import noise, text

from nasframe import Data, Search, Seed, Split, Strategy, build
from nasframe.change.apply import apply
from nasframe.change.edit import remove_candidates
from nasframe.errors import NonFiniteError

SEED = Seed(("quality",))
TINY = SearchQuality(
    tasks=("weather",),
    strategies=("mixing 1e-2", "asap", "single path", "darts_pt fixed", "finals"),
    nodes=1,
    hidden=1,
    trials=2,
    paired=2,
    updates=2,
    supernet=2,
)

losses = st.lists(st.floats(0, 1), min_size=3, max_size=6, unique=True)


def cells(valids: list[float]) -> Cells:
    """Return cells with these validation losses, each trained once and tested on one window with the same loss."""
    return Cells(tuple((i,) for i in range(len(valids))), {(i,): [{"valid": v, "test": [v]}] * 2 for i, v in enumerate(valids)})


# ------------------------------------------------------------------------------------------------------- statistics


def test_a_single_cell_has_no_spread() -> None:
    """If all other cells diverged, the message says that there is nothing to compare."""
    made = cells([0.3, np.inf, np.inf])

    with pytest.raises(NonFiniteError, match="of 3 cells, 1 could be trained without diverging"):
        spreads(made, made.random)


@given(losses)
def test_the_best_cell_has_percentile_100(valids: list[float]) -> None:
    """The best cell has percentile 100 and the worst one 0; those between are in the order of their losses; equal ones have 50."""
    made = cells(valids)
    percentiles = [made.percentile(cell) for cell in made.random]

    assert percentiles[int(np.argmin(valids))] == max(percentiles) == 100
    assert percentiles[int(np.argmax(valids))] == min(percentiles) == 0
    assert sorted(made.random, key=lambda cell: -percentiles[cell[0]]) == sorted(made.random, key=made.valid)
    assert {cells([0.5] * 3).percentile((i,)) for i in range(3)} == {50}


@given(losses, st.integers(1, 3))
def test_random_search_is_that_of_all_draws(valids: list[float], draws: int) -> None:
    """The probabilities equal the shares of all draws with replacement in which a cell is the best."""
    made = cells(valids)
    every = [*itertools.product(made.random, repeat=draws)]
    best = [min(drawn, key=made.valid) for drawn in every]
    chosen = made.random_search(draws)

    assert chosen == pytest.approx({cell: best.count(cell) / len(every) for cell in made.random})
    assert made.random_search(1e6)[min(made.random, key=made.valid)] == pytest.approx(1)


@given(losses)
def test_the_median_of_a_choice_is_that_of_its_values(valids: list[float]) -> None:
    """Cells that are chosen evenly have the median of their percentiles."""
    made = cells(valids)
    assert made.median_percentile(made.any) == pytest.approx(np.median([made.percentile(cell) for cell in made.random]))
    assert evenly([(0,), (1,), (0,), (0,)]) == {(0,): 0.75, (1,): 0.25}


def test_a_training_that_diverged_is_the_worst() -> None:
    """It has percentile 0, and random search chooses it only if it draws nothing else."""
    made = cells([0.3, None, 0.1])  # type: ignore[list-item]
    assert made.percentile((1,)) == 0
    assert made.random_search(2)[1,] == pytest.approx(1 / 9)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_equal_predictions_do_not_differ(values: list[float]) -> None:
    """The interval of differences of 0 is 0; that of others is within their range, and repeats with its seed."""
    differences = np.array(values)
    low, high = bootstrap(differences, 3, SEED, draws=100)

    assert bootstrap(0 * differences, 3, SEED, draws=100) == (0, 0)
    assert differences.min() - 1e-9 <= low <= high <= differences.max() + 1e-9
    assert (low, high) == bootstrap(differences, 3, SEED, draws=100)


def test_blocks_keep_the_correlation_of_windows() -> None:
    """For losses that change slowly, the interval of blocks is wider than that of single windows; for all as one block it is 0."""
    slow = np.sin(np.arange(200) * 2 * np.pi / 100)
    widths = [high - low for low, high in (bootstrap(slow, block, SEED) for block in (1, 25, 200))]

    assert widths[1] > 2 * widths[0] > 0
    assert widths[2] < 1e-9


def test_rank_correlations() -> None:
    """Equal values share a rank; the same order has correlation 1, the reversed one -1, and equal values have none."""
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
    assert rank_correlation([1.0, 2.0, 4.0], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 4.0], [0.3, 0.2, 0.1]) == pytest.approx(-1)
    assert rank_correlation([1.0, 1.0], [0.1, 0.2]) is None


@pytest.mark.parametrize(("all", "better", "word"), [(2.9, 2.9, "anything"), (9.0, 2.9, "separates"), (2.9, 3.0, "ranks")])
def test_a_task_below_the_ratio_shows_nothing(all: float, better: float, word: str) -> None:
    """Below a ratio of 3 among the better half a task ranks none of these, and if it is below 3 among all, too, it shows nothing."""
    assert word in verdict(all, better)


# --------------------------------------------------------------------------------------------------------- protocol


class Store:
    """Keeps the results of trials in memory, in the place of `kept`, and counts the trials that it computes."""

    def __init__(self, *, most: int = 10**9, backwards: bool = False) -> None:
        self.results: dict[str, Any] = {}
        self.most, self.backwards = most, backwards

    def __call__(self, function: Callable[[Any], Any], planned: Any, *_: Any) -> Iterator[Any]:
        """Yield the results in the order of the trials."""
        for trial in reversed(planned) if self.backwards else planned:
            if repr(trial) not in self.results:
                if len(self.results) == self.most:
                    raise KeyboardInterrupt
                self.results[repr(trial)] = function(trial)
        return (self.results[repr(trial)] for trial in planned)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], list[dict[str, Any]]]:
    """Return a function that measures a task of 40 rows and returns the rows without what depends on the clock."""
    (tmp_path / "tiny.csv").write_bytes(text(noise(40, 2)))
    monkeypatch.setitem(SHIPPED, "weather", {"name": "forecasting", "csv": str(tmp_path / "tiny.csv"), "window": 3})  # type: ignore[arg-type]

    monkeypatch.setattr(
        "nasframe_papers.quality.strategies._halving",
        lambda candidates, suggested=0: {
            "name": "successive_halving",
            "candidates": candidates,
            "suggested": suggested,
            "updates": 5,
        },
    )

    def rows(store: Store) -> list[dict[str, Any]]:
        monkeypatch.setattr(protocol, "kept", store)
        found = [dict(row) for row in TINY.rows(tmp_path, lambda line: None)]
        timed = ("test, less random", "low", "high")
        return [{k: v for k, v in r.items() if "CPU" not in k and not ("strategy" in r and k in timed)} for r in found]

    return rows


def test_the_rows_of_a_task(
    tiny: Callable[[Store], list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each training from scratch reads each test window once, and no search reads any. Equal cells are trained once. The rows
    are the same if trials run in another order, and after an interruption, which repeats no trial.
    """
    seen: list[int] = []
    honest = trials.loaded

    def counted(strategy: Strategy) -> Data:
        data = honest(strategy)

        def batch(index: Any) -> Any:
            seen.extend(index.tolist())
            return data.test.batch(index)

        return attrs.evolve(data, test=Split(data.test.size, batch))

    monkeypatch.setattr(trials, "loaded", counted)
    monkeypatch.setattr("nasframe.search.search.loaded", counted)
    whole = Store()
    rows = tiny(whole)

    trained = [result["test"] for result in whole.results.values() if "test" in result]
    assert sorted(seen) == sorted([*range(len(trained[0]))] * len(trained))
    # 5 cells and 3 layers with two seeds, and 3 references that are not trained
    assert (len(trained), len(whole.results) - len(trained)) == (2 * (5 + 3) + 3, 2 * (len(TINY.strategies) + len(ZERO_COST)))

    kinds = [next(key for key in row if key != "task") for row in rows]
    table = {kind: [row for row, k in zip(rows, kinds, strict=True) if k == kind] for kind in kinds}
    assert [*table] == ["cells", "strategy", "baseline", "score", "reference", "model", "trained for", "supernet", "pruned"]
    assert {row["strategy"] for row in table["strategy"]} == {*TINY.strategies}
    assert [row["model"] for row in table["model"]][1:] == [*protocol.LAYERS]
    assert {row["pruned"] for row in table["pruned"]} == {*TINY.strategies} - {"finals", "single path"}
    # without alphas the mixing weights are equal, and rank nothing
    assert {row["mixing"] for row in table["supernet"] if row["supernet"] == "darts_pt fixed"} == {None}
    assert table["trained for"][-1]["trained for"] == 2
    uniform = {row["baseline"]: row for row in table["baseline"]}
    assert [row["score"] for row in table["score"]] == [*ZERO_COST, "parameters", "flops"]
    scores = {row["score"]: row for row in table["score"]}
    # of the five cells relu alone has active units
    assert scores["regions"]["scored"] == pytest.approx(0.2)
    assert scores["regions"]["test"] == pytest.approx(uniform["relu"]["test"])
    assert "computes no ReLU" in scores["regions"]["not scored"]
    # sigmoid, tanh and relu have as many parameters, and the other two fewer
    assert scores["parameters"]["test"] == pytest.approx(
        np.mean([uniform[name]["test"] for name in ("sigmoid", "tanh", "relu")])
    )
    for row in table["strategy"]:
        assert row["test"] == pytest.approx(np.mean([uniform[cell]["test"] for cell in row["found"]]))

    (picture,) = TINY.draw(rows, tmp_path)
    assert picture.stat().st_size > 10_000

    interrupted = Store(most=12)
    with pytest.raises(KeyboardInterrupt):
        tiny(interrupted)
    kept = dict(interrupted.results)
    interrupted.most, interrupted.backwards = 10**9, True
    assert tiny(interrupted) == rows
    assert all(interrupted.results[trial] is result for trial, result in kept.items())
    assert len(interrupted.results) == len(whole.results)


@given(losses)
def test_a_score_ranks_cells(valids: list[float]) -> None:
    """A score that equals the truth finds the best cell with correlation 1, and its negative the worst one with -1.

    Cells without a score are left out.
    """
    made, measurement = cells(valids), protocol.Measurement(TINY, "weather", {"name": "forecasting"}, Path(), print)

    def row(scores: list[float | None]) -> Any:
        refused = ["no score" if score is None else None for score in scores]
        return measurement._score("score", [{"losses": scores, "refused": refused, "CPU seconds": 0.0}], made)

    good, bad = row([*valids]), row([-valid for valid in valids])
    assert (good["percentile"], good["rank correlation"], good["scored"]) == (100, pytest.approx(1), 1)
    assert (bad["percentile"], bad["rank correlation"]) == (0, pytest.approx(-1))
    one, none = row([valids[0], *[None] * (len(valids) - 1)]), row([None] * len(valids))
    assert (one["valid"], one["rank correlation"], one["not scored"]) == (pytest.approx(valids[0]), None, "no score")
    assert one["scored"] == pytest.approx(1 / len(valids))
    assert "percentile" not in none
    assert none["scored"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_can_be_read(name: str) -> None:
    """The values of each strategy make a strategy, whose plan ends with an architecture."""
    made = protocol.Measurement(TINY, "weather", {"name": "forecasting"}, Path(), print)
    values = made._strategy_values(strategies(2, 4, 4, 2)[name], 2)
    assert Strategy.from_dict(Strategy.from_dict(values).to_dict()) == Strategy.from_dict(values)


def test_a_grown_cell_is_one_of_the_random_cells(tmp_path: Path) -> None:
    """A search that grows from one node to three names the cell that it found, and measures its last supernet, as one of three nodes."""
    (tmp_path / "tiny.csv").write_bytes(text(noise(40, 2)))
    task = {"name": "forecasting", "csv": str(tmp_path / "tiny.csv"), "window": 3}
    made = protocol.Measurement(attrs.evolve(TINY, nodes=3), "weather", task, Path(), print)

    def trial(name: str) -> dict[str, Any]:
        values = made._strategy_values(strategies(3, 3, 4, 3)[name], 3)
        return {"values": values, "seed": 0, "cells": [[0, 1, 2], [4, 3, 2]]}

    grown, whole = (trials.search_trial(trial(name)) for name in ("grown", "mixing 1e-2"))
    search = Search(Strategy.from_dict(trial("grown")["values"]))
    space = made._shared.backbone.space(made._shared.backbone.initial(search.data.sizes, 3))
    search.run()

    assert protocol.named(space.architecture(grown["picks"])) == protocol.named(search.network.structure)
    assert grown["updates"] == whole["updates"]
    assert grown["supernet"]["sites"] == whole["supernet"]["sites"] == [address for address, _ in space.supernet.sites()]
    assert len(grown["supernet"]["inherited"]) == 2


@given(st.tuples(*[st.integers(0, 4)] * 3))
def test_a_cell_within_the_supernet_computes_what_it_computes_alone(picks: Picks) -> None:
    """The loss of a cell with inherited weights is that of the supernet after the other candidates are removed."""
    backbone = TwoToOne(2)
    structure = backbone.initial({"inputs": 2, "outputs": 2}, 3)
    network, inputs = build(structure, SEED, relaxation=Softmax()), noise(10, 2).float().reshape(5, 2, 2)
    architecture = backbone.space(structure).architecture(picks)
    kept = {address: site.candidates[0].id for address, site in architecture.sites()}
    gone = {address: {c.id for c in site.candidates} - {kept[address]} for address, site in structure.sites()}
    child = apply(network, remove_candidates(structure, gone), SEED).child

    torch.testing.assert_close(network(inputs, trials.alone(network, architecture)), child(inputs))


def test_random_cells_differ() -> None:
    """Drawn cells are different cells of the space; a space of no more cells is taken whole."""
    shared = protocol.Measurement(TINY, "weather", {"name": "forecasting"}, Path(), print)._shared
    backbone = shared.backbone
    few, many = (backbone.space(backbone.initial({"inputs": 2, "outputs": 2}, nodes)) for nodes in (1, 3))
    drawn: list[Picks] = protocol.drawn(many, 25)

    assert len({*drawn}) == 25
    assert all(len(picks) == 3 for picks in drawn)
    assert drawn == protocol.drawn(many, 25)
    assert protocol.drawn(few, 25) == [(i,) for i in range(5)]


def test_unknown_names_are_refused() -> None:
    """Tasks and strategies that do not exist are refused with those that do."""
    with pytest.raises(ValueError, match="tasks is \\('weathr',\\); it must be a list of some of 'pedestrians', 'weather'"):
        SearchQuality(tasks=("weathr",))
    with pytest.raises(ValueError, match="strategies is"):
        SearchQuality(strategies=("mixing",))
