"""Section 4.1 of Jie & Gao 2021: forecasting the returns of stock indices, and the weather, by cells that were searched."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe import Architect, Bilevel, Data, Reproduction, Search, Seed, Strategy, Structure, build, installed, number
from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.part import to_plain
from nasframe.search.evaluate import tested, train
from nasframe_papers.trials import Trial, kept, present, standard_error

#: the files of prices by series; the weather is shipped
PRICES = {"G7": "g7_2007_2017.csv.gz", "BRICS": "brics_2007_2017.csv.gz"}
WEATHER = "weather"
STRATEGIES = ("DARTS-1", "DARTS-2", "new-1", "new-2")
#: changes to the architect of two of them that are measured, too, on one series
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "second order": {"name": "second_order"},
    "exact second order": {"name": "exact_second_order"},
    "alphas x 100 after a growth": {"after_growth": 100.0},
}
VARIED = {"G7": ("DARTS-2", "new-2")}
EXACT = "exact second order"
LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU}
#: units of a second LSTM and GRU, where the first have n_x
WIDE = 16

Row = Mapping[str, Any]


@attrs.frozen
class Forecasting(Reproduction):
    """Searches by four strategies, from several seeds; their cells with inherited weights and trained anew, beside references.

    Args:
        trials: seeds of each search and of each reference; the paper has 20.
        epochs: for which every network is trained anew; it is tested as it was when its validation loss was least.
        data: the folder of the indices' prices; by default what the environment variable NASFRAME_DATA says. The weather
            is shipped; a series whose file is not there is left out, and that is said.
        jobs: trials side by side; the figures do not depend on it.
    """

    name: ClassVar[str] = "forecasting"
    about: ClassVar[str] = "Jie & Gao 2021, 4.1 and Figure 3: four strategies on G7, BRICS and the weather, beside LSTM and GRU"
    trials: int = number(5, low=2, whole=True)
    epochs: int = number(150, low=1, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Row]:
        """For each series its models with their test MSE as `ours`, then what the paper claims of them."""
        tasks = self._tasks(say)
        planned = [trial for series, task in tasks.items() for trial in self._planned(series, task)]
        results = [*kept(tried, planned, self.jobs, folder / "trials", say)]
        for series, task in tasks.items():
            groups = itertools.groupby(
                ((t, r) for t, r in zip(planned, results, strict=True) if t["series"] == series), lambda tr: tr[0]["model"]
            )
            table = {model: _row(series, model, [r for _, r in group]) for model, group in groups}
            yield from _still(series, task)
            yield from table.values()
            yield from _claims(series, table)

    def draw(self, rows: Sequence[Row], folder: Path) -> Sequence[Path]:
        """The validation curves of each series (Figure 3), and of each strategy the cell of least validation loss."""
        from nasframe.pictures import draw_cell, draw_curves

        paths = []
        for series in dict.fromkeys(row["series"] for row in rows):
            own = {r["model"]: r for r in rows if r["series"] == series and "curve" in r}
            paths.append(folder / f"{series}.png")
            curves = {model: (own[model]["curve"]["mean"], own[model]["curve"]["error"]) for model in (*LAYERS, *STRATEGIES)}
            draw_curves(curves, paths[-1], x="epochs of training anew", y=f"validation MSE, {series}")
            for model in STRATEGIES:
                paths.append(folder / f"{series}-{model}.png")
                draw_cell(Structure.from_dict(own[model]["cell"], installed().make), None, paths[-1])
        return paths

    def _tasks(self, say: Callable[[str], None]) -> Mapping[str, Mapping[str, Any]]:
        tasks = {}
        for series, path in present(PRICES, self.data, say).items():
            task = installed().make("task", {"name": "forecasting", "csv": str(path), "returns": True})
            tasks[series] = to_plain(task.pinned())
        return {**tasks, WEATHER: {"name": "forecasting"}}

    def _planned(self, series: str, task: Mapping[str, Any]) -> Iterator[Trial]:
        models: dict[str, Mapping[str, Any]] = {name: {"values": _values(name, task)} for name in STRATEGIES}
        for base, (variant, architect) in itertools.product(VARIED.get(series, ()), VARIANTS.items()):
            models[f"{base}, {variant}"] = {"values": _values(base, task, architect), "compared": variant == EXACT}
        columns = _loaded(task).sizes["inputs"]
        for (layer, _), units in itertools.product(LAYERS.items(), (columns, WIDE)):
            label = layer if units == columns else f"{layer}, {units} units"
            models[label] = {"values": _values(STRATEGIES[0], task), "layer": layer, "units": units}
        for model, what in models.items():
            for seed in range(self.trials):
                yield {"series": series, "model": model, "seed": seed, "epochs": self.epochs, **what}


def _values(strategy: str, task: Mapping[str, Any], architect: Mapping[str, Any] | None = None) -> dict[str, Any]:
    values = Strategy.named(strategy).to_dict()
    return {**values, "task": dict(task), "architect": {**values["architect"], **(architect or {})}}


def _loaded(task: Mapping[str, Any]) -> Data:
    data: Data = installed().make("task", task).load(torch.device("cpu"), torch.float32)
    return data


def tried(trial: Trial) -> Trial:
    """A search and its cell trained anew, or a reference trained, as plain values."""
    strategy = attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"])
    return _layer(trial, strategy) if "layer" in trial else _searched(trial, strategy)


def _layer(trial: Trial, strategy: Strategy) -> Trial:
    data, seed = _loaded(trial["values"]["task"]), Seed((trial["seed"], trial["model"]))
    with seed("build").as_global():
        network = Steps(LAYERS[trial["layer"]], data.sizes["inputs"], trial["units"])
    return {"parameters": _count(network), **_anew(network, data, strategy, trial["epochs"], seed)}


class Steps(nn.Module):
    """A layer of torch and a linear head at every step."""

    def __init__(self, layer: type[nn.LSTM | nn.GRU], columns: int, units: int) -> None:
        super().__init__()
        self.layer, self.head = layer(columns, units), nn.Linear(units, columns)

    def forward(self, inputs: Tensor) -> Tensor:
        """From (time, batch, columns) to the same."""
        return self.head(self.layer(inputs)[0])


def _searched(trial: Trial, strategy: Strategy) -> Trial:
    errors: list[tuple[float, float]] = []
    if trial.get("compared"):
        strategy = attrs.evolve(strategy, architect=Compared.of(trial["values"]["architect"], errors))
    search = Search(strategy)
    network, seed = search.run(), Seed((trial["seed"], "anew"))
    sites = [(site, site.candidates[0].operation) for _, site in network.structure.sites()]
    grown = [operation for site, operation in sites if int(site.node.removeprefix("n")) >= strategy.nodes]
    return {
        "parameters": _count(network),
        "nodes": len({site.node for site, _ in sites}),
        "grown": len(grown),
        "left": sum(operation.residual is None for operation in grown),
        "updates": search.state.updates,
        "inherited": tested(network, search.data)["mse"],
        "errors": errors,
        "cell": network.structure.to_dict(),
        **_anew(build(network.structure, seed("build"), like=network), search.data, strategy, trial["epochs"], seed),
    }


def _anew(network: nn.Module, data: Data, strategy: Strategy, epochs: int, seed: Seed) -> Trial:
    updates = epochs * math.ceil(data.train.size / strategy.batch)
    outcome = train(network, strategy, data, updates=updates, patience=epochs, seed=seed)
    return {"valid": outcome.valid, "test": outcome.scores["mse"], "curve": list(outcome.curve)}


@attrs.frozen(eq=False)
class Compared(Architect):
    """Exact second order, and beside it how far off the finite difference is, every tenth time.

    Args:
        errors: takes pairs of norms: finite difference - exact, and exact - first order.
        every: counts the times.
    """

    name: ClassVar[str] = "compared"
    exact: Architect
    difference: Architect
    first: Architect
    errors: list[tuple[float, float]]
    every: Iterator[int] = attrs.field(factory=lambda: itertools.cycle(range(10)))

    @classmethod
    def of(cls, values: Mapping[str, Any], errors: list[tuple[float, float]]) -> Compared:
        """Three architects of these values but their names."""
        names = ("exact_second_order", "second_order", "first_order")
        exact, difference, first = (installed().make("architect", {**values, "name": name}) for name in names)
        return cls(exact, difference, first, errors)

    def mixing(self, alphas: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The exact one's."""
        return self.exact.mixing(alphas)

    def invert(self, mixing: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The exact one's."""
        return self.exact.invert(mixing)

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """The exact one's."""
        return self.exact.build_optimiser(alphas)

    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        """The exact one's."""
        exact = self.exact.gradient(problem)
        if next(self.every) == 0:
            off, correction = (
                _norm({k: a[k] - b[k] for k in a})
                for a, b in ((self.difference.gradient(problem), exact), (exact, self.first.gradient(problem)))
            )
            self.errors.append((off, correction))
        return exact


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((t.double() ** 2).sum()) for t in tensors.values()))


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _still(series: str, task: Mapping[str, Any]) -> Iterator[Row]:
    """What is not trained."""
    data = _loaded(task)
    for name, make in data.references(1).items():
        network = make()
        if not any(p.requires_grad for p in network.parameters()):
            yield {"series": series, "model": name, "ours": tested(network, data)["mse"], "paper": None}


