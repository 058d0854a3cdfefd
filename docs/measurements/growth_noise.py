"""Run searches over a grid of delta and of the alphas' learning rate after a growth, from which the defaults were chosen.

    python docs/measurements/growth_noise.py --seeds 3 > growth_noise.jsonl

The script prints a line of JSON for each search: the setting, the seed, the best validation loss of the pruned and tuned
network, the number of grown nodes, the number of these whose final operation is not the identity with which they started,
and the number of updates.
"""

from __future__ import annotations

import argparse
import itertools
import json

import torch
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_growing import MaxNodes, NoBetter, NodeGrowth, Patience
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne

from nasframe import Search, Strategy
from nasframe.search.plan import END, STAGE

GRID = [
    ("noise", delta, rate, plan)
    for delta, rate, plan in itertools.product((0.001, 0.01, 0.1, 0.2), (1.0, 10.0, 100.0), ("stage", "end"))
] + [("gate", None, rate, plan) for rate, plan in itertools.product((1.0, 10.0, 100.0), ("stage", "end"))]


def main() -> None:
    """Run the grid, one seed after the other, so that an interrupted measurement has all settings equally often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    torch.set_num_threads(1)
    for seed in range(parser.parse_args().seeds):
        for form, delta, rate, plan in GRID:
            print(json.dumps(measure(form, delta, rate, plan, seed)), flush=True)


def measure(form: str, delta: float | None, rate: float, plan: str, seed: int) -> dict[str, object]:
    """Run one search and return its result."""
    strategy = Strategy(
        task=Forecasting(),
        backbone=TwoToOne(hidden=16),
        architect=FirstOrder(after_growth=rate),
        growth=(NodeGrowth(form) if delta is None else NodeGrowth(form, delta),),
        criterion=Patience() | NoBetter() | MaxNodes(4),
        pruner=Strongest(),
        plan=STAGE if plan == "stage" else END,
        seed=seed,
        fast=False,  # the table was measured with the readable form; a rounding error can decide whether a node is grown
    )
    search = Search(strategy)
    network = search.run()
    grown = [s.candidates[0].operation for a, s in network.structure.sites() if s.id != "n0"]
    return {
        "form": form,
        "delta": delta,
        "after_growth": rate,
        "plan": plan,
        "seed": seed,
        "valid": search.state.best.valid if search.state.best else None,
        "grown": len(grown),
        "other": sum(operation.residual is None for operation in grown),
        "operations": [s.candidates[0].operation.name for _, s in network.structure.sites()],
        "updates": search.state.updates,
    }


if __name__ == "__main__":
    main()
