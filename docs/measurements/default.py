"""Search on the pedestrians with the default strategy, and with other numbers of nodes and finalists, without the comparison.

    python docs/measurements/default.py --seeds 3

It prints a table in markdown; default.md explains it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from nasframe_growing import MaxNodes, NoBetter
from nasframe_recurrent import TwoToOne
from nasframe_sampling import Finals, SuccessiveHalving

from nasframe import Search, Strategy
from nasframe.run.summary import operations
from nasframe.search.plan import RETRAIN, Trials


def settings() -> Mapping[str, Strategy]:
    """Return the strategies by name."""
    default = Strategy.named("default")
    # the others compare architectures of 16 units
    units = attrs.evolve(default, backbone=TwoToOne(hidden=16))

    def finals(nodes: int, suggested: int) -> Strategy:
        architect = SuccessiveHalving(candidates=18, suggested=suggested, updates=50)
        plan = Finals(epochs=4, architect=architect).steps()
        return attrs.evolve(units, criterion=NoBetter() | MaxNodes(nodes), plan=plan)

    random = Trials(architect=SuccessiveHalving(candidates=27, suggested=0, updates=50))
    return {
        "one or two nodes of equal parameters, 3 of 18 suggested (the default)": default,
        "two nodes, 3 of 18 suggested": finals(2, 3),
        "three nodes, 4 of 18 suggested": finals(3, 4),
        "three nodes, none of 18 suggested": finals(3, 0),
        "three nodes, 27 random cells, no supernet": attrs.evolve(units, nodes=3, growth=(), plan=(random, *RETRAIN)),
    }


def main() -> None:
    """Search with each strategy and each seed, and print a row for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("| search | validation loss | found | updates | CPU seconds |")
    print("| --- | --- | --- | ---: | ---: |")
    for name, strategy in settings().items():
        rows: list[Mapping[str, Any]] = []
        for seed in seeds:
            begun, search = time.process_time(), Search(attrs.evolve(strategy, seed=seed))
            for _ in search.records(1):
                pass
            assert search.state.best is not None
            rows.append({"valid": search.state.best.valid, "cpu": time.process_time() - begun, "updates": search.state.updates})
            rows[-1] = {**rows[-1], "found": " > ".join(operations(search.network.structure).values())}
        losses = ", ".join(f"{row['valid']:.3f}" for row in rows)
        cpu = ", ".join(f"{row['cpu']:.0f}" for row in rows)
        found = ", ".join(row["found"] for row in rows)
        print(f"| {name} | {losses} | {found} | {rows[0]['updates']} | {cpu} |", flush=True)


if __name__ == "__main__":
    main()
