"""Search networks that grow by layers or cells, and compare them with networks that do not grow, and with ones that are deep at once.

    python docs/measurements/grow_depth.py weather --seeds 5 > grow_depth.jsonl
    NASFRAME_DATA=... python docs/measurements/grow_depth.py fashion --seeds 3 >> grow_depth.jsonl

"weather" searches recurrent cells on the shipped series, "fashion" image cells on Fashion-MNIST, of which NASFRAME_DATA names the folder.
All three searches of a seed have three phases of the same length, a derivation and a tuning, with the same constant learning rate. One
grows after the first and after the second phase, by one layer or cell each time. The script prints a line of JSON for each: the
validation loss at the end of each phase, before and after each growth, the distance of each growth, the gates at the end of the search
and at the end of the tuning, and the least validation loss of the tuning.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import attrs
import torch
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import AvgPool, DartsConvolutional, Identity, SeparableConvolution, Zero
from nasframe_forecasting import Forecasting
from nasframe_growing import DepthGrowth, Epochs
from nasframe_images import Images
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne

from nasframe import Backbone, Optimiser, Search, Strategy
from nasframe.records import Changed, EpochEnded
from nasframe.search.plan import Change, Plan, Train
from nasframe.search.state import trainer


def plan(grows: bool, epochs: int, tuning: int) -> Plan:
    """Return three phases, with a growth after the first and the second one or without, and a tuning."""
    both, ends = ("weights", "alphas"), Epochs(epochs)
    first, second, third = (Train(phase=f"search{i}", parameters=both, criterion=ends) for i in range(3))
    growth = (Change(grow=True),) if grows else ()
    tune = Train(phase="tune", criterion=Epochs(tuning), competes=True)
    return (first, *growth, second, *growth, third, Change(prune=True, derive=True), tune)


def strategies(data: str, seed: int) -> dict[str, Strategy]:
    """Return the search that grows, the one that does not, and the one that is deep from the beginning."""
    parts: dict[str, Any] = {
        "architect": FirstOrder(Optimiser(learning_rate=3e-3)),
        "criterion": Epochs(1),  # each phase has its own
        "pruner": Strongest(),
        "growth": (DepthGrowth(),),
        "nodes": 2,
        "seed": seed,
    }
    if data == "weather":
        shallow = Strategy(task=Forecasting(), backbone=TwoToOne(hidden=16), **parts)
        deep: Backbone = TwoToOne(hidden=16, layers=3)
        epochs, tuning = 10, 10
    else:
        images = Images(npz=str(Path(os.environ["NASFRAME_DATA"], "fashion_mnist_12k.npz")), train=600, validation=0.5)
        backbone = DartsConvolutional(4, 4, operations=(Identity(), SeparableConvolution(3), AvgPool(3), Zero()))
        shallow = Strategy(task=images, backbone=backbone, batch=25, optimiser=Optimiser(learning_rate=3e-3), **parts)
        deep = attrs.evolve(backbone, cells=6)
        epochs, tuning = 3, 3
    return {
        "grows": attrs.evolve(shallow, plan=plan(True, epochs, tuning)),
        "shallow": attrs.evolve(shallow, plan=plan(False, epochs, tuning)),
        "deep": attrs.evolve(shallow, backbone=deep, plan=plan(False, epochs, tuning)),
    }


def measure(strategy: Strategy) -> dict[str, object]:
    """Run one search and return what was measured."""
    search = Search(strategy)

    def loss() -> float | None:  # None without a validation split
        return trainer(strategy, search.data).measure(search.network)[0]

    growths, before, gates, losses = list[dict[str, object]](), None, dict[str, list[float]](), dict[str, list[float]]()
    for event in search:
        if isinstance(event, EpochEnded):
            before = event.valid
            assert before is not None, "the search diverged"
            losses.setdefault(event.phase, []).append(before)
            gates["tuned" if event.phase == "tune" else "searched"] = [
                round(gate.g.item(), 4) for _, gate in search.network.gates()
            ]
        elif isinstance(event, Changed) and event.request.get("added"):
            growths.append({"distance": event.distance, "before": before, "after": loss(), "parameters": event.parameters})
    return {
        "ends": {phase: found[-1] for phase, found in losses.items()},
        "tuned": min(losses["tune"]),
        "growths": growths,
        "gates": gates,
        "parameters": sum(p.numel() for p in search.network.parameters()),
        "updates": search.state.updates,
    }


def main() -> None:
    """Run the searches, one seed after the other, so that an interrupted measurement has all of them equally often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["weather", "fashion"])
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(chosen.seeds):
        for name, strategy in strategies(chosen.data, seed).items():
            print(json.dumps({"data": chosen.data, "seed": seed, "search": name, **measure(strategy)}), flush=True)


if __name__ == "__main__":
    main()
