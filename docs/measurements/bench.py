"""Measure the speed of the fast form of networks, beside the readable form and torch's LSTM and GRU.

    python docs/measurements/bench.py --threads 1

The script measures the outputs and all gradients of a whole network, then the gradient of each architect, on random inputs.
In each round every variant runs twice, and the second run is measured, because a search repeats the same computation many
times. A row has medians in milliseconds, with the least and the most. Memory is the peak of a separate process after one
step, minus what the process held before the step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path

import attrs
import torch
from nasframe_bilevel import Softmax
from nasframe_convolutional import DartsConvolutional, PartialChannels
from nasframe_growing import Combination
from nasframe_recurrent import Darts, Sum, Tanh, TwoToOne
from nasframe_relaxations import HardGumbel
from torch import Tensor, nn

from nasframe import (
    Architect,
    Backbone,
    Bilevel,
    Draw,
    Mixing,
    Network,
    Optimiser,
    Proposal,
    Search,
    Seed,
    Split,
    Strategy,
    build,
    installed,
)
from nasframe.change.edit import remove_candidates
from nasframe.records import TrialEnded
from nasframe.search.bilevel import problem, weights_step
from nasframe.search.loop import Loop
from nasframe.search.plan import TRIALS
from nasframe.testing.fakes import Endless, Keep, Noise
from nasframe.testing.trained import TrainedNetwork

#: (n_x = n_h, time, batch)
SIZES = ((7, 10, 50), (128, 35, 32))
NODES = (2, 4, 6)
#: the supernet of DARTS on images, smaller: 8 channels, 4 cells of 4 nodes
IMAGES = {"channels": 3, "classes": 10, "height": 32, "width": 32}
CELLS = DartsConvolutional(channels=8, cells=4)
BATCHES = (8, 64)
#: final models of a dynamic search
COMBINATIONS = TwoToOne(operations=(Combination((Sum(), Tanh(), Tanh())),))


def main() -> None:
    """Measure the steps and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--memory", nargs=2, metavar=("FORM", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(held(options.memory[0], int(options.memory[1])))
        return
    print(
        f"torch {torch.__version__}, {options.threads} threads, float32, {options.rounds} rounds; milliseconds, median [min..max]"
    )
    for batch in BATCHES:
        peaks = {form: separately(form, batch, options.threads) for form in ("readable", "fast", "K = 4")}
        print(f"{CELLS.name}, batch {batch}: memory in MiB  " + "  ".join(f"{form} {mib:.0f}" for form, mib in peaks.items()))
    print(f"two_to_one, 4 nodes: a criterion that measures nothing takes {unused(options.rounds):.0f} microseconds")
    for workers in (1, 2):
        print(f"regularised_evolution, 6 nodes, a table, workers {workers}: {per_trial(workers):.2f} ms per trial")
    for name, seconds in every_edge().items():
        print(
            f"{CELLS.name}, C {CELLS.channels}, {CELLS.cells} cells: a change on every edge, {name}: {seconds:.1f} s",
            flush=True,
        )
    for title, variants in (*sampled(), *images(), *gradients(), *steps()):
        times = measured(variants, options.rounds)
        # of the readable to the fast form, and of a sampled path to a network with that path alone
        first, second, *_ = map(statistics.median, times.values())
        ratio = first / second
        cells = [f"{name} {statistics.median(t):.2f} [{min(t):.2f}..{max(t):.2f}]" for name, t in times.items()]
        print(f"{title:<48} {ratio:5.2f} times  {'  '.join(cells)}", flush=True)


