"""Measure what growth by nodes brings: networks without a grown node, the same cells from scratch, and policies for moments.

    python docs/measurements/growth.py --results growth.jsonl

Cells of Two-to-One grow from one node to three on both shipped series. Each result is added to the file, and what is in it already is not
measured again, so that an interrupted measurement goes on. The script prints tables in markdown; growth.md explains them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs
import torch
from nasframe_bilevel import FirstOrder, Softmax
from nasframe_forecasting import Forecasting
from nasframe_growing import Epochs, NodeGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne
from nasframe_robustness import AnnealedSoftmax
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from nasframe import Address, Data, Edit, Network, Optimiser, Relaxation, Search, Seed, Strategy, Structure, build, installed
from nasframe.change.apply import apply
from nasframe.change.claim import Claim
from nasframe.change.edit import Filling
from nasframe.change.map import Map, Take
from nasframe.change.optimisers import Moments, follow_state, named_state
from nasframe.records import Changed, EpochEnded, Record
from nasframe.search.evaluate import fit, tested, updates_per_epoch
from nasframe.search.plan import Change, Plan, Restore, Train
from nasframe.search.state import GROUPS, State, placed, trainer
from nasframe.search.trainer import Trainer, Training
from nasframe.structure.editing import without_gates
from nasframe.testing.trained import TrainedNetwork

#: by series: the task, the batch size and the epochs of each phase
SERIES = {
    "pedestrians": (Forecasting(series="melbourne_pedestrians", window=24, season=24), 100, 3),
    "weather": (Forecasting(series="seattle_weather", window=10), 50, 5),
}
HIDDEN, RATE = 16, 1e-2
#: tunings with other orders of the examples, with and without a grown node
TUNINGS = 3
#: the searches whose grown nodes are removed
REMOVED = ("gate", "noise")
#: the trainings of a found cell from scratch, and all measurements
BUDGETS = {"updates": "from scratch", "gated": "with gates", "FLOPs": "equal FLOPs"}
WHAT = ("grown", *BUDGETS, "policies")
#: neighbouring windows whose losses are averaged before a standard error over windows is taken
BLOCK = 24
#: updates after a growth at which the validation loss is compared, besides the end of the phase
SOON = (0, 5, 20)
#: updates over which the learning rate rises in a warm-up
WARMUP = 20
WARM = "reset, with a warm-up"
OTHERS = ("zeroed", "reset", WARM, "without growth")


@attrs.frozen
class Way:
    """How a search grows and trains.

    Attributes:
        form: of the morphism `node`.
        relaxation: of the alphas.
    """

    form: str = "gate"
    relaxation: Relaxation = Softmax()


WAYS = {
    "gate": Way(),
    "noise": Way("noise"),
    "sharpened": Way(relaxation=AnnealedSoftmax(1.0, 0.1)),
}
#: how the supernet becomes an architecture
PLAIN = "plain"
CUTS = {
    PLAIN: Change(prune=True, derive=True),
    "fold": Change(prune=True, derive=True, fold=True),
    "restart": Change(prune=True, derive=True, restart=True),
}
SEARCH = Train(phase="search", parameters=("weights", "alphas"))
#: from one node to three
GROWING: Plan = (SEARCH, Change(grow=True), SEARCH, Change(grow=True), SEARCH)


def strategy_of(series: str, way: str, seed: int, cut: str = PLAIN) -> Strategy:
    """Return a search that grows to three nodes, cuts the supernet and tunes what is left."""
    task, batch, epochs = SERIES[series]
    how = WAYS[way]
    # A phase without a length takes that of the optimiser.
    tune = Train(phase="tune", competes=True, optimiser=Optimiser(learning_rate=RATE, epochs=epochs))
    return Strategy(
        task=task,
        backbone=TwoToOne(hidden=HIDDEN),
        architect=FirstOrder(Optimiser(learning_rate=RATE), relaxation=how.relaxation),
        criterion=Epochs(epochs),
        pruner=Strongest(),
        growth=(NodeGrowth(how.form),),
        plan=(*GROWING, CUTS[cut], tune, Restore()),
        batch=batch,
        optimiser=Optimiser(learning_rate=RATE, epochs=epochs, final=RATE),
        seed=seed,
        seeds=1,
    )


# the search


def grown(series: str, way: str, seed: int) -> dict[str, Any]:
    """Return the losses of a search before its cut, after it and after tuning, and the effect of removing each grown node."""
    search = Search(strategy_of(series, way, seed))
    flops = 0.0
    for record in search:
        flops += flops_of(search, record)
        if search.state.place == (len(GROWING),):
            break
    state, before = search.state, trainer(search.strategy, search.data).measure(search.network)[0]
    found: dict[str, Any] = {"supernet": before, "updates": state.updates, "flops": flops, "cuts": {}}
    for cut in CUTS:
        branch = Search(strategy_of(series, way, seed, cut), data=search.data, state=copy.deepcopy(state))
        after, tuning = None, 0.0
        for record in branch:
            tuning += flops_of(branch, record)
            if isinstance(record, Changed) and record.change == "remove":
                after = record.valid_after
        assert branch.state.best is not None
        found["cuts"][cut] = {
            "pruned": after,
            "restarted": any(isinstance(r, Changed) and r.change == "restart" for r in branch.state.lineage),
            "valid": branch.state.best.valid,
            "test": tested(branch.network, branch.data)["mse"],
            "updates": branch.state.updates,
            "flops": flops + tuning,
        }
        if cut == PLAIN:
            found["structure"] = branch.network.structure.to_dict()
            found["removals"] = removals(branch, seed) if way in REMOVED else []
    return found


def flops_of(search: Search, record: Record) -> float:
    """Return the floating-point operations of the updates of an epoch that has ended; 0 for other records."""
    if not isinstance(record, EpochEnded):
        return 0.0
    each = update_flops(trainer(search.strategy, search.data), search.state, search=record.moves_alphas)
    return each * search.data.train.size / search.state.batch


def update_flops(trained: Trainer, training: Training[Network], search: bool = False) -> int:
    """Return the floating-point operations of one update, forwards and backwards, of the weights and in a search of the alphas."""
    other = copy.deepcopy(training)
    other.samples = 0
    with FlopCounterMode(display=False) as counter:
        next(trained.epoch(other, Seed((0,)), search=search))
    return counter.get_total_flops()


# without a grown node


def removals(search: Search, seed: int) -> list[dict[str, Any]]:
    """Return what the validation loss is with and without each grown node, after as many updates of tuning."""
    strategy, data = tuning_of(search.strategy), search.data
    updates = (strategy.optimiser.epochs or 1) * updates_per_epoch(strategy, data)
    gates = {gate.address: float(gate.g.detach()) for _, gate in search.network.gates()}
    nodes = [address for address, _ in search.network.structure.nodes()][1:]
    cut = {None: copy.deepcopy(search.network)} | {node: removed(search.network, node) for node in nodes}
    losses = dict[Address | None, list[Tensor]]()
    for node, network in cut.items():
        for number in range(TUNINGS):
            tuned = copy.deepcopy(network)
            fit(tuned, strategy, data, updates=updates, seed=Seed((seed, "tuning", number)))
            losses.setdefault(node, []).append(window_losses(tuned, data))
    kept = torch.stack(losses.pop(None))
    return [
        {
            "node": node.id,
            "operation": next(iter(search.network.structure.sites_of(node).values())).candidates[0].operation.name,
            "gate": gates.get(node),
            "with": kept.mean(1).tolist(),
            "without": torch.stack(without).mean(1).tolist(),
            "windows": block_error((torch.stack(without) - kept).mean(0)),
        }
        for node, without in losses.items()
        if node is not None
    ]


def removed(network: Network, node: Address) -> Network:
    """Return a network without a node of a chain, with the same weights; what read the node reads the one before it."""
    structure = network.structure
    cell, (site,) = structure.cell(node.cell), structure.sites_of(node).values()

    def rewired(inputs: Sequence[str]) -> tuple[str, ...]:
        return tuple(site.inputs[-1] if name == node.id else name for name in inputs)

    rest = attrs.evolve(
        cell,
        nodes=tuple(attrs.evolve(n, inherits=rewired(n.inherits)) for n in cell.nodes if n.id != node.id),
        sites=tuple(attrs.evolve(s, inputs=rewired(s.inputs)) for s in cell.sites if s.node != node.id),
    )
    edit = Edit(structure.replace_cell(node.cell, rest), lambda parent, child: Filling(Claim.lossy()))
    return apply(network, edit, Seed((0, "removed"))).child


def window_losses(network: Network, data: Data) -> Tensor:
    """Return the loss of each validation window."""
    inputs, targets = data.validation.batch(torch.arange(data.validation.size))
    assert data.losses is not None
    with torch.no_grad():
        return data.losses(network.eval()(inputs), targets)


def block_error(differences: Tensor) -> float:
    """Return the standard error of a mean over windows, from means of blocks of neighbours, which overlap little."""
    blocks = [float(block.mean()) for block in differences.split(BLOCK) if len(block) == BLOCK]
    return standard_error(blocks)


# from scratch


def scratch(series: str, way: str, seed: int, found: Mapping[str, Any], budget: str) -> dict[str, Any]:
    """Return what the cell of a search comes to from scratch.

    Args:
        series: the series of the search.
        way: how it grew.
        seed: its seed.
        found: what `grown` returned.
        budget: as many "updates" or "FLOPs" as the search took; or "gated", as many updates with the gates of the cell, which are shut at
            first.
    """
    strategy, key = strategy_of(series, way, seed), Seed((seed, "scratch"))
    data, total = Search(strategy).data, found["cuts"][PLAIN]
    structure, updates = Structure.from_dict(found["structure"], installed().make), total["updates"]
    network = placed(strategy, build(structure if budget == "gated" else without_gates(structure), key("build")))
    if budget == "FLOPs":
        trained = trainer(strategy, data)
        training = Training(network, trained.optimisers(network), batch=strategy.fixed_batch)
        updates = round(total["flops"] / update_flops(trained, training))
    result = fit(network, tuning_of(strategy), data, updates=updates, seed=key)
    return {"valid": result.valid, "test": tested(network, data)["mse"], "updates": result.updates, "budget": updates}


def tuning_of(strategy: Strategy) -> Strategy:
    """Return the strategy with the optimiser of its tuning, whose learning rate falls to 0."""
    return attrs.evolve(strategy, optimiser=attrs.evolve(strategy.optimiser, final=0.0))


# moments


@attrs.frozen
class Warming(Optimiser):
    """An optimiser whose learning rate rises over the first updates after its state began anew."""

    def anneal(self, optimiser: Optimizer, epoch: int) -> None:
        """Set the learning rate of the next update."""
        super().anneal(optimiser, epoch)
        made = max((float(state["step"]) for state in optimiser.state.values()), default=0.0)
        for group in optimiser.param_groups:
            group["lr"] *= min(1.0, (made + 1) / WARMUP)


def policies(series: str, way: str, seed: int) -> dict[str, Any]:
    """Return the validation loss some updates after the first growth and at the end of the phase, for each policy for moments."""
    search = Search(strategy_of(series, way, seed))
    for _ in search:
        if search.state.place == (1,):
            break
    strategy, data, found = search.strategy, search.data, dict[str, Any]()
    parent = TrainedNetwork(strategy, data, search.state)
    (morphism,), key = strategy.growth, Seed((seed, "growth"))
    (proposal,) = parent.proposals(morphism)
    edit = morphism.edit(parent.network.structure, proposal.request, proposal.evidence, key)
    for policy in ("carried", *OTHERS):
        state, optimiser = copy.deepcopy(search.state), strategy.optimiser
        if policy == WARM:
            optimiser = Warming(**attrs.asdict(optimiser))
        trained = attrs.evolve(trainer(strategy, data), optimiser=optimiser)
        if policy != "without growth":
            change = apply(state.network, edit, key)
            moments: Any = "reset" if policy == WARM else policy
            optimisers = trained.optimisers(change.child)
            for group, named in GROUPS.items():
                follow(
                    state.optimisers[group], named(state.network), optimisers[group], named(change.child), change.map, moments
                )
            state.network, state.optimisers = change.child, optimisers
        found[policy] = after_growth(trained, state, key)
    return found


def follow(old: Optimizer, before: Any, new: Optimizer, after: Any, map: Map, moments: Moments) -> None:
    """Fill the state of a new optimiser from that of an old one, by a policy for moments."""
    states, (group,) = named_state(old, before), new.param_groups
    for name, parameter in after:
        entry = map.get(name)
        if isinstance(entry, Take) and entry.source in states and moments != "reset":
            new.state[parameter] = follow_state(old, group, states[entry.source], entry, moments)


def after_growth(trained: Trainer, state: State, key: Seed) -> dict[str, Any]:
    """Return the validation loss of a supernet by the number of updates, at `SOON` and at the end of a phase."""
    losses, made, epochs = {"0": trained.measure(state.network)[0]}, 0, trained.optimiser.epochs or 1
    for epoch in range(epochs):
        state.epoch, state.samples, state.loss = epoch, 0, 0.0
        for _ in trained.epoch(state, key("epoch", epoch), search=True):
            made += 1
            if made in SOON:
                losses[str(made)] = trained.measure(state.network)[0]
    return {**losses, "end": trained.measure(state.network)[0]}


# tables


@attrs.define
class Results:
    """The results in a file of JSON lines, by what was measured and where."""

    path: Path
    found: dict[tuple[str, ...], Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the results of a file, which need not exist."""
        lines = path.read_text().splitlines() if path.exists() else []
        return cls(path, {tuple(row["key"]): row["value"] for row in map(json.loads, lines)})

    def measure(self, name: str, place: tuple[str, str, int], what: Callable[..., Any], *more: Any) -> Any:
        """Return a result, and measure it and add it to the file if it is not in it.

        Args:
            name: its name.
            place: the series, the way and the seed.
            what: measures it.
            *more: further arguments.
        """
        key = (name, *map(str, place))
        if key not in self.found:
            start = time.process_time()
            value = what(*place, *more)
            self.found[key] = {**value, "seconds": time.process_time() - start}
            print(f"{' '.join(key)}: {self.found[key]['seconds']:.1f} s", file=sys.stderr, flush=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self.found[key]}, allow_nan=False) + "\n")
        return self.found[key]

    def of(self, what: str, series: str, way: str) -> dict[str, Any]:
        """Return the results of all seeds, by the seed."""
        return {key[3]: value for key, value in self.found.items() if key[:3] == (what, series, way)}


