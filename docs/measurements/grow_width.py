"""Let searches grow in width, and compare them with searches that stay small and with searches that are large from the start.

    NASFRAME_DATA=... python docs/measurements/grow_width.py --results grow_width.jsonl

The searches run on the shipped weather series (n_h = 8, 16, 32) and on images of Fashion-MNIST (C = 4, 8), where its file is present. All
searches of a task take equally many updates. The result of each one is added to the file, and a search that is in it already is not
repeated, so that an interrupted measurement goes on. The script prints tables in markdown; grow_width.md explains them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import DartsConvolutional, Identity, MaxPool, SeparableConvolution, Zero
from nasframe_forecasting import Forecasting
from nasframe_growing import Epochs, MaxParameters, WidthGrowth
from nasframe_images import Images
from nasframe_pruning import Strongest
from nasframe_recurrent import TwoToOne

from nasframe import Backbone, Network, Optimiser, Search, Seed, Strategy, Task
from nasframe.change.apply import apply
from nasframe.modules.verify import Means
from nasframe.records import Changed, EpochEnded
from nasframe.search.plan import Change, Judge, Plan, Repeat, Restore, Train

FORMS = {"zero": WidthGrowth(), "replicate": WidthGrowth(form="replicate", skew=0.2)}


@attrs.frozen
class Setting:
    """A task, the backbones in which it is searched, and the length of a phase.

    Args:
        task: the task.
        small: the backbone that grows.
        field: the field that grows.
        widths: the width after each number of growths.
        epochs: the epochs of each phase.
        batch: the batch size.
        seeds: the number of seeds.
    """

    task: Task
    small: Backbone
    field: str
    widths: Sequence[int]
    epochs: int
    batch: int
    seeds: int

    def strategy(self, arm: str, seed: int) -> Strategy:
        """Return the search of an arm: "small", "large", "zero" or "replicate"."""
        growths = len(self.widths) - 1
        width = self.widths[-1] if arm == "large" else self.widths[0]
        return Strategy(
            task=self.task,
            backbone=attrs.evolve(self.small, **{self.field: width}),  # type: ignore[misc]
            architect=FirstOrder(),
            criterion=Epochs(self.epochs) | MaxParameters(10**7),
            pruner=Strongest(),
            growth=(attrs.evolve(FORMS[arm], limit=self.widths[-1]),) if arm in FORMS else (),
            # as many updates without growth as with all growths
            plan=plan(self.epochs * (1 if arm in FORMS else 1 + growths), self.epochs),
            optimiser=Optimiser(learning_rate=0.003),
            batch=self.batch,
            nodes=2,
            seed=seed,
        )


def plan(search: int, tune: int) -> Plan:
    """Return a plan that searches and grows as long as there is something to grow, and then prunes and tunes."""
    return (
        Repeat(
            steps=(
                Train(phase="search", parameters=("weights", "alphas"), criterion=Epochs(search), competes=False),
                Judge(phase="search"),
            )
        ),
        Change(prune=True, derive=True),
        Train(phase="tune", criterion=Epochs(tune), competes=True),
        Restore(),
    )


def settings() -> Mapping[str, Setting]:
    """Return the settings by name; that of Fashion-MNIST where its file is present."""
    found = {"weather": Setting(Forecasting(), TwoToOne(), "hidden", (8, 16, 32), 15, 64, 3)}
    file = Path(os.environ.get("NASFRAME_DATA", "data")) / "fashion_mnist_12k.npz"
    if file.exists():
        operations = (Zero(), MaxPool(), Identity(), SeparableConvolution(3, expansion=(1,)))
        cells = DartsConvolutional(cells=3, operations=operations)
        found["images"] = Setting(Images(npz=str(file), train=800), cells, "channels", (4, 8), 2, 64, 1)
    return found


def measure(setting: Setting, arm: str, seed: int) -> dict[str, Any]:
    """Run one search; return the validation loss after each epoch, what each growth did, and the loss at the end."""
    search = Search(setting.strategy(arm, seed))
    curve, growths, parent = list[float | None](), list[dict[str, Any]](), copy.deepcopy(search.network)
    for record in search:
        if isinstance(record, EpochEnded):
            parent = copy.deepcopy(search.network)
            curve.append(record.valid)
        if isinstance(record, Changed) and record.change == "grow":
            growths.append(
                {
                    "width": record.request["to"],
                    "before": curve[-1],
                    "after": search.loop.changer.loss(search.network),
                    "gain": float(next(iter(search.state.evidence.values()))) if not growths else None,
                    "distances": distances(search, parent, FORMS[arm], record),
                    **step(search, parent),
                }
            )
    cost = sum(p.numel() for p in search.network.parameters())
    best = search.state.best
    return {"curve": curve, "growths": growths, "end": best and best.valid, "parameters": cost, "updates": search.state.updates}


def outputs(network: Network, inputs: torch.Tensor, training: bool) -> torch.Tensor:
    """Return the outputs of a copy of a network, with random draws replaced by their means in training mode."""
    network = copy.deepcopy(network).train(training)
    with torch.no_grad(), Means():
        found = network(inputs, network.mixing())
    assert isinstance(found, torch.Tensor)
    return found


def distances(search: Search, parent: Network, morphism: WidthGrowth, record: Changed) -> dict[str, float]:
    """Return the relative distances of a growth that was made, at both dtypes and in both modes."""
    edit = morphism.edit(parent.structure, record.request, {}, Seed(record.seed))
    inputs, _ = search.data.validation.batch(torch.arange(64))
    found = {}
    for dtype in (torch.float64, torch.float32):
        before = copy.deepcopy(parent).to(dtype)
        after = apply(before, edit, Seed(record.seed)).child
        for training in (False, True):
            old, new = (outputs(network, inputs.to(dtype), training) for network in (before, after))
            mode = "train" if training else "eval"
            found[f"{str(dtype)[6:]} {mode}"] = float((new - old).abs().max() / old.abs().max())
    return found


def step(search: Search, parent: Network) -> dict[str, float]:
    """Return by how much more a step of gradient descent lowers the loss of the child than that of its parent, on 256 examples.

    The first value is that of plain gradient descent with the learning rate, the second that of Adam's first step, in which each weight
    moves by the learning rate.
    """
    rate, split = search.strategy.optimiser.learning_rate, search.data.train
    inputs, targets = split.batch(torch.arange(min(256, split.size)))

    def lowered(network: Network, sign: bool) -> float:
        network = copy.deepcopy(network).eval()
        weights = [p for n, p in network.named_parameters() if not n.startswith("alphas.")]

        def loss() -> torch.Tensor:
            return search.data.objective(network(inputs, network.mixing()), targets)

        before = loss()
        gradients = torch.autograd.grad(before, weights, materialize_grads=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(rate * (gradient.sign() if sign else gradient))
            return float(before) - float(loss())

    names = {"sgd": False, "adam": True}
    return {name: lowered(search.network, sign) - lowered(parent, sign) for name, sign in names.items()}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return the mean of some values with its standard error, if there are several."""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{error}"


