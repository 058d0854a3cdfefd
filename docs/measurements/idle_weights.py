"""Search with hard Gumbel samples, and either skip the weights of candidates that are left out or give them the gradient zero.

    python docs/measurements/idle_weights.py --seeds 10 > idle_weights.jsonl

The script prints a line of JSON for each search: the learning rate and the weight decay, the option `idle` of the optimiser, the seed,
the validation loss of the found cell with the weights of the supernet and after tuning, and, over all steps of the search phase, the share
of Adam's squared movement of the weights that belongs to weights of candidates that were left out in the step.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any
from unittest import mock

import torch
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_pruning import Strongest
from nasframe_recurrent import Darts
from nasframe_relaxations import HardGumbel
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe import Optimiser, Search, Strategy
from nasframe.records import Changed
from nasframe.search.bilevel import weights_step
from nasframe.search.plan import END
from nasframe.testing.fakes import Endless

#: learning rates and weight decays of Adam
SETTINGS = ((3e-3, 0.0), (3e-3, 1e-3), (1e-2, 0.0))


def main() -> None:
    """Run all settings, one seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    torch.set_num_threads(1)
    for seed, (rate, decay), idle in itertools.product(range(parser.parse_args().seeds), SETTINGS, ("skip", "zero")):
        print(json.dumps(measure(rate, decay, idle, seed)), flush=True)


def measure(rate: float, decay: float, idle: str, seed: int) -> dict[str, object]:
    """Run one search and return its result."""
    search = Search(
        Strategy(
            task=Forecasting(),
            backbone=Darts(hidden=16),
            architect=FirstOrder(relaxation=HardGumbel(initial=1.0, final=1.0), optimiser=Optimiser(learning_rate=3e-3)),
            criterion=Endless(),
            pruner=Strongest(),
            plan=END,
            nodes=4,
            optimiser=Optimiser(learning_rate=rate, weight_decay=decay, epochs=30, idle=idle),
            seed=seed,
        )
    )
    squares = {True: 0.0, False: 0.0}

    def step(
        weights: Mapping[str, nn.Parameter],
        optimiser: Optimizer,
        loss: Callable[[], Tensor],
        left_out: Callable[[], Collection[str]] = tuple,
    ) -> Tensor:
        """Take the step, and add the squared movements of the weights that are left out and of the others."""
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        value = weights_step(weights, optimiser, loss, left_out)
        if search.state.phase == "search":
            names = kept[-1]
            for name, weight in weights.items():
                squares[name in names] += float((weight.detach() - before[name]).square().sum())
        return value

    # which weights a step leaves out, whether the optimiser skips them or not
    kept: list[Collection[str]] = []

    def recorded(network: Any, optimiser: Optimiser, mixing: Any) -> Collection[str]:
        kept[:] = [network.idle(mixing())]
        return kept[0] if optimiser.idle == "skip" else ()

    with (
        mock.patch("nasframe.search.bilevel.weights_step", step),
        mock.patch("nasframe.search.trainer.weights_step", step),
        mock.patch("nasframe.search.trainer.idle_weights", recorded),
    ):
        search.run()
    assert search.state.best is not None
    pruned = next(record for record in search.state.lineage if isinstance(record, Changed) and record.change == "remove")
    return {
        "rate": rate,
        "decay": decay,
        "idle": idle,
        "seed": seed,
        "pruned": pruned.valid_after,
        "tuned": search.state.best.valid,
        "share": squares[True] / sum(squares.values()),
        "updates": search.state.updates,
    }


if __name__ == "__main__":
    main()