def report(results: Results) -> Iterator[str]:
    """Yield the lines of the tables: nodes that are removed, grown cells beside cells from scratch, and policies for moments."""
    yield "| series | search | grown nodes | larger loss without it | over tunings | over windows | over both | median increase |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for series, way in itertools.product(SERIES, REMOVED):
        nodes = [node for value in results.of("grown", series, way).values() for node in value["removals"]]
        if nodes:
            yield f"| {series} | {way} | {len(nodes)} | {' | '.join(needed(nodes))} |"
    yield ""
    budgets = [budget for budget in BUDGETS if any(key[0] == budget for key in results.found)]
    minus = " | ".join(f"minus {BUDGETS[budget]}" for budget in budgets)
    yield f"| series | search | cut | supernet | cut off | tuned | {minus} | in test |"
    yield f"| --- | --- | --- |{' ---: |' * (len(budgets) + 4)}"
    for series, way in itertools.product(SERIES, WAYS):
        found = results.of("grown", series, way)
        others = {budget: results.of(budget, series, way) for budget in budgets}
        for cut in CUTS if found else ():
            cuts = {seed: value["cuts"][cut] for seed, value in found.items()}
            if cut != PLAIN and all(cuts[seed] == found[seed]["cuts"][PLAIN] for seed in found):
                continue  # such as a restart that no search made
            columns = [
                mean([value["supernet"] for value in found.values()]),
                f"{statistics.median(each['pruned'] for each in cuts.values()):.3f}",
                mean([each["valid"] for each in cuts.values()]),
                *(mean([cuts[s]["valid"] - o["valid"] for s, o in other.items()], "+", len(cuts)) for other in others.values()),
                mean([cuts[s]["test"] - o["test"] for s, o in results.of("updates", series, way).items()], "+", len(cuts)),
            ]
            yield f"| {series} | {way} | {cut} | {' | '.join(columns)} |"
    yield ""
    yield f"| series | search | moments | {' | '.join(f'{n} updates' for n in SOON)} | end of the phase |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for series, way in itertools.product(SERIES, WAYS):
        rows = results.of("policies", series, way).values()
        for policy in ("carried", *OTHERS) if rows else ():
            base = [dict.fromkeys(r["carried"], 0.0) if policy == "carried" else r["carried"] for r in rows]
            sign = "" if policy == "carried" else "+"
            columns = [
                mean([r[policy][at] - b[at] for r, b in zip(rows, base, strict=True)], sign=sign)
                for at in (*map(str, SOON), "end")
            ]
            yield f"| {series} | {way} | {policy}{' minus carried' if sign else ''} | {' | '.join(columns)} |"