def _row(series: str, model: str, results: Sequence[Trial]) -> Row:
    row: dict[str, Any] = {"series": series, "model": model, "ours": _mean(results, "test"), "paper": None}
    row |= {"error": _error(results, "test"), "valid": _mean(results, "valid"), "valid error": _error(results, "valid")}
    row |= {"parameters": _mean(results, "parameters")}
    if "inherited" in results[0]:
        row |= {"inherited": _mean(results, "inherited"), "inherited error": _error(results, "inherited")}
        row |= {"nodes": _mean(results, "nodes"), "updates": _mean(results, "updates")}
        row |= {"left the identity": f"{sum(r['left'] for r in results)} of {sum(r['grown'] for r in results)}"}
        pairs = [pair for r in results for pair in r["errors"] if pair[1] > 0]
        ratio = statistics.median(off / size for off, size in pairs) if pairs else None
        row |= {"finite difference off by": ratio, "cell": min(results, key=lambda r: r["valid"])["cell"]}
    curves = [*zip(*(r["curve"] for r in results), strict=True)]
    row["curve"] = {"mean": [statistics.fmean(at) for at in curves], "error": [standard_error(at) for at in curves]}
    return row


def _mean(results: Sequence[Trial], key: str) -> float:
    return statistics.fmean(r[key] for r in results)


