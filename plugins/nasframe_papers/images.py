"""Cells for real images: the search of seeds/001, 4.2, and what it left to future work, scaled to a CPU.

First-order and exact second-order searches on samples of CIFAR-10 and Fashion-MNIST; the cells that they find, trained anew
on the whole training part beside DARTS_V2 in a network of the same channels and depth, a random cell of the same space, and a
small ResNet. The test part is read at the end of each of these trainings.
"""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from nasframe import Data, EpochEnded, Reproduction, Search, Seed, Strategy, Structure, build, installed, number
from nasframe.records import from_json, to_json
from nasframe.search.evaluate import train
from nasframe.search.random_architecture import random_architecture
from nasframe_papers.genotypes import CELLS, architecture
from nasframe_papers.trials import Trial, kept, present, standard_error

FILES = {"CIFAR-10": "cifar10_12k.npz", "Fashion-MNIST": "fashion_mnist_12k.npz"}
AUGMENTED = {"flip": True, "crop": 4}
#: the architects, and of how many images each search is made
SEARCHES: Mapping[str, tuple[Mapping[str, Any], int | None]] = {
    "first order": ({"name": "first_order"}, None),
    "exact second order": ({"name": "exact_second_order"}, 2000),
}
PUBLISHED, RANDOM, RESNET = "DARTS_V2", "random cell", "ResNet-10"

Row = Mapping[str, Any]


@attrs.frozen
class ImageCells(Reproduction):
    """Searches from several seeds, their cells trained anew from the same seeds, and what they are compared with.

    Args:
        trials: seeds of each search and of each training.
        channels, cells: of all networks but the ResNet, in the search and after it.
        epochs: of a search; the found network, with its weights, is then tuned for as many.
        training: epochs of a training.
        data: the folder of the .npz files of both sets; by default what the environment variable NASFRAME_DATA says. A
            set whose file is not there is left out, and that is said.
        jobs: trials side by side, on one thread each; the figures do not depend on it.
    """

    name: ClassVar[str] = "image-cells"
    about: ClassVar[str] = "seeds/001, 4.2 and 5: first and second order on real images, retrained beside DARTS_V2 and a ResNet"
    trials: int = number(3, low=2, whole=True)
    channels: int = number(8, low=1, whole=True)
    cells: int = number(4, low=3, whole=True)
    epochs: int = number(3, low=1, whole=True)
    training: int = number(6, low=1, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Row]:
        """For each set its searches, then the trainings with their test accuracy as `ours`."""
        tasks = self._tasks(say)
        searches = [trial for series, task in tasks.items() for trial in self._searches(series, task)]
        found = [*kept(searched, searches, self.jobs, folder / "searches", say)]
        cells = {(t["series"], t["model"], t["seed"]): r["cell"] for t, r in zip(searches, found, strict=True)}
        trainings = [trial for series, task in tasks.items() for trial in self._trainings(series, task, cells)]
        results = [*kept(trained, trainings, self.jobs, folder / "trainings", say)]
        for series in tasks:
            yield from (_search_row(series, model, own) for model, own in _grouped(series, searches, found))
            yield from (_training_row(series, model, own) for model, own in _grouped(series, trainings, results))

    def draw(self, rows: Sequence[Row], folder: Path) -> Sequence[Path]:
        """Of each kind of search the cells of the one of least validation loss, and how their weights came about."""
        from nasframe.pictures import draw_cell, draw_mixing

        paths = []
        for row in (row for row in rows if "cell" in row):
            stem = f"{row['data']}-{row['search']}".replace(" ", "-")
            paths += [folder / f"{stem}.png", folder / f"{stem}-mixing.png"]
            draw_cell(Structure.from_dict(row["cell"], installed().make), None, paths[-2])
            draw_mixing([from_json(line) for line in row["history"]], paths[-1])
        return paths

    def _tasks(self, say: Callable[[str], None]) -> Mapping[str, Mapping[str, Any]]:
        found = present(FILES, self.data, say)
        return {series: {"name": "images", "npz": str(path), **AUGMENTED} for series, path in found.items()}

    def _searches(self, series: str, task: Mapping[str, Any]) -> Iterator[Trial]:
        for (model, (architect, images)), seed in itertools.product(SEARCHES.items(), range(self.trials)):
            values = self._values({**task, **({"train": images} if images else {})}, self.epochs)
            values["architect"] = {**values["architect"], **architect}
            yield {"series": series, "model": model, "seed": seed, "values": values}

    def _trainings(self, series: str, task: Mapping[str, Any], cells: Mapping[Any, Any]) -> Iterator[Trial]:
        values = self._values({**task, "validation": 0.0, "cutout": 8}, self.training)
        values["backbone"] = {**values["backbone"], "affine": True}
        for model, seed in itertools.product((*SEARCHES, PUBLISHED, RANDOM, RESNET), range(self.trials)):
            yield {"series": series, "model": model, "seed": seed, "values": values, "cell": cells.get((series, model, seed))}

    def _values(self, task: Mapping[str, Any], epochs: int) -> dict[str, Any]:
        values = Strategy.named("darts-cifar10").to_dict()
        return {
            **values,
            "task": dict(task),
            "backbone": {**values["backbone"], "channels": self.channels, "cells": self.cells},
            "criterion": {"name": "epochs", "epochs": epochs},
            "optimiser": {**values["optimiser"], "epochs": epochs},
        }


