"""The protocol: how good the cells are that searches find, among random cells and beside simple models."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from nasframe import Data, Seed, Space, Strategy, Structure, installed
from nasframe.errors import NonFiniteError
from nasframe.interfaces.part import short_name, to_plain
from nasframe.interfaces.reproduction import Reproduction
from nasframe.options import number
from nasframe.search.evaluate import updates_per_epoch
from nasframe_papers.quality.statistics import Cells, Chosen, Picks, bootstrap, evenly, rank_correlation, ranks
from nasframe_papers.quality.strategies import FILES, NAMES, RECOMMENDED, SHIPPED, ZERO_COST, strategies
from nasframe_papers.quality.trials import loaded, score_trial, search_trial, train_trial
from nasframe_papers.trials import Values, among, kept, present, standard_error, tupled

#: the least ratio of the standard deviations between cells and between seeds at which a task can show anything
RELIABLE = 3.0
#: the recurrent networks of the headline comparison
LAYERS = ("RNN", "LSTM", "GRU")


@attrs.frozen
class SearchQuality(Reproduction):
    """The percentile of found cells among random cells that are trained from scratch, beside random search and simple models.

    Everything is decided on the validation split. The test split is read once for each network that was trained from scratch, after its
    training, and no decision depends on it. The cells are those of Two-to-One (Jie & Gao 2021).

    Args:
        tasks: the tasks: "pedestrians", "weather", "ETTh1", and "ETTh1-96", which forecasts 96 hours at once.
        strategies: the names of the strategies; by default all.
        operations: the names of the operations of a node; by default the five of the paper.
        nodes: the number of nodes of a cell.
        hidden: the number of its units.
        cells: the largest number of random cells. A smaller space is taken whole.
        trials: the number of seeds of each training from scratch and of each search.
        paired: the number of seeds with which the cell of the recommended strategy is compared with recurrent networks.
        updates: the largest number of updates of a training from scratch. It ends after 20 epochs without improvement.
        supernet: the number of updates of a supernet.
        data: the folder with the files of tasks that cannot be shipped; by default that of the environment variable NASFRAME_DATA. A task
            without its file is left out with a message.
        jobs: the number of processes, of one thread each. Only the CPU seconds, and what depends on them, differ with it.
    """

    name: ClassVar[str] = "search-quality"
    about: ClassVar[str] = "found cells among random cells trained from scratch, beside random search and recurrent networks"
    tasks: tuple[str, ...] = attrs.field(default=("pedestrians",), converter=tupled, validator=among((*SHIPPED, *FILES)))
    strategies: tuple[str, ...] = attrs.field(default=NAMES, converter=tupled, validator=among(NAMES))
    operations: tuple[str, ...] | None = attrs.field(default=None, converter=tupled)
    nodes: int = number(2, low=1, whole=True)
    hidden: int = number(16, low=1, whole=True)
    cells: int = number(25, low=3, whole=True)
    trials: int = number(3, low=2, whole=True)
    paired: int = number(10, low=2, whole=True)
    updates: int = number(800, low=1, whole=True)
    supernet: int = number(400, low=1, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Values]:
        """Yield, for each task: its reliability, the strategies, the baselines, the scores of untrained cells, and further tables.

        These are the headline, short trainings, the sites and the gaps.
        """
        for task, values in self._tasks(say).items():
            yield from Measurement(self, task, values, folder, say).rows()

    def draw(self, rows: Sequence[Values], folder: Path) -> Sequence[Path]:
        """Draw the validation losses of the found cells of each task among those of the random cells."""
        from nasframe_papers.quality.picture import draw_places

        paths = []
        for row in (row for row in rows if "verdict" in row):
            found = {r["strategy"]: r["losses"] for r in rows if "strategy" in r and r["task"] == row["task"]}
            paths.append(folder / f"{row['task']}.png")
            draw_places(row["losses"], found, paths[-1], x=f"validation loss from scratch, {row['task']}")
        return paths

    def _tasks(self, say: Callable[[str], None]) -> Mapping[str, Values]:
        files = present({name: file for name, (file, _) in FILES.items() if name in self.tasks}, self.data, say)
        tasks: dict[str, Values] = {}
        for name in self.tasks:
            if name in SHIPPED:
                tasks[name] = SHIPPED[name]
            elif name in files:
                # with the digest of the file, so that results that were kept belong to these data
                tasks[name] = to_plain(installed().make("task", {**FILES[name][1], "csv": str(files[name])}).pinned())
        return tasks


@attrs.frozen(eq=False)
class Measurement:
    """The measurement of one task.

    Args:
        options: the options of the protocol.
        task: the name of the task.
        values: the values of the task.
        folder: keeps the results of the trials.
        say: shows a line about the progress.
    """

    options: SearchQuality
    task: str
    values: Values
    folder: Path
    say: Callable[[str], None]

    def rows(self) -> Iterator[Values]:
        """Yield the rows of the task."""
        options, shared = self.options, self._shared
        data = loaded(shared)
        space = shared.backbone.space(shared.backbone.initial(data.sizes, options.nodes))
        epochs = max(1, round(options.supernet / updates_per_epoch(shared, data)))
        random = drawn(space, options.cells)
        # Uniform cells have the same operation at each node.
        uniform = [(i,) * len(space.decisions) for i in range(min(choice.options for choice in space.decisions))]
        cells = self._trained(random, {}, uniform)
        yield self._reliability(cells)

        searches = self._searches(epochs, random)
        found = {name: [tuple(result["picks"]) for result in results] for name, results in searches.items()}
        cells = self._trained(random, cells.trainings, itertools.chain.from_iterable(found.values()))
        names = {cell: named(space.architecture(cell)) for cell in cells.trainings}
        for name, results in searches.items():
            yield self._strategy(name, results, found[name], cells, names)
        for name, chosen in self._baselines(cells, uniform, names).items():
            yield self._choice(name, chosen, cells)
        yield from self._scores(cells)
        if RECOMMENDED in found:
            yield from self._headline(min(found[RECOMMENDED], key=cells.valid), cells, names, data)
        yield from self._short(cells, updates_per_epoch(shared, data))
        for name, results in searches.items():
            yield from self._sites(name, [result["supernet"] for result in results], cells)
        for name, results in searches.items():
            if results[0]["before"] is not None:
                yield self._gap(name, results, found[name], cells)

    @property
    def _shared(self) -> Strategy:
        """Return the strategy from which all others differ in some values; cells are trained with its optimiser and batches."""
        return Strategy.from_dict(self._strategy_values({}, 1))

    def _strategy_values(self, different: Values, epochs: int) -> Values:
        operations = {} if self.options.operations is None else {"operations": [*self.options.operations]}
        return {
            "task": self.values,
            "backbone": {"name": "two_to_one", "hidden": self.options.hidden, **operations},
            "architect": {"name": "first_order"},
            "criterion": {"name": "epochs", "epochs": epochs},
            "pruner": {"name": "strongest"},
            "nodes": self.options.nodes,
            **different,
        }

    # trials

    def _kept(self, function: Callable[[Values], Values], trials: Sequence[Values], what: str) -> list[Values]:
        return [*kept(function, trials, self.options.jobs, self.folder / what, self.say)]

    def _training(self, model: str, seed: int, what: Values) -> Values:
        values = self._strategy_values({}, 1)
        return {"series": self.task, "model": model, "seed": seed, "values": values, "updates": self.options.updates, **what}

    def _trained(self, random: Sequence[Picks], known: Mapping[Picks, Sequence[Values]], further: Iterable[Picks]) -> Cells:
        """Return the cells with those that were drawn, and further ones; known ones are not trained again."""
        new = [cell for cell in dict.fromkeys([*random, *further]) if cell not in known]
        seeds = range(self.options.trials)
        # seed by seed, so that an interrupted measurement has all cells with the first seeds
        pairs = [(seed, cell) for seed in seeds for cell in new]
        results = self._kept(train_trial, [self._cell(cell, seed) for seed, cell in pairs], "trainings")
        found = dict(zip(pairs, results, strict=True))
        return Cells(tuple(random), {**known, **{cell: [found[seed, cell] for seed in seeds] for cell in new}})

    def _cell(self, cell: Picks, seed: int) -> Values:
        return self._training("cell " + " ".join(map(str, cell)), seed, {"picks": list(cell)})

    def _searches(self, epochs: int, random: Sequence[Picks]) -> Mapping[str, list[Values]]:
        options, trials = self.options, []
        known = strategies(epochs, options.cells, options.updates, options.nodes)
        for seed, name in itertools.product(range(options.trials), options.strategies):
            # A plan that a plugin registers is written out, so that results that were kept belong to its steps.
            values = Strategy.from_dict(self._strategy_values(known[name], epochs)).to_dict()
            trials.append({"series": self.task, "model": name, "seed": seed, "values": values, "cells": [*map(list, random)]})
        results = self._kept(search_trial, trials, "searches")
        return {n: [r for t, r in zip(trials, results, strict=True) if t["model"] == n] for n in options.strategies}

    # rows

    def _reliability(self, cells: Cells) -> Values:
        """Return whether cells differ by more than seeds do, among all random cells and among the better half of them."""
        ordered = sorted(cells.random, key=cells.valid)
        between, within = spreads(cells, ordered)
        row: dict[str, Any] = {"task": self.task, "cells": len(ordered), "trainings of each": self.options.trials}
        row |= {"std between cells": between, "std between seeds": within, "ratio": ratio(between, within)}
        better = ordered[: max(2, (len(ordered) + 1) // 2)]
        between, within = spreads(cells, better)
        row |= {"better half": ratio(between, within)}
        row["verdict"] = verdict(row["ratio"], row["better half"])
        row["losses"] = finite_losses(cells, ordered)
        return row

    def _strategy(
        self, name: str, results: Sequence[Values], found: Sequence[Picks], cells: Cells, names: Mapping[Picks, str]
    ) -> Values:
        percentiles, chosen = [cells.percentile(cell) for cell in found], evenly(found)
        row: dict[str, Any] = {"task": self.task, "strategy": name, "percentile": statistics.median(percentiles)}
        row["by seed"] = ", ".join(f"{percentile:.0f}" for percentile in percentiles)
        row["in test"] = statistics.median(cells.percentile(cell, cells.test) for cell in found)
        matched = {}
        for cost in ("updates", "CPU seconds"):
            row[cost] = statistics.fmean(result[cost] for result in results)
            # as many trainings of a random cell as cost the same
            matched[cost] = cells.random_search(max(1.0, row[cost] / cells.expected(cost, cells.any)))
            row[f"random, same {cost}"] = cells.median_percentile(matched[cost])
        row |= self._losses(chosen, cells)
        row |= self._difference(name, chosen, matched["CPU seconds"], cells)
        row |= {"found": [names[cell] for cell in found], "losses": finite_losses(cells, found)}
        return row

    def _choice(self, name: str, chosen: Chosen, cells: Cells) -> Values:
        row = {
            "task": self.task,
            "baseline": name,
            "percentile": cells.median_percentile(chosen),
            **self._losses(chosen, cells),
        }
        return {**row, **{key: cells.expected(key, chosen) for key in ("parameters", "flops")}}

    def _losses(self, chosen: Chosen, cells: Cells) -> Values:
        """Return the expected validation and test loss, and the standard deviation of the latter between seeds."""
        spread = {cell: statistics.stdev(map(statistics.fmean, cells.tests(cell))) for cell in chosen}
        valid = sum(p * cells.valid(cell) for cell, p in chosen.items())
        return {
            "valid": valid if math.isfinite(valid) else None,
            "test": sum(p * cells.test(cell) for cell, p in chosen.items()),
            "std between seeds": sum(p * spread[cell] for cell, p in chosen.items()),
        }

    def _difference(self, name: str, chosen: Chosen, random: Chosen, cells: Cells) -> Values:
        """Return by how much the test loss of a choice is above that of random search, with an interval over windows."""
        differences = cells.windows(chosen) - cells.windows(random)
        low, high = bootstrap(differences, self._block, Seed((0, "bootstrap", self.task, name)))
        return {"test, less random": float(differences.mean()), "low": low, "high": high}

    @property
    def _block(self) -> int:
        return int(self._shared.task.lengths()[0])  # type: ignore[attr-defined]

    def _baselines(self, cells: Cells, uniform: Sequence[Picks], names: Mapping[Picks, str]) -> Mapping[str, Chosen]:
        """Return what can be chosen without a search and without a score."""
        return {"a random cell": cells.any, **{names[cell]: {cell: 1.0} for cell in uniform}}

    def _scores(self, cells: Cells) -> Iterator[Values]:
        """Yield the choice of each score of untrained cells, and of the largest size, and how well they rank the cells."""
        trials = []
        for seed, (score, (options, narrow)) in itertools.product(range(self.options.trials), ZERO_COST.items()):
            shared = self._strategy_values({}, 1)
            different = {
                "evaluator": {"name": "zero_cost", "score": score, **options},
                "backbone": {**shared["backbone"], **narrow},
            }
            values = {**shared, "architect": {"name": "random_search"}, **different}
            trial = {"series": self.task, "model": score, "seed": seed, "values": values}
            trials.append({**trial, "cells": [*map(list, cells.random)]})
        results = self._kept(score_trial, trials, "scores")
        for score in ZERO_COST:
            yield self._score(score, [r for t, r in zip(trials, results, strict=True) if t["model"] == score], cells)
        for size in ("parameters", "flops"):
            losses = [-cells.trainings[cell][0][size] for cell in cells.random]
            yield self._score(size, [{"losses": losses, "refused": [None] * len(losses), "CPU seconds": 0.0}], cells)

    def _score(self, name: str, results: Sequence[Values], cells: Cells) -> Values:
        """Return the choice of a score, over its seeds. Of cells with equal scores one is chosen at random."""
        choices, correlations, reasons = [], [], Counter[str]()
        for result in results:
            reasons.update(reason for reason in result["refused"] if reason)
            losses = {cell: loss for cell, loss in zip(cells.random, result["losses"], strict=True) if loss is not None}
            if losses:
                choices.append(evenly([cell for cell, loss in losses.items() if loss == min(losses.values())]))
                correlations.append(rank_correlation([*losses.values()], [cells.valid(cell) for cell in losses]))
        scored = 1 - reasons.total() / (len(results) * len(cells.random))
        row: dict[str, Any] = {"task": self.task, "score": name, "scored": scored, "rank correlation": mean_of(correlations)}
        if choices:
            chosen = {cell: statistics.fmean(choice.get(cell, 0.0) for choice in choices) for cell in cells.random}
            chosen = {cell: p for cell, p in chosen.items() if p}
            row["by seed"] = ", ".join(f"{cells.median_percentile(choice):.0f}" for choice in choices)
            row |= {"percentile": cells.median_percentile(chosen), **self._losses(chosen, cells)}
        return {
            **row,
            "CPU seconds": statistics.fmean(r["CPU seconds"] for r in results),
            "not scored": "; ".join(reasons) or None,
        }

    def _headline(self, cell: Picks, cells: Cells, names: Mapping[Picks, str], data: Data) -> Iterator[Values]:
        """Yield the task's references, and the recommended strategy's cell beside recurrent networks of as many parameters.

        Of the cells that the strategy found with its seeds, it is the one of least validation loss after training from scratch. Each pair
        of trainings has the same seed and so the same batches.
        """
        seeds, parameters = range(self.options.paired), cells.trainings[cell][0]["parameters"]
        references = data.references(parameters)
        trained = [name for name in references if name in LAYERS]
        trials = [self._training(n, 0, {"parameters": parameters}) for n in references if n not in trained]
        results = self._kept(train_trial, trials, "trainings")
        for trial, result in zip(trials, results, strict=True):
            test = statistics.fmean(result["test"])
            yield {"task": self.task, "reference": trial["model"], "valid": result["valid"], "test": test}
        pairs = [*itertools.product((None, *trained), seeds)]
        planned = [self._cell(cell, s) if n is None else self._training(n, s, {"parameters": parameters}) for n, s in pairs]
        results = self._kept(train_trial, planned, "trainings")
        grouped = {model: [r for (m, _), r in zip(pairs, results, strict=True) if m == model] for model in (None, *trained)}
        windows = {model: np.array([one["test"] for one in group]) for model, group in grouped.items()}
        for model, group in grouped.items():
            differences = windows[None] - windows[model]
            row = {"task": self.task, "model": model or f"{RECOMMENDED}: {names[cell]}", "seeds": len(seeds)}
            row |= {"parameters": group[0]["parameters"]}
            valids = [one["valid"] for one in group]
            row |= {"valid": None if None in valids else statistics.fmean(valids)}
            row |= {
                "test": float(windows[model].mean()),
                "std between seeds": statistics.stdev(windows[model].mean(1).tolist()),
            }
            if model is not None:
                low, high = bootstrap(differences.mean(0), self._block, Seed((0, "bootstrap", self.task, model)))
                by_seed = differences.mean(1).tolist()
                row |= {"test, found less this": statistics.fmean(by_seed), "error over seeds": standard_error(by_seed)}
                row |= {"low": low, "high": high}
            yield row

    def _short(self, cells: Cells, per_epoch: int) -> Iterator[Values]:
        """Yield how well random cells are ranked by trainings of 1, 2, 4, ... epochs, and by whole ones.

        The correlation is that of the least loss of a training so far with the mean loss of the cell's whole trainings with the other
        seeds. It is a mean over the seeds.
        """
        seeds = range(self.options.trials)
        longest = max(len(one["curve"]) for cell in cells.random for one in cells.trainings[cell])
        for epochs in [*itertools.takewhile(lambda e: e < longest, (2**k for k in itertools.count())), longest]:
            found = []
            for seed in seeds:
                early = [cells.early(cell, seed, epochs) for cell in cells.random]
                truth = [statistics.fmean(v for s, v in enumerate(cells.valids(c)) if s != seed) for c in cells.random]
                found.append(rank_correlation(early, truth))
            yield {"task": self.task, "trained for": epochs * per_epoch, "rank correlation": mean_of(found)}

    def _sites(self, name: str, supernets: Sequence[Values | None], cells: Cells) -> Iterator[Values]:
        """Yield, for each site of a supernet, how its candidates are ranked, correlated with their ranks from scratch.

        The rank of a candidate from scratch is the mean rank of the random cells that have it. Correlations are means over the seeds; 1 is
        the right order, 0 is no better than chance.
        """
        measured = [supernet for supernet in supernets if supernet is not None]
        if not measured:
            return
        order = ranks([cells.valid(cell) for cell in cells.random])
        for place, site in enumerate(measured[0]["sites"]):
            options = [*range(len(measured[0]["mixing"][place]))]
            having = [[i for i, cell in enumerate(cells.random) if cell[place] == option] for option in options]
            # a candidate that no random cell has is left out
            options = [option for option in options if having[option]]
            truth = [-statistics.fmean(order[i] for i in having[option]) for option in options]
            row: dict[str, Any] = {"task": self.task, "supernet": name, "site": site}
            for key in ("mixing", "removal"):
                row[key] = mean_of(rank_correlation([s[key][place][option] for option in options], truth) for s in measured)
            row["inherited"] = mean_of(
                rank_correlation([-statistics.fmean(s["inherited"][i] for i in having[o]) for o in options], truth)
                for s in measured
            )
            row["inherited, whole cells"] = mean_of(
                rank_correlation(s["inherited"], [cells.valid(cell) for cell in cells.random]) for s in measured
            )
            yield row

    def _gap(self, name: str, results: Sequence[Values], found: Sequence[Picks], cells: Cells) -> Values:
        """Return the validation losses around the pruning, and of the same cells from scratch: means over the seeds."""
        scratch = statistics.fmean(map(cells.valid, found))
        row: dict[str, Any] = {"task": self.task, "pruned": name}
        row |= {key: mean_of(result[key] for result in results) for key in ("before", "after", "tuned")}
        return {**row, "from scratch": scratch if math.isfinite(scratch) else None}


def drawn(space: Space, cells: int) -> list[Picks]:
    """Return all cells of a space if there are at most `cells`, and else that number of different ones, drawn at random."""
    if space.size <= cells:
        return [*itertools.product(*(range(choice.options) for choice in space.decisions))]
    found: dict[Picks, None] = {}
    for draw in itertools.count():
        found[space.random(Seed((0, "random cell", draw)))] = None
        if len(found) == cells:
            break
    return [*found]


def named(architecture: Structure) -> str:
    """Return the operations of a cell, from the first node to the last."""
    return " > ".join(short_name(site.candidates[0].operation) for _, site in architecture.sites())


def finite_losses(cells: Cells, some: Sequence[Picks]) -> list[float]:
    """Return the mean validation losses of those cells that did not diverge."""
    return [loss for loss in map(cells.valid, some) if math.isfinite(loss)]


def spreads(cells: Cells, some: Sequence[Picks]) -> tuple[float, float]:
    """Return the standard deviation of the means of some cells, and the pooled one of a cell between its seeds.

    Cells that diverged are left out.

    Raises:
        NonFiniteError: if fewer than two cells are left.
    """
    finite = [cells.valids(cell) for cell in some if math.isfinite(cells.valid(cell))]
    if len(finite) < 2:
        raise NonFiniteError(
            f"of {len(some)} cells, {len(finite)} could be trained without diverging; two are needed to compare cells"
        )
    between = statistics.stdev(map(statistics.fmean, finite))
    return between, math.sqrt(statistics.fmean(map(statistics.variance, finite)))


def ratio(between: float, within: float) -> float | None:
    """Return the ratio of the standard deviations; None if seeds do not differ."""
    return between / within if within else None


def verdict(all: float | None, better: float | None) -> str:
    """Return what a task can show with these ratios, of all cells and of the better half of them; None is as good as any ratio."""
    # A single bad cell that depends on its seed can make the first ratio small, although the good cells are ranked well.
    if better is None or better >= RELIABLE:
        return "this task ranks cells"
    if all is None or all >= RELIABLE:
        return "this task separates bad cells from good ones, and does not rank the good ones"
    return "this task cannot show anything"


def mean_of(values: Any) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    given = [value for value in values if value is not None]
    return statistics.fmean(given) if given else None