def _error(results: Sequence[Trial], key: str) -> float:
    return standard_error([r[key] for r in results])


def _claims(series: str, table: Mapping[str, Row]) -> Iterator[Row]:
    """What 4.1 says of the validation curves. A difference is significant if it is twice its standard error."""
    if series == WEATHER:
        return
    claims: list[tuple[str, bool]] = []
    for mode in ("1", "2"):
        share = _below(table[f"new-{mode}"], table[f"DARTS-{mode}"])
        claims.append(
            (f"new-{mode} is significantly below DARTS-{mode} in almost all of the curve (ours: {share:.0%})", share > 0.9)
        )
        z = _z(table["LSTM"], table[f"DARTS-{mode}"])
        claims.append((f"LSTM is below DARTS-{mode} at its best (ours: {z:+.1f} standard errors)", z < 0))
    z = _z(table["new-2"], table["LSTM"])
    if series == "G7":
        claims.append((f"new-2 is significantly below LSTM (ours: {z:+.1f} standard errors)", z < -2))
    else:
        claims.append((f"new-2 and LSTM do not differ significantly (ours: {z:+.1f} standard errors)", abs(z) <= 2))
    for claim, holds in claims:
        yield {"series": series, "claim": claim, "ours": "borne out" if holds else "not borne out", "paper": "claimed"}


def _z(one: Row, other: Row) -> float:
    """By how many standard errors the least validation loss of one is above the other's."""
    return (one["valid"] - other["valid"]) / (math.hypot(one["valid error"], other["valid error"]) or math.inf)


def _below(one: Row, other: Row) -> float:
    """In what share of the epochs the curve of one is significantly below the other's."""
    points = zip(*(row["curve"][k] for row in (one, other) for k in ("mean", "error")), strict=True)
    flags = [b - a > 2 * math.hypot(c, d) for a, c, b, d in points]
    return sum(flags) / len(flags)
