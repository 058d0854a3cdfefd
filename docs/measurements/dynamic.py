"""Compare the plan `dynamic` with `stage` and `end`, and the predicted with the realised gain of growths of all kinds.

    NASFRAME_DATA=... python docs/measurements/dynamic.py --results dynamic.jsonl --pictures docs/pictures

Recurrent cells are searched on the shipped weather series and on ETTh1 (ETTh1.csv.gz in the folder of NASFRAME_DATA), in both recurrent
backbones. The result of each search is added to the file, and a search that is in it already is not repeated, so that an
interrupted measurement goes on. The script prints tables in markdown; dynamic.md explains them. The learning rate of the alphas is chosen
first, by --rates, with other seeds than the searches have.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import attrs
import torch
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_growing import Dynamic, Epochs, MaxNodes, NodeGrowth, OperatorGrowth, Resampling, Threshold, WidthGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import Darts, TwoToOne
from nasframe_splitting import Split
from torch import Tensor

from nasframe import Morphism, Network, Optimiser, Search, Seed, Strategy, installed
from nasframe.change.apply import apply
from nasframe.pictures.style import INK, blank, save, style
from nasframe.records import Changed, Evaluated
from nasframe.search.changes import Changer
from nasframe.search.compare import FOUND, INHERITED
from nasframe.search.gain import Descent, gains
from nasframe.search.plan import END
from nasframe.search.state import trainer
from nasframe.search.trainer import keyed_batch
from nasframe.testing.fakes import Endless
from nasframe.testing.trained import TrainedNetwork

#: by series, the batch size and the number of epochs of each phase
SERIES = {"weather": (50, 10), "ETTh1": (200, 4)}
BACKBONES: dict[str, TwoToOne | Darts] = {"two_to_one": TwoToOne(hidden=8), "darts_recurrent": Darts(hidden=8)}
#: the plans; "all" is "dynamic" without a change within the phases, so that all operations stay at each site
PLANS = ("stage", "end", "dynamic", "all")
#: the learning rates of the alphas that are tried, and the seeds with which they are
RATES, TRIED = (0.003, 0.01, 0.03), (100, 101)
#: the learning rate of the alphas in the searches
RATE = 0.01
#: operations above 1.5 / n grow, those below 0.5 / n are removed unless another one of the node is above 3 / n
CHANGING = {
    "dynamic": Dynamic((OperatorGrowth(threshold=1.5, relative=True),), Threshold(0.5, 3.0, relative=True)),
    "all": Dynamic((OperatorGrowth(threshold=2.0),), Threshold(0.0)),
}
#: the largest number of proposals of a kind for each network
PROPOSALS = 3
#: the growths whose gains are compared
GROWTHS: dict[str, Morphism] = {
    "node": NodeGrowth(),
    "gated node": NodeGrowth("gate"),
    "copy": OperatorGrowth(),
    "fresh copy": OperatorGrowth("fresh"),
    "resampling": Resampling(),
    "split": Split(proposals=PROPOSALS),
    "width": WidthGrowth(),
}
COLOURS = ("#143d6b", "#5b8fd6", "#b4540a", "#d98b3a", "#8f5fa8", "#2a7f3f", "#c2528b")
#: the numbers of nodes and of units with which the time for looking is measured
LOOKED = ((1, 8), (4, 8), (4, 128))
#: the growths that are compared there
LOOKS: dict[str, Sequence[Morphism]] = {
    "node, fresh copies, width": [GROWTHS[name] for name in ("node", "fresh copy", "width")],
    "exact copies": [OperatorGrowth(sigma=0.0)],
    "gated node, exact copies": [GROWTHS["gated node"], OperatorGrowth(sigma=0.0)],
    "gated node, exact copies, width": [GROWTHS["gated node"], OperatorGrowth(sigma=0.0), GROWTHS["width"]],
}
#: other batches on which a gain is realised
OTHERS = 8


def strategy_of(series: str, backbone: str, seed: int, plan: str = "end", rate: float = RATE) -> Strategy:
    """Return a search with one growth by a node."""
    path = None if series == "weather" else str(Path(os.environ["NASFRAME_DATA"], f"{series}.csv.gz"))
    recipe = CHANGING[plan] if plan in CHANGING else installed().make("plan", plan)
    batch, epochs = SERIES[series]
    return Strategy(
        task=Forecasting() if path is None else Forecasting(csv=path),
        backbone=BACKBONES[backbone],
        architect=FirstOrder(Optimiser(learning_rate=rate)),
        criterion=Epochs(epochs) | MaxNodes(2),
        pruner=Strongest(),
        growth=(NodeGrowth("gate"),),
        plan=recipe.steps(),
        batch=batch,
        optimiser=Optimiser(learning_rate=5e-3),
        seed=seed,
        seeds=1,
    )


def searched(series: str, backbone: str, seed: int, plan: str) -> dict[str, Any]:
    """Return what a search and its comparison found."""
    search = Search(strategy_of(series, backbone, seed, plan))
    search.run()
    updates, sites = search.state.updates, [site.candidates[0].operation for _, site in search.network.structure.sites()]
    for record in search.compare(workers=1):
        # The others are those of the plan "end".
        if plan == "all" and isinstance(record, Evaluated) and record.name == FOUND:
            break
    evaluations = {
        e.name: {"valid": e.valid, "mse": e.scores.get("mse"), "parameters": e.parameters} for e in search.state.evaluations
    }
    return {
        "updates": updates,
        "operations": [len(operation.summands()) or 1 for operation in sites],
        "changes": changes(search),
        "evaluations": evaluations,
    }


def changes(search: Search) -> list[dict[str, Any]]:
    """Return the changes of a search, without those that return to an earlier network."""
    names = ("change", "by", "phase", "stage", "epoch", "parameters", "predicted", "realised")
    made = [r for r in search.state.lineage if isinstance(r, Changed) and r.change in ("grow", "edit", "remove")]
    sides = [{side: sum(map(len, getattr(r, side).values())) for side in ("added", "removed")} for r in made]
    return [{name: getattr(r, name) for name in names} | side for r, side in zip(made, sides, strict=True)]


def tried(series: str, backbone: str, seed: int, rate: float) -> dict[str, Any]:
    """Return how many operators are added and removed within the phases of a dynamic search."""
    search = Search(strategy_of(series, backbone, seed, "dynamic", rate))
    search.run()
    within = [c for c in changes(search) if c["change"] == "edit" and c["phase"] == "search"]
    return {side: sum(c[side] for c in within) for side in ("added", "removed")}


def compared(series: str, backbone: str, seed: int) -> list[dict[str, Any]]:
    """Return the predicted and the realised gains of growths of all kinds, of one network early and late in a search."""
    batch, epochs = SERIES[series]
    strategy = attrs.evolve(strategy_of(series, backbone, seed), plan=END, criterion=Endless(), nodes=2)
    trained, found = TrainedNetwork.of(strategy, 0), list[dict[str, Any]]()
    per_epoch = trained.data.train.size // batch
    for moment, steps in (("early", per_epoch), ("late", per_epoch * (epochs - 1))):
        trained.train(steps)
        for name, morphism in GROWTHS.items():
            for number, proposal in enumerate(trained.proposals(morphism)[:PROPOSALS]):
                key = Seed((seed, moment, name, number))
                record = Changer(strategy, trainer(strategy, trained.data)).grow(
                    trained.copy().state, morphism, proposal, why="measured", seed=key
                )
                structure = trained.network.structure
                edit = morphism.edit(structure, proposal.request, proposal.evidence, key)
                child = apply(trained.network, edit, key).child
                found.append(
                    {
                        "kind": name,
                        "moment": moment,
                        "cost": proposal.cost,
                        "predicted": record.predicted,
                        "realised": record.realised,
                        "others": [realised(trained, child, key("others"), other) for other in range(OTHERS)],
                    }
                )
    return found


def realised(parent: TrainedNetwork, child: Network, seed: Seed, number: int) -> float:
    """Return what is realised of a growth on another batch, on which the step is taken, too."""
    state, training = parent.state, trainer(parent.strategy, parent.data)
    batch = keyed_batch(parent.data.train, seed, number, state.batch)

    def loss(network: Network) -> Tensor:
        return training.loss(batch, seed, network, network.mixing())

    rate = training.optimiser.learning_rate
    one, other = (Descent.of(copy.deepcopy(each).eval(), loss, rate) for each in (parent.network, child))
    return one.after - other.after


def looked(backbone: str, nodes: int, hidden: int) -> dict[str, Any]:
    """Return what it takes to compare the gains of proposals, and a step of training, on the weather series, in milliseconds."""
    wide = attrs.evolve(BACKBONES[backbone], hidden=hidden)
    strategy = attrs.evolve(strategy_of("weather", backbone, 0), backbone=wide, plan=END, criterion=Endless(), nodes=nodes)
    trained = TrainedNetwork.of(strategy, 20)

    def look(growths: Sequence[Morphism]) -> tuple[int, Callable[[], object]]:
        proposals = [(morphism, proposal) for morphism in growths for proposal in trained.proposals(morphism)]
        structure, seed = trained.network.structure, Seed((0,))
        question = partial(gains, structure=structure, proposals=proposals, currency="parameters", seed=seed)
        return len(proposals), lambda: trained.measured(question)

    looks = {name: look(growths) for name, growths in LOOKS.items()}
    ways: dict[str, Callable[[], object]] = {"step": lambda: trained.train(10)} | {
        name: run for name, (_, run) in looks.items()
    }
    times = {name: list[float]() for name in ways}
    for _, (name, run) in itertools.product(range(7), ways.items()):  # interleaved, so that all meet the same load
        start = time.process_time()
        run()
        times[name].append(1e3 * (time.process_time() - start))
    step, *found = (statistics.median(each) for each in times.values())
    counts = [count for count, _ in looks.values()]
    return {"step": step / 10, "looks": {n: [c, t] for n, c, t in zip(LOOKS, counts, found, strict=True)}}


@attrs.define
class Results:
    """The results in a file of JSON lines, by their keys."""

    path: Path
    found: dict[str, Any] = attrs.field(factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the results of a file, which need not exist."""
        lines = path.read_text().splitlines() if path.exists() else []
        return cls(path, {row["key"]: row["value"] for row in map(json.loads, lines)})

    def measure(self, what: Any, *key: Any) -> None:
        """Measure what is not in the file yet, and add it."""
        name = " ".join(map(str, (what.__name__, *key)))
        if name in self.found:
            return
        start = time.process_time()
        self.found[name] = what(*key)
        print(f"{name}: {time.process_time() - start:.1f} s", file=sys.stderr, flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": name, "value": self.found[name]}) + "\n")

    def of(self, what: str, *key: Any) -> Iterator[Any]:
        """Yield the results whose keys begin with `what` and the parts of `key`."""
        start = " ".join(map(str, (what, *key, "")))
        yield from (value for name, value in self.found.items() if f"{name} ".startswith(start))


def report(results: Results, *, seeds: int) -> Iterator[str]:
    """Yield the lines of the tables: the rates of the alphas, the plans, the gains, and what looking costs."""
    yield "| series | backbone | rate of the alphas | added | removed |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for series, backbone, rate in itertools.product(SERIES, BACKBONES, RATES):
        found = [v for seed in TRIED for v in results.of("tried", series, backbone, seed, rate)]
        if found:
            counts = (", ".join(str(v[side]) for v in found) for side in ("added", "removed"))
            yield f"| {series} | {backbone} | {rate:g} | {' | '.join(counts)} |"
    for series in SERIES:
        yield ""
        yield f"{series}:"
        yield ""
        yield "| backbone | plan | network | validation MSE | test MSE | parameters | updates | added, removed | operations at a site |"
        yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        shown = set[str]()
        for backbone, plan in itertools.product(BACKBONES, PLANS):
            found = [v for seed in range(seeds) for v in results.of("searched", series, backbone, seed, plan)]
            if not found:
                continue
            within = [[c for c in v["changes"] if c["change"] == "edit" and c["phase"] == "search"] for v in found]
            sums = (sum(c[side] for each in within for c in each) for side in ("added", "removed"))
            operations = [n for v in found for n in v["operations"]]
            more = f"{fmean([v['updates'] for v in found]):.0f} | {', '.join(map(str, sums))} | {fmean(operations):.1f}"
            for name in found[0]["evaluations"]:
                rows = [v["evaluations"][name] for v in found]
                values = " | ".join(spread([r[k] for r in rows]) for k in ("valid", "mse"))
                row = f"| {name} | {values} | {fmean([r['parameters'] for r in rows]):.0f} |"
                # Without training a baseline is the same for all, and random cells are for plans of as many updates.
                if row not in shown:
                    yield f"| {backbone} | {plan} {row} {more if name == INHERITED else ' |  | '} |"
                shown.add(row)
    yield ""
    others = "on other batches, median | same sign there | rank correlation there"
    yield f"| growth | number | predicted, median | per parameter | realised, median | error | {others} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    points = [point for value in results.of("compared") for point in value]
    for kind in GROWTHS:
        if rows := [p for p in points if p["kind"] == kind]:
            yield f"| {kind} | {len(rows)} | {' | '.join(agreement(rows))} |"
    yield f"| all | {len(points)} | {' | '.join(agreement(points))} |" if points else ""
    yield ""
    made = [c for v in results.of("searched") for c in v["changes"] if c["predicted"] is not None]
    yield "| changes of the searches, by | number | predicted, median | realised, median | error | same sign |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for by in dict.fromkeys(c["by"] for c in made):
        rows = [c for c in made if c["by"] == by]
        pairs = [(c["predicted"], c["realised"]) for c in rows]
        signs = sum((p > 0) == (r > 0) for p, r in pairs)
        medians = (f"{statistics.median(side):.2g}" for side in zip(*pairs, strict=True))
        yield f"| {by} | {len(rows)} | {' | '.join(medians)} | {error(pairs)} | {signs} of {len(rows)} |"
    yield ""
    yield "| backbone | nodes | units | growths | proposals | a step, ms | looking, steps | steps for each |"
    yield "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    for backbone, (nodes, hidden) in itertools.product(BACKBONES, LOOKED):
        for v in results.of("looked", backbone, nodes, hidden):
            for growths, (count, look) in v["looks"].items():
                steps = look / v["step"]
                size = f"{nodes} | {hidden} | {growths} | {count}"
                yield f"| {backbone} | {size} | {v['step']:.1f} | {steps:.1f} | {steps / count:.1f} |"


def spread(values: Sequence[float | None]) -> str:
    """Return the mean and the standard deviation of values as text; those that diverged are counted."""
    known = [value for value in values if value is not None]
    lost = f" ({len(values) - len(known)} diverged)" if len(known) < len(values) else ""
    if not known:
        return lost.strip() or ""
    return f"{fmean(known):.4f}" + (f" ± {statistics.stdev(known):.4f}" if len(set(known)) > 1 else "") + lost


def agreement(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how far the predicted and the realised gains of growths agree."""
    pairs = [(p["predicted"], p["realised"]) for p in rows]
    others = [fmean(p["others"]) for p in rows]
    signs = sum((p["predicted"] > 0) == (other > 0) for p, other in zip(rows, others, strict=True))
    order = statistics.correlation(*map(ranks, ([p for p, _ in pairs], others))) if len(rows) > 2 else 0.0
    per = [p["predicted"] / max(p["cost"], 1) for p in rows]
    medians = [f"{statistics.median(side):.2g}" for side in ([p for p, _ in pairs], per, [r for _, r in pairs])]
    return [*medians, error(pairs), f"{statistics.median(others):.2g}", f"{signs} of {len(rows)}", f"{order:.2f}"]


def error(pairs: Sequence[tuple[float, float]]) -> str:
    """Return the median of the relative errors of predicted gains as text."""
    return f"{statistics.median(abs(p - r) / max(abs(r), 1e-12) for p, r in pairs):.1%}"


def ranks(values: Sequence[float]) -> list[float]:
    """Return the place of each value among the sorted ones."""
    order = sorted(values)
    return [float(order.index(value)) for value in values]


def draw(results: Results, path: Path) -> None:
    """Draw the predicted and the realised gains, on the batch of the prediction and on others."""
    points = [point for value in results.of("compared") for point in value]
    made = [c for v in results.of("searched") for c in v["changes"] if c["predicted"] is not None]
    with style():
        figure = blank(7.0, 3.8, layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, title in zip(panels, ("on the batch of the prediction", "on other batches"), strict=True):
            for (kind, _), colour in zip(GROWTHS.items(), COLOURS, strict=True):
                rows = [p for p in points if p["kind"] == kind]
                y = [p["realised"] if axes is panels[0] else fmean(p["others"]) for p in rows]
                axes.scatter([p["predicted"] for p in rows], y, s=9, color=colour, linewidths=0, alpha=0.7, label=kind)
            if axes is panels[0]:
                x, y = ([c[side] for c in made] for side in ("predicted", "realised"))
                axes.scatter(x, y, s=14, marker="x", color=INK, linewidths=0.7, label="changes of the searches")
            axes.set_xscale("symlog", linthresh=1e-6)
            axes.set_yscale("symlog", linthresh=1e-6)
            for line in (axes.axhline, axes.axvline):
                line(0, color=INK, linewidth=0.5)
            axes.axline((0, 0), (1, 1), color=INK, linewidth=0.5, linestyle=(0, (4, 2)))
            axes.set_title(title, fontsize=8)
            axes.set_xlabel("predicted gain")
            axes.spines[["top", "right"]].set_visible(False)
            ticks = [-1e-1, -1e-3, -1e-5, 0, 1e-5, 1e-3, 1e-1]
            axes.set_xticks([*ticks[:2], 0, *ticks[-2:]])
            axes.set_yticks(ticks)
        panels[0].set_ylabel("realised gain")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing in the file, print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, which is created if there is none")
    parser.add_argument("--pictures", type=Path, help="the folder of the picture")
    parser.add_argument("--series", nargs="*", default=[*SERIES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", action="store_true", help="try learning rates of the alphas, and do nothing else")
    parser.add_argument("--print", action="store_true", help="print and draw what is in the file, and measure nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = Results.read(options.results)
    if options.rates:
        for rate, seed, series, backbone in itertools.product(RATES, TRIED, options.series, BACKBONES):
            results.measure(tried, series, backbone, seed, rate)
    elif not options.print:
        for seed, series, backbone in itertools.product(range(options.seeds), options.series, BACKBONES):
            results.measure(compared, series, backbone, seed)
            for plan in PLANS:
                results.measure(searched, series, backbone, seed, plan)
        for backbone, sizes in itertools.product(BACKBONES, LOOKED):
            results.measure(looked, backbone, *sizes)
    print("\n".join(report(results, seeds=options.seeds)))
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        draw(results, options.pictures / "dynamic-gains.png")


if __name__ == "__main__":
    main()
