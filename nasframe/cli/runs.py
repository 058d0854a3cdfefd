"""Run a search in its folder: follow it, keep it, draw it, compare it, and say how to go on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nasframe.cli.watch import Stop, Stopped, Watch, spent, watching
from nasframe.errors import RunError
from nasframe.pictures import draw_cell, draw_distribution, draw_learning, draw_mixing, draw_trials
from nasframe.records import EpochEnded
from nasframe.run import commits, summary
from nasframe.run.folder import Folder, Keeper, follow, save_model
from nasframe.search.search import Search
from nasframe.search.strategy import Strategy

INTERRUPTED = 130


def run(folder: Folder, begin: Callable[[], tuple[Search, Keeper]], commit_every: int | None, workers: int | None) -> None:
    """Run a search to its end and leave its results in the folder; a run that is finished stays as it is.

    Args:
        folder: the run folder, with its strategy.
        begin: returns the search at its beginning, or as it was at its last commit, and what keeps it; called when the
            folder is locked.
        commit_every: commit after so many updates within an epoch, too.
        workers: the number of processes of trials and of the comparison; None for one for each core.
    """
    # The lock comes first: a second process must not even look at a run that another one is writing.
    with folder.locked(), Stop() as stop, watching() as watch:
        if folder.finished:
            watch.say(f"the run in {folder.path} is finished")
            watch.say(_how_to_load(folder.path))
            return
        try:
            with stop.at_once():
                search, keeper = begin()
            watch.say(f"run folder: {folder.path}")
            for warning in search.warnings():
                watch.say(warning)
            keeper.every = commit_every
            _finish(folder, search, keeper, watch, stop, workers or _workers(search.strategy))
        except Stopped:
            watch.say(f"stopped; continue with: nasframe resume {folder.path}")
            sys.exit(INTERRUPTED)
        watch.say(_how_to_load(folder.path))


def _finish(folder: Folder, search: Search, keeper: Keeper, watch: Watch, stop: Stop, workers: int) -> None:
    """Search, compare, and write the results."""
    start = time.monotonic()
    try:
        try:
            follow(search.records(workers, folder.plugins, stop.check), keeper, watch, stop.check)
            follow(search.compare(workers, folder.plugins, stop.check), keeper, watch, stop.check)
        except Stopped:
            # Raised where the state is complete (see `Stop`), so that what was done since the last commit is kept.
            keeper.commit()
            raise
        watch.say(spent(time.monotonic() - start, search.strategy.device))
        # the last commit is that of the finished run: what is left can be broken off at any point and done again
        with stop.at_once():
            save_model(search.model, folder.path)
            _draw(search, folder.path)
            _draw_predictions(search, folder.path, watch)
            watch.say(summary.write(folder, search))
    except RunError as error:
        raise RunError(f"{error}. When that is put right, continue with: nasframe resume {folder.path}") from error


def _workers(strategy: Strategy) -> int:
    """Return the number of processes that the machine has cores for; a device other than the CPU is not shared."""
    # Processes with more threads than cores in all would slow each other down.
    return max(1, (os.cpu_count() or 1) // strategy.threads) if strategy.device == "cpu" else 1


def _how_to_load(path: Path) -> str:
    return f'load the network in Python: model = nasframe.load_model("{path.as_posix()}")'


def _draw(search: Search, folder: Path) -> None:
    history = search.state.history
    with commits.write_errors(folder):
        draw_cell(search.network.structure, None, folder / "cell.png")
        # A run of trials alone has no epochs.
        if history:
            draw_learning(history, search.state.lineage, folder / "learning.png", search.data.score, search.state.trials)
        if search.state.trials:
            draw_trials(search.state.trials, folder / "trials.png")
        if any(isinstance(record, EpochEnded) and record.mixing for record in history):
            draw_mixing(history, folder / "mixing.png")
        # without a validation split there is nothing to compare
        if any(evaluation.valid is not None for evaluation in search.state.evaluations):
            draw_distribution(search.state.evaluations, search.state.trials, folder / "distribution.png")


def _draw_predictions(search: Search, folder: Path, watch: Watch) -> None:
    """Draw the pictures of the task; say which of them cannot be drawn."""
    with commits.write_errors(folder):
        for name, draw in search.data.pictures.items():
            try:
                draw(search.model, folder / name)
            except OSError:
                raise
            except Exception as error:
                # the task may be that of a third party: a fault in a picture must not cost the results of hours
                watch.say(f"{name} is not drawn, because the task {search.strategy.task.name!r} fails to: {error!r}")
