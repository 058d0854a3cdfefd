"""How far twins of an operation separate in training, depending on the noise that they start with.

    python docs/measurements/operator_twins.py > operator_twins.jsonl

The script prints a line of JSON for each operation and each standard deviation of the noise: the norm of the difference of the twins'
parameters at the start, and, after numbers of updates, the norm of what this difference has changed by.
"""

from __future__ import annotations

import json

import torch
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_growing import OperatorGrowth
from nasframe_recurrent import TwoToOne
from torch import Tensor

from nasframe import Address, Seed, Strategy
from nasframe.testing.fakes import Endless, Keep
from nasframe.testing.trained import TrainedNetwork

SITE, UPDATES = "layer0/n0", (50, 500, 2000)


def difference(trained: TrainedNetwork, one: int, other: int) -> Tensor:
    """Return the difference of the parameters of two candidates."""
    _, mixture = next(trained.network.mixed_operations(Address(SITE)))
    pairs = zip(*(mixture.candidates[str(id)].parameters() for id in (one, other)), strict=True)
    return torch.cat([(a - b).detach().flatten() for a, b in pairs])


def main() -> None:
    """Print the results."""
    torch.set_num_threads(1)
    strategy = Strategy(
        task=Forecasting(),
        backbone=TwoToOne(hidden=8),
        architect=FirstOrder(),
        criterion=Endless(),
        pruner=Keep(),
        nodes=1,
    )
    parent = TrainedNetwork.of(strategy, steps=200)
    ids = {c.operation.name: c.id for _, site in parent.network.structure.sites() for c in site.candidates}
    for name in ("tanh", "sigmoid"):
        for sigma in (0.0, 0.001, 0.01, 0.1):
            request = {"site": SITE, "candidate": ids[name], "replaced": None}
            edit = OperatorGrowth(sigma=sigma).edit(parent.network.structure, request, {}, Seed((1,)))
            child, twins, done = parent.after(edit).copy(), (ids[name], parent.network.structure.next_id), 0
            moved: dict[int, float] = {}
            start = difference(child, *twins)
            for updates in UPDATES:
                child.train(updates - done)
                done, moved[updates] = updates, float((difference(child, *twins) - start).norm())
            print(json.dumps({"operation": name, "sigma": sigma, "start": float(start.norm()), "changed": moved}), flush=True)


if __name__ == "__main__":
    main()
