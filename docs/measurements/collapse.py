"""Run each shipped strategy for forecasting on two tables on which searches collapsed, and check what is handed over.

    python docs/measurements/collapse.py --folder FOLDER --results collapse.jsonl

The folder has sensors.csv (2,000 hours of three sensors with a daily cycle) and hourly_load.csv (an hourly load, with temperature and sun).
The result of each run is added to the file, and a run that is in it already is not repeated. The script prints a table in markdown for
each of the two; collapse.md explains it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from nasframe_papers.quality.strategies import strategies

from nasframe import NasframeError, Search, Strategy
from nasframe.records import Changed, Evaluated
from nasframe.run.summary import operations
from nasframe.search.compare import FOUND, INHERITED, RANDOM

#: the tasks, by the name of the file
TASKS = {"sensors": "date", "hourly_load": "timestamp"}
WINDOW, HIDDEN, NODES = 24, 8, 2
#: strategies that are named recipes of forecasting; they keep their plan and criterion
RECIPES = ("default", "darts-grow-stage", "darts-grow-end", "two-to-one-grow-stage", "two-to-one-grow-end")
#: plans, architects and relaxations beside the strategies of the protocol, with the default rate of the alphas
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "end": {"plan": "end"},
    "stage": {"plan": "stage"},
    "dynamic": {"plan": "dynamic"},
    "end, second order": {"architect": {"name": "second_order"}, "plan": "end"},
    "end, exact second order": {"architect": {"name": "exact_second_order"}, "plan": "end"},
    "end, node softmax": {"architect": {"name": "first_order", "relaxation": "node_softmax"}, "plan": "end"},
    "end, edge normalisation": {"architect": {"name": "first_order", "relaxation": "edge_normalisation"}, "plan": "end"},
}


def runs(folder: Path, updates: int) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the task, the name and the values of each strategy.

    Args:
        folder: has the tables.
        updates: about how many updates a run has in all.
    """
    for name, date in TASKS.items():
        rows = sum(1 for _ in (folder / f"{name}.csv").open())
        # Seven tenths of the rows are for training.
        epochs = max(2, round(updates / 2 / (0.7 * rows / 50)))
        task = {"name": "forecasting", "csv": str(folder / f"{name}.csv"), "date": date, "window": WINDOW, "season": 24}
        shared: Mapping[str, Any] = {
            **Strategy.named("default").to_dict(),
            "task": task,
            "backbone": {"name": "two_to_one", "hidden": HIDDEN},
            "architect": {"name": "first_order"},
            "growth": [],
            "nodes": NODES,
            "optimiser": {"learning_rate": 3e-3, "epochs": epochs},
            "criterion": {"name": "epochs", "epochs": epochs},
            "seeds": 1,
        }
        # a window that fits the few epochs; that of the paper is 5
        early = {"name": "any_of", "parts": [{"name": "curvature", "window": 2}, shared["criterion"]]}
        others = {**OTHERS, "end, curvature": {"criterion": early, "plan": "end"}}
        for title, values in {**strategies(epochs, 8, updates // 4, NODES), **others}.items():
            yield name, title, {**{k: v for k, v in shared.items() if k != "plan"}, **values}
        for title in RECIPES:
            recipe = Strategy.named(title).to_dict()
            limit = {"name": "max_updates", "updates": updates}
            criterion = {"name": "any_of", "parts": [limit, recipe["criterion"]]}
            backbone = {**recipe["backbone"], "hidden": HIDDEN}
            yield name, title, {**recipe, "task": task, "backbone": backbone, "criterion": criterion, "seeds": 1}


@attrs.frozen
class Result:
    """What a run found and handed over.

    Attributes:
        task: the name of the table.
        strategy: the name of the strategy.
        found: the operations that the search found.
        tuned: their validation loss with the weights of the search; None if it diverged.
        scratch: that of the same cell from scratch.
        random: that of the random architecture.
        over: the operations that are handed over.
        valid: their validation loss.
        row: the name of the row that is handed over.
        baselines: the validation losses of the baselines.
        harm: how much the removals multiplied the validation loss by, at most; None without a removal.
        seconds: of the processor.
    """

    task: str
    strategy: str
    found: Sequence[str]
    tuned: float | None
    scratch: float | None
    random: float | None
    over: Sequence[str]
    valid: float
    row: str
    baselines: Mapping[str, float | None]
    harm: float | None
    seconds: float

    @property
    def holds(self) -> bool:
        """Return whether no network of the search space, trained in this run, has a smaller validation loss."""
        return all(loss is None or self.valid <= loss for loss in (self.tuned, self.scratch, self.random))

    @property
    def collapsed(self) -> bool:
        """Return whether every operation that is handed over is `sum`."""
        return {*self.over} == {"sum"}


def result(task: str, name: str, values: Mapping[str, Any]) -> Result:
    """Run a strategy with its comparison and return the result."""
    start = time.process_time()
    search = Search(Strategy.from_dict(values))
    search.run()
    found = [*operations(search.network.structure).values()]
    rows = [record for record in search.compare() if isinstance(record, Evaluated)]
    losses = {row.name: row.valid for row in rows}
    removals = [r for r in search.state.lineage if isinstance(r, Changed) and r.valid_before is not None]
    harm = [float("inf") if r.valid_after is None else r.valid_after / r.valid_before for r in removals if r.valid_before]
    best = [row for row in rows if row.best][-1]
    assert best.valid is not None
    return Result(
        task=task,
        strategy=name,
        found=found,
        tuned=losses.pop(INHERITED),
        scratch=losses.pop(FOUND),
        random=losses.pop(RANDOM),
        over=[*operations(search.network.structure).values()],
        valid=best.valid,
        row=best.name,
        baselines=losses,
        harm=min(max(harm), 1e9) if harm else None,
        seconds=time.process_time() - start,
    )


def table(results: Sequence[Result]) -> str:
    """Return the table of a task."""
    head = ["strategy", "found", "tuned", "from scratch", "random", "handed over", "loss", "best in space", "best baseline"]
    lines = [[*head, "pruning"], ["---"] * 2 + ["---:"] * 3 + ["---", "---:", "---", "---:", "---:"]]
    for r in results:
        known = [(loss, name) for name, loss in r.baselines.items() if loss is not None]
        loss, baseline = min(known)
        rule = ("yes" if r.holds else "**no**") + (", **sum**" if r.collapsed else "")
        numbers = ["diverged" if v is None else f"{v:.3f}" for v in (r.tuned, r.scratch, r.random)]
        harm = "" if r.harm is None else f"{r.harm:.3g} times"
        found, over = (" > ".join(name.partition(" ")[0] for name in names) for names in (r.found, r.over))
        lines.append([r.strategy, found, *numbers, over, f"{r.valid:.3f}", rule, f"{baseline} {loss:.3f}", harm])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run what is missing in the file and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines, which is created if there is none")
    parser.add_argument("--updates", type=int, default=480)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS])
    options = parser.parse_args()
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    for task, name, values in runs(options.folder, options.updates):
        if task not in options.tasks or any((r.task, r.strategy) == (task, name) for r in results):
            continue
        try:
            results.append(result(task, name, values))
        except NasframeError as error:
            print(f"{task}, {name}: {error}", flush=True)
            continue
        with options.results.open("a") as file:
            file.write(json.dumps(attrs.asdict(results[-1]), allow_nan=False) + "\n")
    for task in options.tasks:
        print(f"\n## {task}\n\n{table([r for r in results if r.task == task])}")
    print(f"\n{sum(r.seconds for r in results):.0f} CPU seconds")


if __name__ == "__main__":
    main()
