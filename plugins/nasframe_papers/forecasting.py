"""The reproduction of Jie & Gao (2021), 4.1: recurrent cells for the returns of stock indices, and for the weather."""

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

from nasframe import AlphaLoss, Architect, Bilevel, Data, Relaxation, Search, Seed, Strategy, Structure, build, installed
from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.part import to_plain
from nasframe.interfaces.reproduction import Reproduction
from nasframe.options import number
from nasframe.search.evaluate import tested
from nasframe_papers.trials import Values, from_scratch, kept, present, standard_error

#: the files with prices, by series; the weather is distributed with nasframe
PRICES = {"G7": "g7_2007_2017.csv.gz", "BRICS": "brics_2007_2017.csv.gz"}
WEATHER = "weather"
#: the recipes by the names of the paper
SEARCHES = {
    "DARTS-1": "darts-grow-stage",
    "DARTS-2": "darts-grow-end",
    "new-1": "two-to-one-grow-stage",
    "new-2": "two-to-one-grow-end",
}
#: other options of the architect, with which two of the searches are repeated on one series
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "second order": {"name": "second_order"},
    "exact second order": {"name": "exact_second_order"},
    "alphas x 100 after a growth": {"after_growth": 100.0},
}
VARIED = {"G7": ("DARTS-2", "new-2")}
EXACT = "exact second order"
LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU}
#: the number of units of the second LSTM and GRU; the first ones have n_x
WIDE = 16


@attrs.frozen
class Forecasting(Reproduction):
    """Test MSE of cells that four searches found, beside LSTM and GRU, on the series of Jie & Gao (2021), 4.1.

    Each search runs with several seeds. Its cell is tested with the weights of the search ("inherited") and after training
    from scratch.

    Args:
        trials: the number of seeds of each search and of each reference; the paper has 20.
        epochs: the number of epochs of each training from scratch. The network is tested as it was when its validation loss
            was least.
        data: the folder with the prices of the indices; by default that of the environment variable NASFRAME_DATA. A series
            without a file is left out with a message.
        jobs: the number of processes. The results do not depend on it.
    """

    name: ClassVar[str] = "forecasting"
    about: ClassVar[str] = "Jie & Gao 2021, 4.1 and Figure 3: four searches on G7, BRICS and the weather, beside LSTM and GRU"
    trials: int = number(5, low=2, whole=True)
    epochs: int = number(150, low=1, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Values]:
        """Yield the models of each series with their test MSE as `ours`, then the claims of the paper about the series."""
        tasks: dict[str, Values] = {}
        for series, path in present(PRICES, self.data, say).items():
            task = installed().make("task", {"name": "forecasting", "csv": str(path), "returns": True})
            # with the digest of the file, so that results that were kept belong to these data
            tasks[series] = to_plain(task.pinned())
        tasks[WEATHER] = {"name": "forecasting"}
        # All trials of all series are planned at once, so that processes do not wait for the last trial of one series.
        planned = [trial for series, task in tasks.items() for trial in self._planned(series, task)]
        results = [*kept(run_trial, planned, self.jobs, folder / "trials", say)]
        for series, task in tasks.items():
            found: dict[str, list[Values]] = {}
            for trial, result in zip(planned, results, strict=True):
                if trial["series"] == series:
                    found.setdefault(trial["model"], []).append(result)
            table = {model: _row(series, model, group) for model, group in found.items()}
            yield from _baselines(series, task)
            yield from table.values()
            yield from _claims(series, table)

    def draw(self, rows: Sequence[Values], folder: Path) -> Sequence[Path]:
        """Draw the validation curves of each series (Figure 3), and the best cell of each search by validation loss."""
        from nasframe.pictures import draw_cell, draw_curves

        paths = []
        for series in dict.fromkeys(row["series"] for row in rows):
            models = {r["model"]: r for r in rows if r["series"] == series and "curve" in r}
            paths.append(folder / f"{series}.png")
            curves = {m: (models[m]["curve"]["mean"], models[m]["curve"]["error"]) for m in (*LAYERS, *SEARCHES)}
            draw_curves(curves, paths[-1], x="epochs of training from scratch", y=f"validation MSE, {series}")
            for model in SEARCHES:
                paths.append(folder / f"{series}-{model}.png")
                draw_cell(Structure.from_dict(models[model]["cell"], installed().make), None, paths[-1])
        return paths

    def _planned(self, series: str, task: Values) -> Iterator[Values]:
        """Yield the trials of a series."""
        models: dict[str, Values] = {name: {"values": _values(name, task)} for name in SEARCHES}
        for base, (variant, architect) in itertools.product(VARIED.get(series, ()), VARIANTS.items()):
            models[f"{base}, {variant}"] = {"values": _values(base, task, architect), "compared": variant == EXACT}
        columns = _loaded(task).sizes["inputs"]
        for layer, units in itertools.product(LAYERS, (columns, WIDE)):
            label = layer if units == columns else f"{layer}, {units} units"
            # the values of any search, for its task, batch and optimiser, which are the same in all four
            models[label] = {"values": _values("DARTS-1", task), "layer": layer, "units": units}
        for model, what in models.items():
            for seed in range(self.trials):
                yield {"series": series, "model": model, "seed": seed, "epochs": self.epochs, **what}


