"""Run a search in its folder: follow it, keep it, draw it, compare it, and say how to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nasframe.cli.watch import Stop, Stopped, Watch, spent, watching
from nasframe.pictures import draw_cell, draw_learning, draw_mixing
from nasframe.run import commits, summary
from nasframe.run.compare import Row, compare
from nasframe.run.folder import Folder, Keeper, follow, save_model
from nasframe.search.search import Search, threads

INTERRUPTED = 130


def run(folder: Folder, begin: Callable[[], Search], commit_every: int | None) -> None:
    """Run a search to its end and leave its results in the folder; a run that is finished stays as it is.

    Args:
        folder: the run folder, with its strategy.
        begin: returns the search at its beginning, or as it was at its last commit; called when the folder is locked.
        commit_every: commit after so many updates within an epoch, too.
    """
    with folder.locked(), Stop() as stop, watching() as watch:
        if folder.finished:
            watch.say(f"the run in {folder.path} is finished")
            watch.say(_how_to_load(folder.path))
            return
        try:
            with stop.at_once():
                search = begin()
            watch.say(f"run folder: {folder.path}")
            for warning in search.warnings():
                watch.say(warning)
            _follow(search, Keeper(folder, search.state, commit_every), watch, stop)
            # the last commit is that of the finished search: what is left can be broken off at any point and done again
            with stop.at_once(), threads(search.strategy.threads):
                save_model(search.model, folder.path)
                _draw(search, folder.path)
                watch.say(summary.write(folder, search, list(_compared(search, watch))))
        except Stopped:
            watch.say(f"stopped; go on with: nasframe resume {folder.path}")
            sys.exit(INTERRUPTED)
        watch.say(_how_to_load(folder.path))


def _follow(search: Search, keeper: Keeper, watch: Watch, stop: Stop) -> None:
    start = time.monotonic()
    try:
        follow(search, keeper, watch, stop.check)
    except Stopped:
        keeper.commit()
        raise
    watch.say(spent(time.monotonic() - start, search.strategy.device))


def _how_to_load(path: Path) -> str:
    return f'load the network in Python: model = nasframe.load_model("{path.as_posix()}")'


def _draw(search: Search, folder: Path) -> None:
    history = search.state.history
    with commits.speaking(folder):
        draw_cell(search.network.structure, None, folder / "cell.png")
        draw_learning(history, search.state.lineage, folder / "learning.png", search.data.score)
        if any("mixing" in record for record in history):
            draw_mixing(history, folder / "mixing.png")


def _compared(search: Search, watch: Watch) -> Iterator[Row]:
    for name, row in compare(search):
        watch.doing(f"comparing: {name}")
        yield row()
