"""Search image cells that grow from two nodes to four, pruned at each stage (DARTS-1) or at the end (DARTS-2).

    NASFRAME_DATA=... python docs/measurements/grow_images.py --seeds 5 > grow_images.jsonl
    python docs/measurements/grow_images.py --table grow_images.jsonl

Section 4 of Jie & Gao (2021) announces this experiment and does not show it. The images are those of Fashion-MNIST in the folder of
NASFRAME_DATA. The script prints a line of JSON for each search: its growths, and the comparison of what it found with random
architectures of its space, all trained from scratch with the updates of the whole search. "DARTS" begins with four nodes and does not
grow. The second command prints the means over the seeds as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import AvgPool, DartsConvolutional, Identity, SeparableConvolution, Zero
from nasframe_growing import Epochs, MaxNodes, NoBetter, NodeGrowth
from nasframe_images import Images
from nasframe_pruning import Strongest

from nasframe import Optimiser, Search, Strategy, installed
from nasframe.records import Changed, StageEnded

#: for each search its plan, and the number of nodes that it begins with
SEARCHES = {"DARTS-1": ("stage", 2), "DARTS-2": ("end", 2), "DARTS": ("end", 4)}
NODES = 4


def strategy_of(name: str, seed: int) -> Strategy:
    """Return a search with stages of two epochs."""
    plan, nodes = SEARCHES[name]
    return Strategy(
        task=Images(npz=str(Path(os.environ["NASFRAME_DATA"], "fashion_mnist_12k.npz")), train=2400, validation=0.5),
        backbone=DartsConvolutional(4, 3, operations=(Identity(), SeparableConvolution(3), AvgPool(3), Zero())),
        architect=FirstOrder(Optimiser(learning_rate=3e-3)),
        growth=(NodeGrowth(),),
        criterion=Epochs(2) | NoBetter() | MaxNodes(NODES),
        pruner=Strongest(),
        plan=installed().make("plan", plan).steps(),
        nodes=nodes,
        batch=25,
        optimiser=Optimiser(learning_rate=3e-3),
        seed=seed,
        seeds=1,
    )


def measure(name: str, seed: int) -> dict[str, Any]:
    """Run one search and its comparison, and return what was measured."""
    search = Search(strategy_of(name, seed))
    stages, growths = list[float | None](), list[float | None]()
    for event in search:
        if isinstance(event, StageEnded):
            stages.append(event.valid)
        elif isinstance(event, Changed) and event.change == "grow":
            growths.append(event.distance)
    for _ in search.compare():
        pass
    rows = [
        {"name": e.name, "valid": e.valid, "accuracy": e.scores.get("accuracy"), "parameters": e.parameters}
        for e in search.state.evaluations
    ]
    updates = search.state.updates
    return {"search": name, "seed": seed, "stages": stages, "growths": growths, "updates": updates, "rows": rows}


def table(results: Sequence[dict[str, Any]]) -> None:
    """Print the mean, and its standard error over the seeds, of each row of the comparisons."""
    print("| search | row | test accuracy | validation loss | parameters | updates of the search | seeds |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in SEARCHES:
        of_search = [r for r in results if r["search"] == name]
        for row in dict.fromkeys(row["name"] for r in of_search for row in r["rows"]):
            found = [x for r in of_search for x in r["rows"] if x["name"] == row]
            updates = statistics.mean(r["updates"] for r in of_search)
            cells = [_mean([x["accuracy"] for x in found], 3), _mean([x["valid"] for x in found], 3)]
            parameters = statistics.mean(x["parameters"] for x in found)
            print(f"| {name} | {row} | {' | '.join(cells)} | {parameters:.0f} | {updates:.0f} | {len(found)} |")


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    error = f" ± {statistics.stdev(known) / len(known) ** 0.5:.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{error}"


def main() -> None:
    """Run the searches, one seed after the other, so that an interrupted measurement has all of them equally often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.table is not None:
        table([json.loads(line) for line in chosen.table.read_text().splitlines()])
        return
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        for name in SEARCHES:
            print(json.dumps(measure(name, seed)), flush=True)


if __name__ == "__main__":
    main()
