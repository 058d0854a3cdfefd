"""The reproduction of an image search of "Differentiable Architecture Search" (4.2) and of its future work, on a small scale.

First-order and exact second-order searches run on samples of CIFAR-10 and Fashion-MNIST. The cells that they find are trained
from scratch on all training images, beside DARTS_V2 in a network of the same channels and depth, random cells of the same
space, and a small ResNet. The test split is read once, at the end of each of these trainings.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import Data, Search, Seed, Strategy, Structure, build, installed
from nasframe.interfaces.reproduction import Reproduction
from nasframe.options import number
from nasframe.records import EpochEnded, from_json, to_json
from nasframe.search.random_architecture import random_architecture
from nasframe_papers.genotypes import CELLS, architecture
from nasframe_papers.trials import Values, from_scratch, kept, present, standard_error

FILES = {"CIFAR-10": "cifar10_12k.npz", "Fashion-MNIST": "fashion_mnist_12k.npz"}
AUGMENTED = {"flip": True, "crop": 4}
#: the architect of each search, and its number of images (None: all)
SEARCHES: Mapping[str, tuple[Values, int | None]] = {
    "first order": ({"name": "first_order"}, None),
    "exact second order": ({"name": "exact_second_order"}, 2000),
}
PUBLISHED, RANDOM, RESNET = "DARTS_V2", "random cell", "ResNet-10"


@attrs.frozen
class ImageCells(Reproduction):
    """Test accuracy of image cells found to first and second order, beside DARTS_V2, random cells and a ResNet.

    Each search and each training from scratch runs with several seeds.

    Args:
        trials: the number of seeds of each search and of each training.
        channels: the number of channels of all networks but the ResNet, in the search and after it.
        cells: the number of cells of these networks.
        epochs: the number of epochs of a search; the found network is then tuned for as many.
        training: the number of epochs of a training from scratch.
        data: the folder with the .npz files; by default that of the environment variable NASFRAME_DATA. Images without a file
            are left out with a message.
        jobs: the number of processes, of one thread each. The results do not depend on it.
    """

    name: ClassVar[str] = "image-cells"
    about: ClassVar[str] = "a study of DARTS, 4.2 and 5: first and second order on images, beside DARTS_V2 and a ResNet"
    trials: int = number(3, low=2, whole=True)
    channels: int = number(8, low=1, whole=True)
    cells: int = number(4, low=3, whole=True)
    epochs: int = number(3, low=1, whole=True)
    training: int = number(6, low=1, whole=True)
    data: str | None = None
    jobs: int = number(1, low=1, whole=True)

    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Values]:
        """Yield the searches of each data set, then the trainings with their test accuracy as `ours`."""
        tasks = self._tasks(say)
        searches = [trial for series, task in tasks.items() for trial in self._searches(series, task)]
        found = [*kept(search_trial, searches, self.jobs, folder / "searches", say)]
        cells = {(t["series"], t["model"], t["seed"]): r["cell"] for t, r in zip(searches, found, strict=True)}
        trainings = [trial for series, task in tasks.items() for trial in self._trainings(series, task, cells)]
        results = [*kept(training_trial, trainings, self.jobs, folder / "trainings", say)]
        for series in tasks:
            yield from (_search_row(series, model, group) for model, group in _grouped(series, searches, found))
            yield from (_training_row(series, model, group) for model, group in _grouped(series, trainings, results))

    def draw(self, rows: Sequence[Values], folder: Path) -> Sequence[Path]:
        """Draw the best cells of each kind of search by validation loss, and the mixing weights during this search."""
        from nasframe.pictures import draw_cell, draw_mixing

        paths = []
        for row in (row for row in rows if "cell" in row):
            stem = f"{row['data']}-{row['search']}".replace(" ", "-")
            paths += [folder / f"{stem}.png", folder / f"{stem}-mixing.png"]
            draw_cell(Structure.from_dict(row["cell"], installed().make), None, paths[-2])
            draw_mixing([from_json(line) for line in row["history"]], paths[-1])
        return paths

    def _tasks(self, say: Callable[[str], None]) -> Mapping[str, Values]:
        found = present(FILES, self.data, say)
        return {series: {"name": "images", "npz": str(path), **AUGMENTED} for series, path in found.items()}

    def _searches(self, series: str, task: Values) -> Iterator[Values]:
        for (model, (architect, images)), seed in itertools.product(SEARCHES.items(), range(self.trials)):
            values = self._values({**task, **({"train": images} if images else {})}, self.epochs)
            values["architect"] = {**values["architect"], **architect}
            yield {"series": series, "model": model, "seed": seed, "values": values}

    def _trainings(self, series: str, task: Values, cells: Mapping[tuple[str, str, int], Values]) -> Iterator[Values]:
        # a cell is trained on all training images: nothing is decided any more, so that no validation split is needed
        values = self._values({**task, "validation": 0.0, "cutout": 8}, self.training)
        values["backbone"] = {**values["backbone"], "affine": True}
        for model, seed in itertools.product((*SEARCHES, PUBLISHED, RANDOM, RESNET), range(self.trials)):
            yield {"series": series, "model": model, "seed": seed, "values": values, "cell": cells.get((series, model, seed))}

    def _values(self, task: Values, epochs: int) -> dict[str, Any]:
        """Return the plain values of a strategy on this task, with the options of the reproduction."""
        values = Strategy.named("darts-cifar10").to_dict()
        return {
            **values,
            "task": dict(task),
            "backbone": {**values["backbone"], "channels": self.channels, "cells": self.cells},
            "criterion": {"name": "epochs", "epochs": epochs},
            "optimiser": {**values["optimiser"], "epochs": epochs},
        }


def search_trial(trial: Values) -> Values:
    """Run a search and return its result as plain values."""
    search = Search(attrs.evolve(Strategy.from_dict(trial["values"]), seed=trial["seed"]))
    # The time of the process and not of the clock, because several trials run side by side.
    supernet, start, history = search.network.structure, time.process_time(), []
    seconds = 0.0
    for event in search:
        if isinstance(event, EpochEnded):
            history.append(event)
            # the time at the last epoch of the search, without tuning
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


def _heaviest(supernet: Structure, mixing: Mapping[str, Mapping[str, float]]) -> tuple[int, int]:
    """Return the number of edges on which zero has the largest mixing weight, and the number of all edges."""
    pairs = [zip(site.candidates, mixing[address].values(), strict=True) for address, site in supernet.sites()]
    most = [max(pair, key=lambda cw: cw[1])[0] for pair in pairs]
    return sum(candidate.operation.zero for candidate in most), len(most)


def training_trial(trial: Values) -> Values:
    """Train a network from scratch on all training images, test it, and return the result as plain values."""
    strategy, seed = Strategy.from_dict(trial["values"]), Seed((trial["seed"], "trained", trial["model"]))
    data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
    network = _network(trial, strategy, data, seed("build"))
    epochs = strategy.optimiser.epochs
    assert epochs is not None
    start = time.process_time()
    outcome = from_scratch(network, strategy, data, epochs, seed)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "CPU seconds": time.process_time() - start,
        "accuracy": outcome.scores["accuracy"],
    }


def _network(trial: Values, strategy: Strategy, data: Data, seed: Seed) -> nn.Module:
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
    """The ResNet of torchvision with one block in each stage, for images with any number of channels."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock, ResNet  # takes as long to import as torch

        self.body = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=sizes["classes"])
        # The first layer of torchvision's network, but for the number of its input channels.
        self.body.conv1 = nn.Conv2d(sizes["channels"], 64, 7, stride=2, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of shape (batch, classes)."""
        return self.body(x)


def _grouped(series: str, trials: Sequence[Values], results: Sequence[Values]) -> Iterator[tuple[str, list[Values]]]:
    """Yield the results of each model on one data set."""
    pairs = [(t["model"], r) for t, r in zip(trials, results, strict=True) if t["series"] == series]
    # The trials were planned model by model, so that equal models are neighbours.
    for model, group in itertools.groupby(pairs, lambda pair: pair[0]):
        yield model, [result for _, result in group]


def _search_row(series: str, model: str, results: Sequence[Values]) -> Values:
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


def _training_row(series: str, model: str, results: Sequence[Values]) -> Values:
    return {
        "data": series,
        "model": model,
        "ours": statistics.fmean(r["accuracy"] for r in results),
        "error": standard_error([r["accuracy"] for r in results]),
        "paper": None,
        "parameters": round(statistics.fmean(r["parameters"] for r in results)),
        "CPU seconds": statistics.fmean(r["CPU seconds"] for r in results),
    }
