"""Trials of a reproduction: independent, side by side, and each of them kept, so that what was broken off goes on."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

Trial = Mapping[str, Any]

#: an environment variable: the folder of the data that cannot be shipped
DATA = "NASFRAME_DATA"


def present(files: Mapping[str, str], data: str | None, say: Callable[[str], None]) -> Mapping[str, Path]:
    """The files, by series, that are in the folder `data` or else in the one that NASFRAME_DATA names; what is not there is said."""
    folder = Path(data or os.environ.get(DATA) or ".")
    found = {series: folder / file for series, file in files.items()}
    for series, path in found.items():
        if not path.is_file():
            say(f"{series} is left out: there is no {path}; say where it is with --data FOLDER, or {DATA}")
    return {series: path for series, path in found.items() if path.is_file()}


def standard_error(values: Sequence[float]) -> float:
    """Of their mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def kept(
    function: Callable[[Trial], Trial], trials: Sequence[Trial], jobs: int, folder: Path, say: Callable[[str], None]
) -> Iterator[Trial]:
    """What the function makes of each trial, in their order; what the folder keeps already is not made again.

    Args:
        function: of a module, from plain values to plain values; it computes on one thread. Of a trial that is made its
            `series`, `model` and `seed` are said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_digest(trial)}.json" for trial in trials]
    spawn = multiprocessing.get_context("spawn")
    # a process for each trial: the most memory that one took says nothing of the next
    with ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,), max_tasks_per_child=1
    ) as pool:
        futures = {f: pool.submit(_keep, function, t, f) for f, t in zip(files, trials, strict=True) if not f.exists()}
        try:
            for place, (file, trial) in enumerate(zip(files, trials, strict=True), 1):
                if file in futures:
                    futures[file].result()
                    say(f"{place} of {len(trials)}: {trial['series']}, {trial['model']}, seed {trial['seed']}")
                yield json.loads(file.read_text())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _digest(trial: Trial) -> str:
    return hashlib.sha256(json.dumps(trial, sort_keys=True).encode()).hexdigest()[:16]


def _keep(function: Callable[[Trial], Trial], trial: Trial, file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(function(trial), allow_nan=False))
    new.rename(file)