def needed(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how many nodes raise the loss by their removal: at all, by two standard errors of each kind and of both; and the median."""
    differences = [[b - a for a, b in zip(node["with"], node["without"], strict=True)] for node in nodes]
    tunings = [fmean(each) >= 2 * standard_error(each) for each in differences]
    windows = [fmean(each) >= 2 * node["windows"] for each, node in zip(differences, nodes, strict=True)]
    yield str(sum(fmean(each) > 0 for each in differences))
    yield str(sum(tunings))
    yield str(sum(windows))
    yield str(sum(a and b for a, b in zip(tunings, windows, strict=True)))
    shares = [fmean(each) / fmean(node["with"]) for each, node in zip(differences, nodes, strict=True)]
    yield f"{statistics.median(shares):.1%}"


def mean(values: Sequence[float], sign: str = "", seeds: int = 0) -> str:
    """Return a mean with its standard error as text, and the number of values if it is not that of the seeds."""
    error = f" ± {standard_error(values):.4f}" if len(values) > 1 else ""
    fewer = f" ({len(values)} of {seeds})" if len(values) < seeds else ""
    return f"{fmean(values):{sign}.4f}{error}{fewer}" if values else ""


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of values."""
    return statistics.stdev(values) / len(values) ** 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing in the file and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, which is created if there is none")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--series", nargs="*", choices=[*SERIES], default=[*SERIES])
    parser.add_argument("--ways", nargs="*", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--what", nargs="*", choices=WHAT, default=[*WHAT])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = Results.read(options.results)
    for way, what, seed, series in itertools.product(options.ways, options.what, options.seeds, options.series):
        place = (series, way, seed)
        if what == "policies":
            results.measure(what, place, policies)
        else:
            found = results.measure("grown", place, grown)
        if what in BUDGETS:
            results.measure(what, place, scratch, found, what)
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
