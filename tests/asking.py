"""Ask/tell searches in a second: strategies, results in another order, and resuming at every event."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from full import FULL
from test_resume import digest
from toy import PLUGINS, toy_strategy

from nasframe import Search, Strategy
from nasframe.cli.main import cli
from nasframe.plugins import Plugins
from nasframe.records import Record, TrialArrived
from nasframe.search import pool, trials
from nasframe.search.pool import Pool, _main_hidden, process_context
from nasframe.testing.saved import revived, saved


def asking(architect: Any, **changes: Any) -> Strategy:
    """A search by trials of a few updates, in cells of three nodes."""
    return toy_strategy(architect=architect, growth=(), nodes=3, in_flight=3, **changes)


class Shuffled(Pool):
    """A pool of one process whose results arrive in a random order, as those of several processes do."""

    def next(self) -> tuple[int, Any]:
        first = random.choice(sorted(self._trials))  # noqa: S311 - as a machine does
        self._trials = {first: self._trials.pop(first), **self._trials}
        return super().next()


def shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let results arrive in a random order, which is the same in every run of a test."""
    random.seed(3)
    monkeypatch.setattr(trials, "Pool", Shuffled)


def run(
    search: Search,
    each: Callable[[], None] = lambda: None,
    plugins: Plugins = PLUGINS,
    workers: int = 1,
    each_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Search to the end, call the functions after each record, and return the records."""
    found = []
    for record in search.records(workers, plugins):
        found.append(record)
        each()
        each_record(record)
    return found


def check_resumes_everywhere(strategy: Strategy, plugins: Plugins = PLUGINS, expected: str | None = None) -> list[Record]:
    """Resume at every event, with the global generators in another place each time; return the records.

    A quick run resumes at five of the events. All searches go on to the end: in what order results arrive is not in the bytes.

    Args:
        strategy: the search.
        plugins: what it finds its parts in.
        expected: the digest at the end, if it is known.
    """
    search = Search(strategy)
    dumps: list[Any] = []
    records = run(search, lambda: dumps.append(saved(search.state)), plugins)
    expected = expected or digest(search.state)
    assert expected == digest(search.state)
    for number in range(0, len(dumps) - 1, 1 if FULL else -(-len(dumps) // 5)):
        torch.manual_seed(number)
        random.seed(number)
        again = Search(strategy, state=revived(*dumps[number], strategy, plugins))
        run(again, plugins=plugins)

        assert expected == digest(again.state), f"resumed at event {number}: {records[number]}"
    return records


@contextlib.contextmanager
def forked(function: Callable[..., None], *arguments: Any) -> Iterator[BaseProcess]:
    """Call a function in a process that is forked from the server of worker processes, which has imported everything."""
    with _main_hidden():
        process = process_context().Process(target=function, args=arguments)  # type: ignore[attr-defined]
        process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def command(arguments: list[str]) -> None:
    """Run a command of nasframe without its output, in a process of `forked`."""
    # The process has imported everything: another server would import it again.
    pool.process_context = lambda **given: multiprocessing.get_context("fork")  # type: ignore[assignment]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        cli(arguments)


def waited(records: list[Record]) -> int:
    """How many results arrived before one with a smaller number."""
    numbers = [record.number for record in records if isinstance(record, TrialArrived)]
    return sum(any(later < number for later in numbers[place:]) for place, number in enumerate(numbers))
