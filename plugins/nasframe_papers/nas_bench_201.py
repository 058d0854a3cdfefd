"""Searches of NAS-Bench-201 (Dong & Yang 2020), on a small scale: the published accuracies score the cells that they find.

Supernets are trained on a sample of CIFAR-10 with few channels and cells. Other searches read validation accuracies from the
published table, or compare untrained networks. Each cell is scored by the published test accuracies after 200 epochs, which no
search reads.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from nasframe import Search, Strategy, installed
from nasframe.interfaces.reproduction import Reproduction
from nasframe.options import number
from nasframe.records import TrialEnded
from nasframe_papers.darts import ADAM, SGD
from nasframe_papers.quality.statistics import rank_correlation, ranks
from nasframe_papers.trials import Values, among, kept, present, standard_error, tupled

FILES = {"table": "nasbench201.csv.gz", "CIFAR-10": "cifar10_12k.npz"}
#: the columns with the scores of a found cell, and what a search of the table sees
SCORES = {"CIFAR-10": "cifar10_test_e200", "CIFAR-100": "cifar100_test_e200", "ImageNet16-120": "imagenet16_test_e200"}
REWARD = "cifar10_val_e12"
BATCH = 64

#: the supernet is trained, and then each edge keeps its strongest candidate; a search ends there, without the phase that tunes the cell
DERIVE = [
    {"name": "train", "phase": "search", "parameters": ["weights", "alphas"]},
    {"name": "change", "derive": True},
    {"name": "train", "phase": "tune", "competes": True},
]
#: the options of each zero-cost score, and of the networks that it sees: as in TE-NAS, regions are counted in narrow ones on 3 x 3 pixels
ZERO_COST: Mapping[str, tuple[Values, Values]] = {
    "naswot": ({"examples": 32}, {}),
    "synflow": ({"examples": 2}, {}),
    "ntk": ({"examples": 16}, {}),
    "regions": ({"examples": 1000, "crop": 3}, {"channels": 1}),
}
TE_NAS = "ntk and regions (TE-NAS)"
#: the baseline of the scores, which needs no network: 9 for each 3 x 3 convolution and 1 for each 1 x 1 convolution
WEIGHTS = "weights of convolutions"
#: the searches that read validation accuracies from the table
QUERIES = ("random search on the table", "evolution on the table")
#: the search that trains cells from scratch
HALVING = "successive halving"


def supernets(epochs: int, rate: float, drawn: int) -> Mapping[str, Values]:
    """Return what differs in the strategy of each search of a supernet, by the name of the search.

    Each trains its supernet for that many epochs in all, where its plan allows it.

    Args:
        epochs: the epochs of a supernet.
        rate: the learning rate of the alphas.
        drawn: the number of random cells that are ranked with the weights of a supernet.
    """

    def alphas(name: str = "first_order", **options: Any) -> Values:
        return {"name": name, "optimiser": {**ADAM, "learning_rate": rate}, **options}

    def relaxed(name: str, **options: Any) -> Values:
        return alphas(relaxation={"name": name}, **options)

    derived = {
        "DARTS, first order": relaxed("softmax"),
        "GDAS": relaxed("hard_gumbel"),
        "DrNAS": relaxed("dirichlet"),
        "SNAS": relaxed("concrete"),
        "ProxylessNAS": relaxed("binary_gates"),
        "FairDARTS": relaxed("independent_sigmoids", terms=[{"name": "zero_one"}]),
        "Beta-DARTS": alphas(terms=[{"name": "beta_decay"}]),
        "SDARTS-RS": {"name": "sdarts", "architect": alphas(), "form": "random"},
        "I-DARTS": relaxed("node_softmax"),
        "edge normalisation of PC-DARTS": relaxed("edge_normalisation"),
        "DARTS, second order": alphas("second_order"),
        "DARTS, exact second order": alphas("exact_second_order"),
    }
    # Six edges are decided one at a time, with an epoch between two decisions. An edge loses four candidates.
    sgas = {"name": "sgas", "warmup": max(1, epochs - 5), "between": 1, "keep": 3}
    elimination = {"name": "elimination", "epochs": max(1, epochs - 3), "tuning": 1, "per": "site"}
    ranked = {"name": "random_search", "trials": drawn, "updates": 1}
    return {
        **{name: {"architect": architect, "plan": DERIVE} for name, architect in derived.items()},
        "DARTS-PT, alphas fixed": {"plan": {"name": "darts_pt", "epochs": epochs, "tuning": 1, "alphas": False}},
        "SGAS": {"architect": alphas(), "plan": sgas},
        "ASAP": {
            "architect": relaxed("annealed_softmax"),
            "plan": {"name": "asap", "epochs": epochs, "grace": min(1, epochs - 1)},
        },
        "elimination": {"architect": alphas(), "plan": elimination},
        "single path": {
            "architect": relaxed("hard_gumbel"),
            "plan": {"name": "single_path", "epochs": epochs, "architect": ranked},
        },
    }


SUPERNETS = tuple(supernets(1, 0.01, 1))
NAMES = (*SUPERNETS, HALVING, *QUERIES, *ZERO_COST)


@attrs.frozen
class NasBench201Searches(Reproduction):
    """Published accuracies of the cells of NAS-Bench-201 that searches find, beside cells without a search.

    Each search runs with several seeds. A row has the mean accuracies of the found cells after 200 epochs.

    Args:
        searches: the names of the searches; by default all.
        trials: the number of seeds of each search.
        channels: the number of channels of the first stage of a supernet.
        cells: the number of cells of each stage.
        images: the number of training images, of which half are for validation and the alphas.
        epochs: the number of epochs of a supernet.
        rate: the learning rate of the alphas.
        queries: the number of accuracies that random search and evolution read from the table.
        drawn: the number of random cells of which a zero-cost score, or the loss with the weights of single paths, chooses one.
        data: the folder with nasbench201.csv.gz and cifar10_12k.npz; by default that of the environment variable NASFRAME_DATA.
        jobs: the number of processes, of one thread each. The results do not depend on it.
    """

    name: ClassVar[str] = "nas-bench-201"
    about: ClassVar[str] = "searches of NAS-Bench-201 (Dong & Yang 2020): the published accuracies of the cells that they find"
    searches: tuple[str, ...] = attrs.field(default=NAMES, converter=tupled, validator=among(NAMES))
    trials: int = number(3, low=1, whole=True)
    channels: int = number(4, low=1, whole=True)
    cells: int = number(1, low=1, whole=True)
    images: int = number(4000, low=20, whole=True)
    epochs: int = number(6, low=1, whole=True)
    rate: float = number(0.01, low=0.0)
    queries: int = number(100, low=1, whole=True)
    drawn: int = number(100, low=2, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Values]:
        """Yield the baselines, the searches, and the rank correlations of the zero-cost scores."""
        files = present(FILES, self.data, say)
        if len(files) < len(FILES):
            return
        table = read(files["table"])
        yield from _baselines(table, self.queries)
        searches = [*self._searches(files)]
        found = [*kept(search_trial, searches, self.jobs, folder / "searches", say)]
        by_model: dict[str, list[Values]] = {}
        for trial, result in zip(searches, found, strict=True):
            by_model.setdefault(trial["model"], []).append(result)
        scored = [score for score in ZERO_COST if score in by_model]
        if {"ntk", "regions"} <= {*scored}:
            by_model[TE_NAS] = [_te_nas(*pair) for pair in zip(by_model["ntk"], by_model["regions"], strict=True)]
        if scored:  # equal seeds draw equal cells for all scores
            by_model[WEIGHTS] = [_weights(result) for result in by_model[scored[0]]]
        for model, results in by_model.items():
            yield _search_row(table, model, results)
        for model in (*scored, TE_NAS, WEIGHTS):
            if model in by_model:
                yield _correlation_row(table, model, by_model[model])

    def _searches(self, files: Mapping[str, Path]) -> Iterator[Values]:
        # seed by seed, so that an interrupted reproduction has all searches with the first seeds
        for seed in range(self.trials):
            for model, values in self._strategies(files).items():
                if model in self.searches:
                    yield {"series": "NAS-Bench-201", "model": model, "seed": seed, "values": values}

    def _strategies(self, files: Mapping[str, Path]) -> Mapping[str, Values]:
        """Return the plain values of a strategy for each search."""
        common: dict[str, Any] = {
            "task": {
                "name": "images",
                "npz": str(files["CIFAR-10"]),
                "train": self.images,
                "validation": 0.5,
                "flip": True,
                "crop": 4,
            },
            "backbone": {"name": "nas_bench_201", "channels": self.channels, "cells": self.cells},
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": self.epochs},
            "pruner": {"name": "strongest"},
            "nodes": 3,
            "batch": BATCH,
            "optimiser": {**SGD, "weight_decay": 5e-4, "epochs": self.epochs, "final": 0.001},
            "in_flight": 1,
        }
        changes = supernets(self.epochs, self.rate, self.drawn)
        found: dict[str, Values] = {model: {**common, **values} for model, values in changes.items()}
        # rungs of 1, 3 and 9 epochs
        halving = {"name": "successive_halving", "candidates": 18, "updates": math.ceil(self.images / 2 / BATCH)}
        found[HALVING] = {**common, "architect": halving}
        table = {"name": "nas_bench_201", "table": str(files["table"]), "column": REWARD}
        random = {"name": "random_search", "trials": self.queries}
        evolution = {"name": "regularised_evolution", "population": 10, "sample": 3, "trials": self.queries}
        for model, architect in zip(QUERIES, (random, evolution), strict=True):
            found[model] = {**common, "architect": architect, "evaluator": table}
        for score, (options, narrow) in ZERO_COST.items():
            found[score] = {
                **common,
                "backbone": {**common["backbone"], **narrow},
                "architect": {"name": "random_search", "trials": self.drawn},
                "evaluator": {"name": "zero_cost", "score": score, **options},
            }
        return found


def read(path: Path) -> Mapping[str, Mapping[str, float]]:
    """Return the accuracies of each cell, by its digits and the name of the column.

    Raises:
        DataError: if the file is no such table.
    """
    # the evaluator that a search of the table has, so that both refuse the same files
    evaluator = {"name": "nas_bench_201", "table": str(path)}
    columns = {
        column: installed().make("evaluator", {**evaluator, "column": column}).accuracies
        for column in (REWARD, *SCORES.values())
    }
    return {cell: {column: found[cell] for column, found in columns.items()} for cell in columns[REWARD]}


def search_trial(trial: Values) -> Values:
    """Search until each edge has one operation, and return the cell and its trials as plain values."""
    start = time.process_time()
    search = Search(attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"]))
    trials, updates = [], 0
    for event in search:
        if isinstance(event, TrialEnded):
            trials.append([_digits(event.picks), event.valid])
        updates = event.updates
        # a search by trials begins with an architecture; that of a supernet has found its cell
        if search.strategy.ask_tell is None and search.network.structure.decided:
            break
    return {
        "cell": _digits(search.space.picks(search.network.structure)),
        "trials": trials,
        "updates": updates,
        "CPU seconds": time.process_time() - start,
    }


def _digits(picks: Sequence[int]) -> str:
    # The sites and candidates of the backbone have the published order, so that the picks are the digits.
    return "".join(map(str, picks))


def _te_nas(ntk: Values, regions: Values) -> Values:
    """Return the choice by the sum of the ranks of both scores (Chen et al. 2021, 3.2)."""
    cells = [cell for cell, _ in ntk["trials"]]
    assert cells == [cell for cell, _ in regions["trials"]], "equal seeds draw equal cells"
    sums = [sum(pair) for pair in zip(*(ranks(_losses(scored)) for scored in (ntk, regions)), strict=True)]
    return _chosen([*zip(cells, sums, strict=True)], ntk["CPU seconds"] + regions["CPU seconds"])


def _weights(drawn: Values) -> Values:
    """Return the choice of the cell whose convolutions have the most weights, among the cells of another search."""
    return _chosen([(cell, -9 * cell.count("3") - cell.count("2")) for cell, _ in drawn["trials"]], 0.0)


def _chosen(trials: Sequence[tuple[str, float]], seconds: float) -> Values:
    """Return the result of a search that chooses the cell of least loss."""
    return {"cell": min(trials, key=lambda pair: pair[1])[0], "trials": trials, "updates": 0, "CPU seconds": seconds}


def _losses(result: Values) -> list[float]:
    return [math.inf if valid is None else valid for _, valid in result["trials"]]


def expected(table: Mapping[str, Mapping[str, float]], column: str, n: int) -> tuple[float, float]:
    """Return mean and standard deviation of a column for the cell of best validation accuracy among n cells, drawn without replacement."""
    cells = sorted(table.values(), key=lambda row: -row[REWARD])
    mean = square = 0.0
    left = 1.0  # the probability that none of the better cells was drawn
    place = 0
    for _, group in itertools.groupby(cells, lambda row: row[REWARD]):
        values = [row[column] for row in group]
        # Equal cells are drawn with equal probabilities, so that each counts as their mean.
        first = left
        for _ in values:
            left *= max(len(cells) - place - n, 0) / (len(cells) - place)
            place += 1
        mean += (first - left) * statistics.fmean(values)
        square += (first - left) * statistics.fmean(v * v for v in values)
    return mean, math.sqrt(max(square - mean * mean, 0.0))


def _baselines(table: Mapping[str, Mapping[str, float]], queries: int) -> Iterator[Values]:
    # 333333 is the cell with the most parameters and the most multiply-adds
    yield {"search": "333333, no search", **_accuracies(table, ["333333"]), "cells": "333333"}
    for n in dict.fromkeys((1, 10, queries)):
        scores = {name: expected(table, column, n) for name, column in SCORES.items()}
        means = {name: mean for name, (mean, _) in scores.items()}
        yield {"search": f"random search, {n} queries (exact)", **means, "std": scores["CIFAR-10"][1]}


def _accuracies(table: Mapping[str, Mapping[str, float]], cells: Sequence[str]) -> Mapping[str, float]:
    """Return the mean test accuracies of cells, and the mean share of all cells that are worse on CIFAR-10, in percent."""
    means = {name: statistics.fmean(table[cell][column] for cell in cells) for name, column in SCORES.items()}
    first = SCORES["CIFAR-10"]
    worse = [sum(row[first] < table[cell][first] for row in table.values()) / len(table) for cell in cells]
    return {**means, "percentile": 100 * statistics.fmean(worse)}


def _search_row(table: Mapping[str, Mapping[str, float]], model: str, results: Sequence[Values]) -> Values:
    cells, trains = [result["cell"] for result in results], model in (*SUPERNETS, HALVING)
    return {
        "search": model,
        **_accuracies(table, cells),
        "std": statistics.stdev(table[cell][SCORES["CIFAR-10"]] for cell in cells) if len(cells) > 1 else None,
        "cells": " ".join(cells),
        # those of a table are what its trials would have taken
        "updates": round(statistics.fmean(result["updates"] for result in results)) if trains else None,
        "CPU minutes": statistics.fmean(result["CPU seconds"] for result in results) / 60,
    }


def _correlation_row(table: Mapping[str, Mapping[str, float]], model: str, results: Sequence[Values]) -> Values:
    """Return the mean rank correlation of a score with the test accuracies; 1 is the right order.

    Seeds with which all cells have one score have no correlation, and are left out.
    """
    row: dict[str, Any] = {"score": model}
    for name, column in SCORES.items():
        found = [
            rank_correlation(_losses(result), [-table[cell][column] for cell, _ in result["trials"]]) for result in results
        ]
        known = [value for value in found if value is not None]
        row[f"Spearman {name}"] = statistics.fmean(known) if known else None
        row[f"error {name}"] = standard_error(known) if len(known) > 1 else None
    return row
