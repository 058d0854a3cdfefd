"""Measure the time of a commit after 100 and after 10,000 records, interleaved.

Run `python docs/measurements/commits.py`.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

from nasframe import Search, Strategy, installed
from nasframe.run.folder import Folder, Keeper

ROUNDS = 30


def keeper(folder: Path, count: int) -> Keeper:
    """Return the keeper of a search on the weather series whose history has so many records."""
    strategy = Strategy.named("default")
    search = Search(strategy)
    for _ in itertools.islice(search, 20):
        pass
    search.state.history = search.state.history[:1] * count
    kept = Keeper(Folder.create(folder, strategy, installed()), strategy, search.state)
    kept.commit()
    return kept


def main() -> None:
    """Print the median times in milliseconds."""
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