def searched(trial: Trial) -> Trial:
    """A search, as plain values."""
    search = Search(attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"]))
    supernet, start, history = search.network.structure, time.process_time(), []
    seconds = 0.0
    for event in search:
        if isinstance(event, EpochEnded):
            history.append(event)
            seconds = time.process_time() - start if event.phase == "search" else seconds
    last = [r for r in history if r.phase == "search"][-1]
    return {
        "cell": search.network.structure.to_dict(),
        "history": [to_json(record) for record in history],
        "valid": last.valid,
        "accuracy": last.scores["accuracy"],
        "CPU seconds": seconds,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "zero": _heaviest(supernet, last.mixing),
    }


def _heaviest(supernet: Structure, weights: Mapping[str, Mapping[str, float]]) -> tuple[int, int]:
    """On how many edges zero has the most weight, and how many there are."""
    pairs = [zip(site.candidates, weights[address].values(), strict=True) for address, site in supernet.sites()]
    most = [max(pair, key=lambda cw: cw[1])[0] for pair in pairs]
    return sum(candidate.operation.zero for candidate in most), len(most)


def trained(trial: Trial) -> Trial:
    """A network trained anew on all of the training part, and tested, as plain values."""
    strategy, seed = Strategy.from_dict(trial["values"]), Seed((trial["seed"], "trained", trial["model"]))
    data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
    network = _network(trial, strategy, data, seed("build"))
    epochs = strategy.optimiser.epochs
    assert epochs is not None
    start = time.process_time()
    updates = epochs * math.ceil(data.train.size / strategy.batch)
    outcome = train(network, strategy, data, updates=updates, patience=epochs, seed=seed)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "CPU seconds": time.process_time() - start,
        "accuracy": outcome.scores["accuracy"],
    }


def _network(trial: Trial, strategy: Strategy, data: Data, seed: Seed) -> nn.Module:
    backbone, model = strategy.backbone, trial["model"]
    if model == RESNET:
        with seed.as_global():
            return Residual(data.sizes)
    if model == PUBLISHED:
        structure = architecture(data.sizes, **CELLS[PUBLISHED])
    elif model == RANDOM:
        structure = random_architecture(strategy, backbone.initial(data.sizes, strategy.nodes), seed("drawn"))
    else:
        structure = Structure.from_dict(trial["cell"], installed().make)
    return build(structure.with_backbone(backbone, data.sizes), seed)


class Residual(nn.Module):
    """torchvision's ResNet with one block a stage, for images of any number of channels."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.body = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=sizes["classes"])
        self.body.conv1 = nn.Conv2d(sizes["channels"], 64, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, classes)."""
        return self.body(x)


def _grouped(series: str, trials: Sequence[Trial], results: Sequence[Trial]) -> Iterator[tuple[str, list[Trial]]]:
    pairs = [(t["model"], r) for t, r in zip(trials, results, strict=True) if t["series"] == series]
    for model, group in itertools.groupby(pairs, lambda pair: pair[0]):
        yield model, [result for _, result in group]


def _search_row(series: str, model: str, results: Sequence[Trial]) -> Row:
    best = min(results, key=lambda r: r["valid"])
    return {
        "data": series,
        "search": model,
        "validation accuracy": statistics.fmean(r["accuracy"] for r in results),
        "error": standard_error([r["accuracy"] for r in results]),
        "CPU seconds": statistics.fmean(r["CPU seconds"] for r in results),
        "peak MiB": max(r["MiB"] for r in results),
        "zero is heaviest": f"{sum(r['zero'][0] for r in results)} of {sum(r['zero'][1] for r in results)}",
        **{key: best[key] for key in ("cell", "history")},
    }


def _training_row(series: str, model: str, results: Sequence[Trial]) -> Row:
    return {
        "data": series,
        "model": model,
        "ours": statistics.fmean(r["accuracy"] for r in results),
        "error": standard_error([r["accuracy"] for r in results]),
        "paper": None,
        "parameters": round(statistics.fmean(r["parameters"] for r in results)),
        "CPU seconds": statistics.fmean(r["CPU seconds"] for r in results),
    }
