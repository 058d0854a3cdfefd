"""Compare ways to choose a cell with all cells of a small space, which are trained from scratch.

    NASFRAME_DATA=... python docs/measurements/choosers.py --results choosers.jsonl

The space is that of Two-to-One with two nodes and the five operations of Jie & Gao (2021), 25 cells of 16 units. Each of them is
trained from scratch with three seeds, and ranked by the mean of its least validation losses. Then each way chooses a cell with several
seeds, and the rank of that cell is reported. The series are hourly pedestrians in Melbourne (melbourne_pedestrians.csv.gz in the folder of
NASFRAME_DATA), and made-up sensors with a daily cycle. The result of each training and of each search is added to the file, and one that
is in it already is not repeated. The script prints tables in markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from dynamic import Results, spread
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_growing import Epochs
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne
from nasframe_sampling import RandomSearch, SuccessiveHalving

from nasframe import Optimiser, Search, Seed, Strategy, Structure
from nasframe.search.evaluate import Trial, fit, module_of
from nasframe.search.plan import Change, Plan, Train, Trials

SERIES = ("pedestrians", "sensors")
#: the updates of the truth, and its seeds, which no search has
UPDATES, TRUTH = 1500, (100, 101, 102)
#: the epochs of a supernet: 400 to 600 updates
EPOCHS = {"pedestrians": 16, "sensors": 20}
SUPERNET = Train(phase="search", parameters=("weights", "alphas"), competes=True)
STRONGEST: Plan = (SUPERNET, Change(prune=True, derive=True), Train(phase="tune", epochs=1, competes=True))
HALVING = SuccessiveHalving(25, updates=25)


@attrs.frozen
class Way:
    """A way to choose a cell: a plan, and the learning rate of the alphas."""

    plan: Plan
    rate: float = 3e-4


WAYS: Mapping[str, Way] = {
    "largest mixing weights, rate 3e-4": Way(STRONGEST),
    "largest mixing weights, rate 1e-2": Way(STRONGEST, 1e-2),
    "random search, 2 cells of 800 updates": Way((Trials(architect=RandomSearch(2, 800)),)),
    "halving of all cells": Way((Trials(architect=HALVING),)),
    "halving of 12 random cells": Way((Trials(architect=attrs.evolve(HALVING, candidates=12, suggested=0)),)),
    "halving of 12 cells, 3 of them suggested": Way((SUPERNET, Trials(architect=attrs.evolve(HALVING, candidates=12)))),
}


def sensors(folder: Path) -> Path:
    """Write 2,000 hours of three sensors with a daily cycle, and return the path."""
    generator, hours = np.random.default_rng(0), np.arange(2000)
    day = 2 * np.pi * hours / 24
    drift = np.cumsum(generator.normal(0, 0.05, len(hours)))
    temperature = 12 + 6 * np.sin(day) + drift + generator.normal(0, 0.3, len(hours))
    humidity = 70 - 15 * np.sin(day - 0.4) - drift + generator.normal(0, 1.0, len(hours))
    load = 300 + 80 * np.cos(day - 1.0) + 2 * np.roll(temperature, 3) + generator.normal(0, 4.0, len(hours))
    path = folder / "sensors.csv"
    rows = zip(temperature, humidity, load, strict=True)
    path.write_text("temperature,humidity,load\n" + "".join(f"{a:.2f},{b:.1f},{c:.1f}\n" for a, b, c in rows))
    return path


def strategy_of(series: str, way: Way, seed: int) -> Strategy:
    """Return the search of a series that chooses in some way."""
    if series == "pedestrians":
        task = Forecasting(csv=str(Path(os.environ["NASFRAME_DATA"], "melbourne_pedestrians.csv.gz")), window=24)
    else:
        task = Forecasting(csv=str(sensors(Path(tempfile.mkdtemp()))), window=24)
    return Strategy(
        task=task,
        backbone=TwoToOne(hidden=16),
        architect=FirstOrder(Optimiser(learning_rate=way.rate)),
        criterion=Epochs(EPOCHS[series]),
        pruner=Strongest(),
        growth=(),
        plan=way.plan,
        nodes=2,
        seed=seed,
    )


def trained(series: str, cell: int, seed: int) -> dict[str, Any]:
    """Return the operations of a cell, and its validation loss after a training from scratch."""
    search = Search(strategy_of(series, WAYS["halving of all cells"], seed))
    first, second = divmod(cell, 5)
    structure = search.space.architecture((first, second))
    trial = Trial(structure, UPDATES, Seed((seed, "truth", cell)))
    network = module_of(trial, search.strategy, search.data)
    found = fit(network, search.strategy, search.data, updates=UPDATES, seed=trial.seed)
    return {"cell": operations(structure), "valid": found.valid, "updates": found.updates}


def chosen(series: str, name: str, seed: int) -> dict[str, Any]:
    """Return the operations of the cell that a way chooses, and the updates that it took."""
    search = Search(strategy_of(series, WAYS[name], seed))
    search.run()
    return {"cell": operations(search.network.structure), "updates": search.state.updates}


def operations(structure: Structure) -> str:
    """Return the operations of a cell as text."""
    return ", ".join(site.candidates[0].operation.name for _, site in structure.sites())


def report(results: Results, *, seeds: int) -> Iterator[str]:
    """Yield the lines of the tables: the cells, and the ways to choose one."""
    for series in SERIES:
        truth: dict[str, list[float]] = {}
        for row in results.of("trained", series):
            truth.setdefault(row["cell"], []).append(row["valid"])
        if not truth:
            continue
        means = {cell: statistics.fmean(values) for cell, values in truth.items()}
        order = sorted(means, key=means.__getitem__)
        between = statistics.stdev(means.values())
        within = statistics.fmean(statistics.stdev(values) for values in truth.values())
        yield f"{series}: standard deviation between cells {between:.4f}, between seeds {within:.4f}; {len(order)} cells"
        yield ""
        yield "| way | rank of the cell, by seed | mean rank | validation loss of the cell | updates |"
        yield "| --- | --- | ---: | ---: | ---: |"
        for place in (0, len(order) // 2, len(order) - 1):
            yield f"| the cell of rank {place + 1}: {order[place]} | | | {spread(truth[order[place]])} | |"
        for name in WAYS:
            rows = [v for seed in range(seeds) for v in results.of("chosen", series, name, seed)]
            if rows:
                ranks = [order.index(v["cell"]) + 1 for v in rows]
                losses = spread([means[v["cell"]] for v in rows])
                updates = statistics.fmean(v["updates"] for v in rows)
                yield f"| {name} | {', '.join(map(str, ranks))} | {statistics.fmean(ranks):.1f} | {losses} | {updates:.0f} |"
        yield ""


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, to which results are added")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--series", nargs="*", default=SERIES, choices=SERIES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results.read(options.results)
    for series in options.series:
        for seed in range(options.seeds):
            for name in WAYS:
                results.measure(chosen, series, name, seed)
        for seed in TRUTH:
            for cell in range(25):
                results.measure(trained, series, cell, seed)
    print("\n".join(report(results, seeds=options.seeds)))


if __name__ == "__main__":
    main()
