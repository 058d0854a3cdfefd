"""Train cells and recurrent networks of the same size from scratch, with paired seeds, for as long as the run of the README.

    python docs/measurements/paired.py --folder FOLDER --cells "tanh > tanh" "relu > tanh"

The folder keeps the result of each training, so that an interrupted measurement goes on. The script prints tables in markdown;
docs/search-quality.md explains them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nasframe_papers.quality.protocol import LAYERS, named
from nasframe_papers.quality.statistics import bootstrap
from nasframe_papers.quality.trials import loaded, train_trial
from nasframe_papers.trials import Values, kept, standard_error

from nasframe import Seed, Strategy
from nasframe.network.network import count_parameters


def trials(cells: Sequence[str], networks: Sequence[str], seeds: int, updates: int) -> list[Values]:
    """Return a training of each model with each seed: cells by their operations, and recurrent networks by their names.

    Each cell has as many units as the parameters of the largest one of the space allow, and the networks have as many parameters as near
    as possible.
    """
    values = {**Strategy.named("default").to_dict(), "nodes": 2}
    backbone = Strategy.from_dict(values).backbone
    space = backbone.space(backbone.initial(loaded(Strategy.from_dict(values)).sizes, 2))
    every = itertools.product(*(range(choice.options) for choice in space.decisions))
    picks = {named(space.architecture(picks)): [*picks] for picks in every}
    models: dict[str, Values] = {cell: {"picks": picks[cell]} for cell in cells}
    parameters = max(count_parameters(space.architecture(each)) for each in picks.values())
    models |= {network: {"parameters": parameters} for network in networks}
    return [
        {"series": "pedestrians", "model": model, "seed": seed, "updates": updates, "values": values, **options}
        for seed in range(seeds)
        for model, options in models.items()
    ]


def main() -> None:
    """Train what is missing in the folder and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", default=["tanh > tanh", "relu > tanh", "tanh"])
    parser.add_argument("--networks", nargs="+", default=[*LAYERS], choices=LAYERS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=3162)
    options = parser.parse_args()
    planned = trials(options.cells, options.networks, options.seeds, options.updates)
    found: dict[str, list[Values]] = {}
    for trial, result in zip(planned, kept(train_trial, planned, 1, options.folder, print), strict=True):
        found.setdefault(trial["model"], []).append(result)
    windows = {model: np.array([result["test"] for result in results]) for model, results in found.items()}

    print("\n| model | parameters | updates | validation MSE | test MSE |\n| --- | ---: | ---: | ---: | ---: |")
    for model, results in found.items():
        columns: list[Any] = [model, results[0]["parameters"], round(statistics.fmean(r["updates"] for r in results))]
        for values in ([r["valid"] for r in results], windows[model].mean(1).tolist()):
            columns.append(f"{statistics.fmean(values):.4f} ± {standard_error(values):.4f}")
        print(f"| {' | '.join(map(str, columns))} |")
    print("\n| cell | network | cell - network in test, over seeds | interval over windows | in validation |")
    print("| --- | --- | ---: | --- | ---: |")
    for cell, network in itertools.product(options.cells, options.networks):
        pairs = zip(found[cell], found[network], strict=True)
        differences = windows[cell] - windows[network]
        low, high = bootstrap(differences.mean(0), 24, Seed((0, "bootstrap", cell, network)))
        over = [differences.mean(1).tolist(), [one["valid"] - other["valid"] for one, other in pairs]]
        test, valid = (f"{statistics.fmean(values):+.4f} ± {standard_error(values):.4f}" for values in over)
        print(f"| {cell} | {network} | {test} | [{low:+.4f}, {high:+.4f}] | {valid} |")
    print(f"\n{sum(r['CPU seconds'] for results in found.values() for r in results):.0f} CPU seconds")


if __name__ == "__main__":
    main()
