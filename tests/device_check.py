"""What `device_check.sh` runs: laws at float64, searches that are interrupted and resumed, and the time of a step."""

from __future__ import annotations

import copy
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch

sys.path.insert(0, str(Path(__file__).parent))

import convolutional
import toy
from convolutional import Blobs, image_strategy, small
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_recurrent import Darts, TwoToOne
from nasframe_relaxations import BinaryGates
from toy import toy_strategy

from nasframe import Network, Search, Seed, Strategy
from nasframe.change.apply import apply
from nasframe.change.claim import tolerance
from nasframe.change.edit import fold_gates, remove_candidates
from nasframe.records import Stepped
from nasframe.testing.fakes import Scripted
from nasframe.testing.saved import revived, saved


def strategies(device: str) -> dict[str, Strategy]:
    """Return a small search of each backbone on the device, at float64."""
    recurrent: dict[str, Any] = {"device": device, "growth": (NodeGrowth("gate"),)}
    return {
        "two_to_one": toy_strategy(backbone=TwoToOne(hidden=4), **recurrent),
        "darts_recurrent": toy_strategy(backbone=Darts(hidden=4), **recurrent),
        "darts_recurrent, two candidates sampled": toy_strategy(
            backbone=Darts(hidden=4), architect=FirstOrder(relaxation=BinaryGates()), **recurrent
        ),
        "darts_convolutional": image_strategy(
            task=Blobs(12), backbone=small(channels=4, cells=3), device=device, dtype="float64", growth=(NodeGrowth("gate"),)
        ),
    }


def trained(strategy: Strategy, steps: int = 12) -> Search:
    """Return the search after some updates: a fresh network hides faults."""
    search = Search(strategy)
    for _ in itertools.islice((r for r in search if isinstance(r, Stepped)), steps):
        pass
    return search


def outputs(search: Search, network: Network, training: bool = False) -> torch.Tensor:
    """Return the outputs on the validation split."""
    inputs, _ = search.data.validation.batch(torch.arange(search.data.validation.size))
    network = copy.deepcopy(network).train(training)
    mixing = network.mixing()
    with torch.no_grad(), Seed(("outputs",)).as_global(search.strategy.device):
        found = network(inputs, mixing)
    return found if isinstance(found, torch.Tensor) else found.outputs


def check(what: str, distance: float, allowed: float) -> str:
    """Return a row of the table; the script fails where a distance is larger than rounding allows."""
    if not distance <= allowed:
        raise SystemExit(f"FAILED: {what}: the distance is {distance:.3g}, and {allowed:.3g} is allowed")
    return f"| {what} | {distance:.2g} | {allowed:.2g} |"


def laws(name: str, search: Search) -> Iterator[str]:
    """Yield a row for each law."""
    network = search.network
    inputs, targets = search.data.train.batch(torch.arange(min(8, search.data.train.size)))
    found = []
    for fast in (True, False):
        network.fast = fast
        network.eval()
        mixing = {a: w.detach().requires_grad_() for a, w in network.mixing().items()}
        loss = search.data.loss(network(inputs, mixing), targets)
        leaves = [p for n, p in network.named_parameters() if not n.startswith("alphas.")] + [*mixing.values()]
        first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        total = sum((g * g).sum() for g in first)
        second = torch.autograd.grad(total, leaves, materialize_grads=True)
        found.append(
            (
                loss.detach().reshape(1),
                torch.cat([g.detach().flatten() for g in first]),
                torch.cat([g.flatten() for g in second]),
            )
        )
    network.fast = True
    for what, fast_, readable in zip(("loss", "gradients", "second derivatives"), *found, strict=True):
        yield check(f"{name}: fast form, {what}", float((fast_ - readable).abs().max()), 16 * tolerance(readable.detach()))
    cell = network.structure.cells[0][0]
    before = outputs(search, network)
    edit = NodeGrowth("gate").edit(network.structure, {"cell": cell}, {}, Seed((1,)))
    growth = apply(network, edit, Seed((1,)))
    yield check(f"{name}: growth behind a gate", float((outputs(search, growth.child) - before).abs().max()), tolerance(before))
    mixing = growth.child.mixing()
    gone = search.strategy.backbone.derive(growth.child.structure, mixing)
    removed = apply(growth.child, remove_candidates(growth.child.structure, gone), Seed((2,)))
    for _, gate in removed.child.gates():
        torch.nn.init.constant_(gate.g, 0.3)
    before = outputs(search, removed.child)
    folded = apply(removed.child, fold_gates(removed.child.structure), Seed((3,)))
    yield check(f"{name}: folding of gates", float((outputs(search, folded.child) - before).abs().max()), tolerance(before))


def resumes(name: str, strategy: Strategy) -> str:
    """Interrupt the search at several records, resume it, and compare the bytes of the ends."""
    search, plugins = Search(strategy), convolutional.PLUGINS if name == "darts_convolutional" else toy.PLUGINS
    dumps = [saved(search.state) for _ in search]
    expected = saved(search.state)
    places = range(1, len(dumps) - 1, max(1, len(dumps) // 5))
    for place in places:
        torch.manual_seed(place)
        again = Search(strategy, data=search.data, state=revived(*dumps[place], strategy, plugins, search.data))
        again.run()
        text, tensors = saved(again.state)
        if text != expected[0] or any(not torch.equal(t, expected[1][n]) for n, t in tensors.items()):
            raise SystemExit(f"FAILED: {name}: resumed at record {place} of {len(dumps)}, the search ends in other bytes")
    return f"| {name} | {len(dumps)} | {len(places)} | the same bytes |"


def step_time(strategy: Strategy, device: str) -> float:
    """Return the median time of a step of a search, in milliseconds."""
    search = Search(attrs.evolve(strategy, device=device))
    times, wait = [], _waiter(device)
    start = time.perf_counter()
    for record in itertools.islice(search, 80):
        wait()
        if isinstance(record, Stepped):
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return 1e3 * statistics.median(times[5:])


def _waiter(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None


def main(device: str) -> None:
    """Print the checks as Markdown."""
    kind = torch.device(device).type
    card = torch.cuda.get_device_name(device) if kind == "cuda" else platform.processor() or platform.machine()
    print(f"## {device}: {card}\n\ntorch {torch.__version__}, Python {platform.python_version()}\n")
    print("| law at float64 | distance | allowed |\n| --- | ---: | ---: |")
    for name, strategy in strategies(device).items():
        for row in laws(name, trained(strategy)):
            print(row, flush=True)
    print("\n| search | records | interrupted and resumed at | ends in |\n| --- | ---: | ---: | --- |")
    for name, strategy in strategies(device).items():
        print(resumes(name, strategy), flush=True)
    print(f"\n| search step | cpu, ms | {device}, ms |\n| --- | ---: | ---: |")
    wide = {
        "two_to_one, n_h = 128": toy_strategy(
            backbone=TwoToOne(hidden=128), batch=25, dtype="float32", criterion=Scripted(epochs=99)
        ),
        "darts_convolutional, C = 16": image_strategy(
            task=Blobs(64), backbone=small(channels=16, cells=4), batch=32, dtype="float32", criterion=Scripted(epochs=99)
        ),
    }
    for name, strategy in wide.items():
        print(f"| {name} | {step_time(strategy, 'cpu'):.1f} | {step_time(strategy, device):.1f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