def report(name: str, setting: Setting, found: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    """Return the tables of a setting."""
    arms = {arm: [r for (a, _), r in found.items() if a == arm] for arm in ("small", "large", *FORMS)}
    arms = {arm: results for arm, results in arms.items() if results}
    grown = [(arm, n, r["growths"][n]) for arm in FORMS for r in arms.get(arm, ()) for n in range(len(r["growths"]))]
    worst = {key: max(g["distances"][key] for _, _, g in grown) for key in grown[0][2]["distances"]}
    moved = max(abs(g["after"] - g["before"]) / g["before"] for _, _, g in grown)
    ends = [setting.epochs * (n + 1) - 1 for n in range(len(setting.widths))]
    losses = [
        [
            arm,
            *(spread([r["curve"][e] for r in results]) for e in ends),
            spread([min(r["curve"][: ends[-1] + 1]) for r in results]),
            spread([r["end"] for r in results]),
            str(results[0]["parameters"]),
        ]
        for arm, results in arms.items()
    ]
    small = {seed: r["curve"] for (arm, seed), r in found.items() if arm == "small"}
    gains = [
        [
            arm,
            str(seed),
            f"{g['gain']:.2e}",
            f"{g['sgd']:.2e}",
            f"{g['adam']:.2e}",
            f"{small[seed][ends[1]] - r['curve'][ends[1]]:+.4f}",
        ]
        for (arm, seed), r in sorted(found.items())
        if r["growths"] and seed in small
        for g in r["growths"][:1]
    ]
    sizes = " to ".join(map(str, setting.widths))
    return "\n\n".join(
        [
            f"## {name}: {setting.field} {sizes}",
            f"Largest of {len(grown)} growths: " + ", ".join(f"{key} {value:.1e}" for key, value in worst.items()),
            f"Validation loss: moved by {moved:.1e} at most, relative to its value before.",
            table(["search", *(f"epoch {e + 1}" for e in ends), "least", "at the end", "parameters at the end"], losses),
            table(["growth", "seed", "predicted gain", "step of SGD", "step of Adam", f"after {setting.epochs} epochs"], gains),
        ]
    )


def main() -> None:
    """Run the searches that are missing, one seed after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--setting", choices=["weather", "images"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for line in options.results.read_text().splitlines() if options.results.exists() else ():
        entry = json.loads(line)
        found.setdefault(entry["setting"], {})[entry["arm"], entry["seed"]] = entry
    for name, setting in settings().items():
        for seed in range(setting.seeds if options.setting in (None, name) else 0):
            for arm in ("small", *FORMS, "large"):
                if (arm, seed) not in found.setdefault(name, {}):
                    entry = {"setting": name, "arm": arm, "seed": seed, **measure(setting, arm, seed)}
                    found[name][arm, seed] = entry
                    with options.results.open("a") as file:
                        file.write(json.dumps(entry) + "\n")
        if found.get(name):
            print(report(name, setting, found[name]), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
