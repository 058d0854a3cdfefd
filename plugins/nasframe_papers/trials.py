"""The trials of a reproduction: independent, in several processes, and kept, so that an interrupted reproduction continues."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasframe import Data, NasframeError, Seed, Strategy
from nasframe.errors import NonFiniteError
from nasframe.search.evaluate import Evaluation, evaluation, fit, updates_per_epoch
from nasframe.search.pool import process_context

#: plain values: what a trial is to do, or its result
Values = Mapping[str, Any]

#: the environment variable with the folder of data that cannot be distributed with nasframe
DATA = "NASFRAME_DATA"


def tupled(value: Any) -> Any:
    """Return a list as a tuple, and anything else as it is: options are read as lists."""
    return tuple(value) if isinstance(value, list) else value


def among(allowed: Sequence[str]) -> Callable[..., None]:
    """Return a validator of a tuple of some of the allowed names."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        unknown = [name for name in value if name not in allowed]
        if unknown or not isinstance(value, tuple):
            raise ValueError(f"{attribute.name} is {value!r}; it must be a list of some of {', '.join(map(repr, allowed))}")

    return check


def present(files: Mapping[str, str], data: str | None, say: Callable[[str], None]) -> Mapping[str, Path]:
    """Return the paths of the data files that exist, by the name of the data.

    Args:
        files: the file names.
        data: the folder; by default that of the environment variable NASFRAME_DATA, or the working directory.
        say: receives a message for each file that does not exist.
    """
    folder = Path(data or os.environ.get(DATA) or ".")
    found = {name: folder / file for name, file in files.items()}
    for name, path in found.items():
        if not path.is_file():
            say(f"{name} is left out: {path} does not exist; give its folder with --data FOLDER or {DATA}")
    return {name: path for name, path in found.items() if path.is_file()}


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def from_scratch(network: nn.Module, strategy: Strategy, data: Data, epochs: int, seed: Seed) -> Evaluation:
    """Train a network for some epochs, without early stopping, and return the result.

    The result has the network as it was when its validation loss was least, or, without a validation split, as it was last.

    Raises:
        NonFiniteError: if the training diverges, because a table of results has no entry for it.
    """
    # With a patience of all epochs nothing stops the training early, so that the curves of all trials have one length.
    updates = epochs * updates_per_epoch(strategy, data)
    result = evaluation(network, fit(network, strategy, data, updates=updates, patience=epochs, seed=seed), data)
    if len(result.curve) < epochs:
        raise NonFiniteError(f"training from scratch diverged after {result.updates} updates: lower the learning rate")
    return result


def kept(
    function: Callable[[Values], Values], trials: Sequence[Values], jobs: int, folder: Path, say: Callable[[str], None]
) -> Iterator[Values]:
    """Yield the result of each trial, in their order. Results that are already in the folder are read and not computed.

    Args:
        function: a function of a module, which returns the result of a trial. It computes on one thread.
        trials: the trials. Each has a `series`, a `model` and a `seed`.
        jobs: the number of processes.
        folder: keeps the results.
        say: receives a message for each result that was computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_digest(trial)}.json" for trial in trials]
    # a process for each trial, because the peak memory of a process is also that of the trials before
    with ProcessPoolExecutor(
        jobs, mp_context=process_context(__name__), initializer=torch.set_num_threads, initargs=(1,), max_tasks_per_child=1
    ) as pool:
        futures = {f: pool.submit(_keep, function, t, f) for f, t in zip(files, trials, strict=True) if not f.exists()}
        try:
            for number, (file, trial) in enumerate(zip(files, trials, strict=True), 1):
                name = f"{trial['series']}, {trial['model']}, seed {trial['seed']}"
                if file in futures:
                    try:
                        futures[file].result()
                    except NasframeError as error:
                        raise type(error)(f"{name}: {error}") from error
                    say(f"{number} of {len(trials)}: {name}")
                yield json.loads(file.read_text())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _digest(trial: Values) -> str:
    return hashlib.sha256(json.dumps(trial, sort_keys=True).encode()).hexdigest()[:16]


def _keep(function: Callable[[Values], Values], trial: Values, file: Path) -> None:
    # the file appears whole or not at all
    new = file.with_suffix(".new")
    new.write_text(json.dumps(function(trial), allow_nan=False))
    new.rename(file)