def _values(search: str, task: Values, architect: Values | None = None) -> dict[str, Any]:
    """Return the plain values of a search's strategy, with another task and other options of its architect."""
    values = Strategy.named(SEARCHES[search]).to_dict()
    return {**values, "task": dict(task), "architect": {**values["architect"], **(architect or {})}}


def _loaded(task: Values) -> Data:
    data: Data = installed().make("task", task).load(torch.device("cpu"), torch.float32)
    return data


def run_trial(trial: Values) -> Values:
    """Search and train the found cell from scratch, or train a reference; return the result as plain values."""
    strategy = attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"])
    return _run_layer(trial, strategy) if "layer" in trial else _run_search(trial, strategy)


def _run_layer(trial: Values, strategy: Strategy) -> Values:
    data, seed = _loaded(trial["values"]["task"]), Seed((trial["seed"], trial["model"]))
    with seed("build").as_global():
        network = Layer(LAYERS[trial["layer"]], data.sizes["inputs"], trial["units"])
    return {"parameters": _count(network), **_trained(network, data, strategy, trial["epochs"], seed)}


class Layer(nn.Module):
    """A recurrent layer of torch with a linear head at each step."""

    def __init__(self, layer: type[nn.LSTM | nn.GRU], columns: int, units: int) -> None:
        super().__init__()
        self.layer, self.head = layer(columns, units), nn.Linear(units, columns)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return forecasts of shape (time, batch, columns) from inputs of this shape."""
        return self.head(self.layer(inputs)[0])


def _run_search(trial: Values, strategy: Strategy) -> Values:
    errors: list[tuple[float, float]] = []
    if trial.get("compared"):
        strategy = attrs.evolve(strategy, architect=Compared.of(trial["values"]["architect"], errors))
    search = Search(strategy)
    network, seed = search.run(), Seed((trial["seed"], "from scratch"))
    operations = [(site.node, site.candidates[0].operation) for _, site in network.structure.sites()]
    # nodes are numbered in the order in which they were added
    grown = [operation for node, operation in operations if int(node.removeprefix("n")) >= strategy.nodes]
    # The cell is tested twice: with the weights of the search ("inherited" above), and trained from scratch.
    fresh = build(network.structure, seed("build"), like=network)
    return {
        "parameters": _count(network),
        "nodes": len({node for node, _ in operations}),
        "grown": len(grown),
        "left": sum(operation.residual is None for operation in grown),
        "updates": search.state.updates,
        "inherited": tested(network, search.data)["mse"],
        "errors": errors,
        "cell": network.structure.to_dict(),
        **_trained(fresh, search.data, strategy, trial["epochs"], seed),
    }


def _trained(network: nn.Module, data: Data, strategy: Strategy, epochs: int, seed: Seed) -> Values:
    outcome = from_scratch(network, strategy, data, epochs, seed)
    return {"valid": outcome.valid, "test": outcome.scores["mse"], "curve": list(outcome.curve)}


@attrs.frozen(eq=False)
class Compared(Architect):
    """The exact second-order architect, which measures the error of the finite difference at every tenth step.

    Args:
        exact: the architect that the search follows.
        difference: the second-order architect with a finite difference.
        first: the first-order architect.
        errors: receives pairs of norms: |finite difference - exact| and |exact - first order|.
        count: counts the steps.
        relaxation, terms: those of the exact architect.
    """

    name: ClassVar[str] = "compared"
    exact: Architect
    difference: Architect
    first: Architect
    errors: list[tuple[float, float]]
    count: Iterator[int] = attrs.field(factory=itertools.count)
    relaxation: Relaxation = attrs.field(default=attrs.Factory(lambda self: self.exact.relaxation, takes_self=True))
    terms: tuple[AlphaLoss, ...] = attrs.field(default=attrs.Factory(lambda self: self.exact.terms, takes_self=True))

    @classmethod
    def of(cls, values: Values, errors: list[tuple[float, float]]) -> Compared:
        """Return three architects with the same options."""
        names = ("exact_second_order", "second_order", "first_order")
        exact, difference, first = (installed().make("architect", {**values, "name": name}) for name in names)
        return cls(exact, difference, first, errors)

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return the optimiser of the exact architect."""
        return self.exact.build_optimiser(alphas)

    def configure(self, optimiser: Optimizer, stage: int) -> None:
        """Set the options that the exact architect sets."""
        self.exact.configure(optimiser, stage)

    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        """Return the exact gradient; compare the others with it at every tenth step."""
        exact = self.exact.gradient(problem)
        # The exact product costs two to three times a first-order gradient; at a tenth of the steps the comparison costs
        # little.
        if next(self.count) % 10 == 0:
            difference, first = self.difference.gradient(problem), self.first.gradient(problem)
            self.errors.append((_distance(difference, exact), _distance(exact, first)))
        return exact


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(((one[name] - other[name]).double() ** 2).sum()) for name in one))


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _baselines(series: str, task: Values) -> Iterator[Values]:
    """Yield the rows of the task's references without trainable parameters, such as the last value."""
    data = _loaded(task)
    for name, make in data.references(1).items():
        network = make()
        if not any(p.requires_grad for p in network.parameters()):
            yield {"series": series, "model": name, "ours": tested(network, data)["mse"], "paper": None}


