"""Measure the time of a commit after 100 and after 10,000 records, and with 10 and with 100 possible parents, interleaved.

Run `python docs/measurements/commits.py`.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch

from nasframe import Memory, Search, Strategy, installed
from nasframe.run.folder import Folder, Keeper
from nasframe.search.trial_state import TrialState, TrialWeights

ROUNDS = 30


def keeper(folder: Path, count: int) -> Keeper:
    """Return the keeper of a search on the weather series whose history has so many records."""
    strategy = Strategy.named("two-to-one-grow-end")
    search = Search(strategy)
    for _ in itertools.islice(search, 20):
        pass
    search.state.history = search.state.history[:1] * count
    kept = Keeper(Folder.create(folder, strategy, installed()), strategy, search.state)
    kept.commit()
    return kept


def parents(folder: Path, count: int) -> Keeper:
    """Return the keeper of a search that has the weights of so many trials, of 67,000 numbers each."""
    kept = keeper(folder, 1)
    kept.state.asking = TrialState(Memory(), weights={number: weights(number) for number in range(count)})
    kept.commit()
    return kept


def weights(number: int) -> TrialWeights:
    """Return the weights of a trial."""
    return TrialWeights.of({"weight": torch.randn(67_000, generator=torch.Generator().manual_seed(number))})


def main() -> None:
    """Print the median times in milliseconds."""
    records()
    trials()


def trials() -> None:
    """Measure commits after each of which one trial is new and another one is not needed any more."""
    with tempfile.TemporaryDirectory() as folder:
        counts = (10, 100)
        keepers = [parents(Path(folder) / str(count), count) for count in counts]
        times: list[list[float]] = [[], []]
        for round in range(ROUNDS):
            for count, kept, found in zip(counts, keepers, times, strict=True):
                assert kept.state.asking is not None
                del kept.state.asking.weights[round]
                kept.state.asking.weights[count + round] = weights(count + round)
                start = time.perf_counter()
                kept.commit()
                found.append(1e3 * (time.perf_counter() - start))
        for count, found in zip(counts, times, strict=True):
            print(f"with {count:>3} parents: {statistics.median(found):.1f} ms a commit")


def records() -> None:
    """Measure commits after each of which there is one more record."""
    with tempfile.TemporaryDirectory() as folder:
        counts = (100, 10_000)
        keepers = [keeper(Path(folder) / str(count), count) for count in counts]
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for kept, found in zip(keepers, times, strict=True):
                kept.state.keep(kept.state.history[0])
                start = time.perf_counter()
                kept.commit()
                found.append(1e3 * (time.perf_counter() - start))
        for count, found in zip(counts, times, strict=True):
            print(f"after {count:>6} records: {statistics.median(found):.1f} ms a commit")


if __name__ == "__main__":
    main()