def measured(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each variant, by round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def gradients() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield the computation of outputs and gradients for each recurrent backbone, size and number of nodes."""
    for backbone in (TwoToOne(), Darts(), COMBINATIONS):
        several = ", three operations at each node" if backbone is COMBINATIONS else ""
        for units, steps, batch in SIZES:
            for nodes in NODES:
                inputs = torch.randn(steps, batch, units, generator=Seed(("inputs",)).generator())
                variants: dict[str, Callable[[], object]] = {
                    form: partial(backward, network, inputs)
                    for form, network in forms(backbone, {"inputs": units, "outputs": units}, nodes).items()
                }
                for kind in (nn.LSTM, nn.GRU):
                    variants[kind.__name__] = partial(backward, kind(units, units), inputs)
                yield f"{backbone.name}, {nodes} nodes{several}, n_h {units}, T {steps}, batch {batch}", variants


def sampled() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield a step of the weights by `hard_gumbel`, one in a network with the drawn candidates alone, and one by `softmax`.

    Seven samples take turns. The optimiser skips the weights of the candidates that are left out.
    """
    cases: list[tuple[Backbone, Mapping[str, int], Tensor, str]] = []
    for units, steps, batch in SIZES:
        series = torch.randn(steps, batch, units, generator=Seed(("inputs",)).generator())
        cases += [(b, {"inputs": units, "outputs": units}, series, f"n_h {units}") for b in (TwoToOne(), Darts())]
    cases.append((CELLS, IMAGES, pictures(BATCHES[0]), f"C {CELLS.channels}, {CELLS.cells} cells"))
    for backbone, sizes, inputs, size in cases:
        structure = backbone.initial(sizes, 4)
        supernet, mixture = (build(structure, Seed((0,)), relaxation=part) for part in (HardGumbel(), Softmax()))
        drawn, alone = [], []
        for number in range(7):
            mixing = partial(supernet.mixing, Draw(Seed((number, "mixing")), progress=0.5))
            drawn.append(stepping(supernet, inputs, mixing))
            places = mixing().active
            gone = {a: frozenset(c.id for i, c in enumerate(s.candidates) if i not in places[a]) for a, s in structure.sites()}
            path = build(remove_candidates(structure, gone).structure, Seed((0,)))
            alone.append(stepping(path, inputs, path.mixing))
        variants: dict[str, Callable[[], object]] = {
            "hard_gumbel": in_turn(drawn),
            "path alone": in_turn(alone),
            "softmax": stepping(mixture, inputs, mixture.mixing),
        }
        yield f"{backbone.name}, 4 nodes, {size}: a sampled path", variants


def in_turn(functions: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return a function that calls these functions one after the other, one in each call, again and again."""
    endless = cycle(functions)
    return lambda: next(endless)()


def stepping(network: Network, inputs: Tensor, mixing: Callable[[], Mixing]) -> Callable[[], object]:
    """Return a function that takes a step of the weights with these mixing weights, which a step computes as a search does."""
    weights = {name: p for name, p in network.named_parameters() if not name.startswith("alphas.")}

    def loss() -> Tensor:
        found = network(inputs, mixing())
        assert isinstance(found, Tensor)
        return found.square().mean()

    return partial(weights_step, weights, Optimiser().build(weights.items()), loss, lambda: network.idle(mixing()))


def images() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield the computation of outputs and gradients of the supernet on images for each batch."""
    for batch in BATCHES:
        variants: dict[str, Callable[[], object]] = {
            form: partial(backward, network, pictures(batch)) for form, network in forms(CELLS, IMAGES, 4).items()
        }
        yield f"{CELLS.name}, C {CELLS.channels}, {CELLS.cells} cells, batch {batch}", variants


def pictures(batch: int) -> Tensor:
    """Return a batch of random images, the same at each call."""
    shape = (batch, *(IMAGES[name] for name in ("channels", "height", "width")))
    return torch.randn(shape, generator=Seed(("inputs",)).generator())


def separately(form: str, batch: int, threads: int) -> float:
    """Return the result of `held` in a separate process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--memory", form, str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603


def held(form: str, batch: int) -> float:
    """Return by how many MiB one step raises the peak memory of this process."""
    partial_channels = form == "K = 4"
    cells = PartialChannels(channels=CELLS.channels, cells=CELLS.cells, parts=4) if partial_channels else CELLS
    network, inputs = forms(cells, IMAGES, 4)["fast" if partial_channels else form], pictures(batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backward(network, inputs)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def forms(backbone: Backbone, sizes: Mapping[str, int], nodes: int) -> dict[str, Network]:
    """Return a supernet twice, in its readable and in its fast form."""
    structure = backbone.initial(sizes, nodes)
    both = {name: build(structure, Seed((0,))) for name in ("readable", "fast")}
    for name, network in both.items():
        network.fast = name == "fast"
    return both


def backward(module: nn.Module, inputs: Tensor) -> object:
    """Return the gradients of all parameters."""
    output = module(inputs, even(dict(module.alphas))) if isinstance(module, Network) else module(inputs)[0]
    return torch.autograd.grad((output**2).mean(), [*module.parameters()])


def even(alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the softmax of the alphas of each site, as in DARTS."""
    return {address: alpha.softmax(0) for address, alpha in alphas.items()}


def steps() -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Yield the computation of the alphas' gradient for each installed architect."""
    units, time, batch = SIZES[0]
    shape = (time, -1, units)
    task = Noise((("inputs", units), ("outputs", units)), shape, shape, batch)
    for backbone in (TwoToOne(), Darts()):
        for architect in (installed().make("architect", name) for name in installed().names("architect")):
            if not isinstance(architect, Architect):
                continue
            name = architect.name
            strategy = partial(Strategy, task=task, backbone=backbone, architect=architect, criterion=Endless(), pruner=Keep())
            yield (
                f"{backbone.name}, 4 nodes, n_h {units}: {name}",
                {
                    form: partial(architect.gradient, bilevel(strategy(nodes=4, fast=form == "fast")))
                    for form in ("readable", "fast")
                },
            )


def unused(rounds: int) -> float:
    """Return the median time, in microseconds, of calling a part with a context that it does not use."""
    shape = (10, -1, 7)
    task = Noise((("inputs", 7), ("outputs", 7)), shape, shape, 50)
    architect = installed().make("architect", "first_order")
    parts = {"backbone": TwoToOne(), "architect": architect, "criterion": Endless(), "pruner": Keep()}
    trained = TrainedNetwork.of(Strategy(task=task, nodes=4, **parts), steps=1)

    def run() -> None:
        for _ in range(100):
            trained.measured(Endless().measure)

    return statistics.median(measured({"unused": run}, rounds)["unused"]) / 100 * 1e3


def per_trial(workers: int, trials: int = 200) -> float:
    """Return the milliseconds that a search takes for each trial, between the first result and the last, without its training."""
    file = Path(tempfile.mkdtemp()) / "table.json"
    rows = [{"picks": picks, "valid": sum(picks)} for picks in product(range(5), repeat=6)]
    file.write_text(json.dumps({"options": [5] * 6, "rows": rows}))
    strategy = attrs.evolve(
        Strategy.named("default"),
        architect=installed().make("architect", {"name": "regularised_evolution", "trials": trials}),
        plan=TRIALS,
        evaluator=installed().make("evaluator", {"name": "table", "file": str(file)}),
        nodes=6,
        growth=(),
    )
    search, times = Search(strategy), list[float]()
    for record in search.records(workers, installed()):
        if isinstance(record, TrialEnded):
            times.append(time.perf_counter())
    return (times[-1] - times[0]) / (trials - 1) * 1e3


def every_edge() -> dict[str, float]:
    """Return the seconds that a change on every edge takes, as one change and as a chain of changes.

    The numbers of both children are compared.
    """
    shape = tuple(IMAGES[name] for name in ("channels", "height", "width"))
    task = Noise(tuple(IMAGES.items()), (-1, *shape), (-1, IMAGES["classes"]), 64)
    architect, morphism = installed().make("architect", "first_order"), installed().make("morphism", "convolution")
    parts = {"backbone": CELLS, "architect": architect, "criterion": Endless(), "pruner": Keep()}
    requests = []
    for address, site in CELLS.initial(IMAGES, 4).sites():
        convolution = next(c for c in site.candidates if c.operation.name == "separable")
        requests.append({"site": address, "candidate": convolution.id, "kind": "crop"})

    def made(together: bool) -> tuple[Search, float]:
        search = Search(Strategy(task=task, nodes=4, batch=64, **parts))
        changer = Loop(search.strategy, search.data).changer
        chosen = [(morphism, Proposal(request)) for request in requests]
        start = time.perf_counter()
        for growths in [chosen] if together else [[growth] for growth in chosen]:
            changer.change(search.state, {}, growths, by="bench", why="a change on every edge", seed=Seed(("change",)))
        return search, time.perf_counter() - start

    (once, short), (chain, long) = made(together=True), made(together=False)
    assert once.network.structure == chain.network.structure
    assert all(map(torch.equal, once.network.parameters(), chain.network.parameters()))
    return {"as one change": short, f"as a chain of {len(requests)}": long}


def bilevel(strategy: Strategy) -> Bilevel:
    """Return the bilevel problem at the start of a search, with losses over the whole training and validation splits."""
    search = Search(strategy)

    def objective(split: Split) -> Callable[..., Tensor]:
        inputs, targets = split.batch(torch.arange(split.size))
        return lambda forward, weights: search.data.objective(forward(inputs, weights), targets)

    losses = objective(search.data.train), objective(search.data.validation)
    return problem(search.network, strategy.optimiser, search.state.optimisers["weights"], *losses)


if __name__ == "__main__":
    main()