def _row(series: str, model: str, results: Sequence[Values]) -> Values:
    """Return the means of a model over its trials, with their standard errors."""
    row: dict[str, Any] = {"series": series, "model": model, "ours": _mean(results, "test"), "paper": None}
    row |= {"error": _error(results, "test"), "valid": _mean(results, "valid"), "valid error": _error(results, "valid")}
    row |= {"parameters": _mean(results, "parameters")}
    if "inherited" in results[0]:
        row |= {"inherited": _mean(results, "inherited"), "inherited error": _error(results, "inherited")}
        row |= {"nodes": _mean(results, "nodes"), "updates": _mean(results, "updates")}
        row |= {"left the identity": f"{sum(r['left'] for r in results)} of {sum(r['grown'] for r in results)}"}
        # where both orders agree there is nothing to compare the error with
        pairs = [pair for r in results for pair in r["errors"] if pair[1] > 0]
        ratio = statistics.median(error / size for error, size in pairs) if pairs else None
        row |= {"error of the finite difference": ratio, "cell": min(results, key=lambda r: r["valid"])["cell"]}
    # every training has the same number of epochs (`from_scratch`)
    curves = [*zip(*(r["curve"] for r in results), strict=True)]
    row["curve"] = {"mean": [statistics.fmean(at) for at in curves], "error": [standard_error(at) for at in curves]}
    return row


def _mean(results: Sequence[Values], key: str) -> float:
    return statistics.fmean(r[key] for r in results)


def _error(results: Sequence[Values], key: str) -> float:
    return standard_error([r[key] for r in results])


def _claims(series: str, table: Mapping[str, Values]) -> Iterator[Values]:
    """Yield what 4.1 claims about the validation curves. A difference is significant if it is twice its standard error."""
    if series == WEATHER:  # the paper has no weather
        return
    claims: list[tuple[str, bool]] = []
    for mode in ("1", "2"):
        # each new search beside the DARTS search that prunes at the same time
        share = _share_below(table[f"new-{mode}"], table[f"DARTS-{mode}"])
        claims.append(
            (f"new-{mode} is significantly below DARTS-{mode} in almost all of the curve (ours: {share:.0%})", share > 0.9)
        )
        z = _standard_errors(table["LSTM"], table[f"DARTS-{mode}"])
        claims.append((f"LSTM is below DARTS-{mode} at its best (ours: {z:+.1f} standard errors)", z < 0))
    z = _standard_errors(table["new-2"], table["LSTM"])
    if series == "G7":
        claims.append((f"new-2 is significantly below LSTM (ours: {z:+.1f} standard errors)", z < -2))
    else:
        claims.append((f"new-2 and LSTM do not differ significantly (ours: {z:+.1f} standard errors)", abs(z) <= 2))
    for claim, holds in claims:
        yield {"series": series, "claim": claim, "ours": "confirmed" if holds else "not confirmed", "paper": "claimed"}


def _standard_errors(one: Values, other: Values) -> float:
    """Return by how many standard errors the least validation loss of one model is above that of another."""
    return (one["valid"] - other["valid"]) / (math.hypot(one["valid error"], other["valid error"]) or math.inf)


def _share_below(one: Values, other: Values) -> float:
    """Return the share of the epochs in which the curve of one model is significantly below that of another."""
    points = zip(*(row["curve"][k] for row in (one, other) for k in ("mean", "error")), strict=True)
    # The standard error of a difference of independent means is the root of the sum of their squares.
    flags = [b - a > 2 * math.hypot(c, d) for a, c, b, d in points]
    return sum(flags) / len(flags)
