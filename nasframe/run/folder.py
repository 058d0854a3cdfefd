"""A run folder: strategy.toml, metrics.jsonl, lineage.jsonl, commits/, and the results when the search is over."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import filelock
import safetensors.torch
from torch import Tensor

from nasframe.errors import RunError
from nasframe.network.model import Model, dump_scales, load_scales
from nasframe.network.network import build
from nasframe.plugins import Plugins, installed
from nasframe.run import commits as checkpoint
from nasframe.search.records import Changed, EpochEnded, Event, Finished, StageEnded, Stepped
from nasframe.search.search import Search
from nasframe.search.state import State, dump, fill, load, snapshot
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

LOCK, STRATEGY, ARCHITECTURE = ".lock", "strategy.toml", "architecture.json"
WEIGHTS, SCALES = "weights.safetensors", "scales.safetensors"
RECORDS = {"metrics.jsonl": "history", "lineage.jsonl": "lineage"}


@attrs.frozen
class Folder:
    """Where a run is kept. One process at a time writes to it."""

    path: Path
    plugins: Plugins

    @classmethod
    def create(cls, path: Path | None, strategy: Strategy, plugins: Plugins, state: State | None = None) -> Folder:
        """Return a new folder that holds its strategy, and its first state where that is not a search's beginning.

        Args:
            path: a folder that does not exist or is empty; None makes `runs/<the next number>`.

        Raises:
            NasframeError: the folder is not empty, cannot be written (then nothing is left of it), or the strategy could not
                be read from it again.
        """
        Strategy.from_dict(strategy.to_dict(), plugins)
        path, made = _next_run(Path("runs")) if path is None else _made(path)
        folder = cls(path, plugins)
        try:
            with folder.locked():
                if any(entry.name != LOCK for entry in path.iterdir()):
                    raise RunError(f"{path} was taken by another process; give another --out")
                try:
                    if state is not None:
                        folder.commit(state)
                    # comes last: with a strategy and without a commit the folder would be that of a search
                    checkpoint.write_file(path / STRATEGY, strategy.to_toml().encode())
                except BaseException:
                    shutil.rmtree(path / "commits", ignore_errors=True)
                    for entry in path.iterdir():
                        entry.unlink()
                    raise
        except BaseException:
            if made:
                with contextlib.suppress(OSError):  # another process may have taken it
                    path.rmdir()
            raise
        return folder

    @classmethod
    def open(cls, path: Path, plugins: Plugins) -> Folder:
        """A folder that a run has left."""
        if not (path / STRATEGY).is_file():
            raise RunError(f"{path} is no run folder: it holds no {STRATEGY}")
        return cls(path, plugins)

    @property
    def finished(self) -> bool:
        """Whether the run is over and its results are written: the summary is the last of them."""
        return (self.path / "summary.md").is_file()

    def search(self, warn: Callable[[str], None] = lambda text: None) -> Search:
        """The search as it stands at the last commit, or at its beginning. `warn` is told what is not as it was."""
        strategy = Strategy.read(self.path / STRATEGY, self.plugins)
        if not any(entry.suffix != ".draft" for entry in (self.path / "commits").glob("*")):
            return Search(strategy)  # it was interrupted before its first commit
        commit = checkpoint.newest(self.path / "commits", warn)
        now = self._environment()
        for name in sorted(now.keys() | commit.environment.keys()):
            was, is_ = commit.environment.get(name, "absent"), now.get(name, "absent")
            if was != is_:
                warn(f"{name} was {was} and is {is_}: the run goes on, but the same bytes are not promised")
        return Search(strategy, state=load(commit.text, commit.tensors, strategy, self.plugins))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out; a folder that another process writes to is refused."""
        lock = filelock.FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise RunError(f"another process is writing to {self.path}; wait for it, or give another --out") from error
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def commit(self, state: State) -> None:
        """Write the state down."""
        checkpoint.write(self.path / "commits", *dump(state), self._environment())

    def _environment(self) -> dict[str, str]:
        return checkpoint.environment({p.name: p.version for p in self.plugins.found})


def _next_run(runs: Path) -> tuple[Path, bool]:
    """Make the folder of the next number; two processes that start at once make two."""
    with checkpoint.speaking(runs):
        runs.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in runs.iterdir() if path.name.isdecimal()), default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                (path := runs / f"{number:03d}").mkdir()
                return path, True


def _made(path: Path) -> tuple[Path, bool]:
    """Make the folder where it does not exist, and return whether it was made."""
    with checkpoint.speaking(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if (path / STRATEGY).is_file():
                raise RunError(f"{path} holds a run; give another --out, or continue it: nasframe resume {path}") from None
            if not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir()):
                raise RunError(f"{path} exists and is not an empty folder; give another --out") from None
            return path, False
    return path, True


def found(path: Path, plugins: Plugins) -> Structure:
    """The architecture that a run left in its folder, or that stands in a file."""
    file = path / ARCHITECTURE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and (path / STRATEGY).is_file():
            raise RunError(f"the run in {path} is not over; bring it to its end: nasframe resume {path}") from error
        raise RunError(
            f"the architecture {file} cannot be read: {error}; give a file that a run wrote when it was over, or its folder"
        ) from error
    return Structure.from_json(text, plugins.make)


def save_model(model: Model, path: str | Path) -> None:
    """Write a found network into a folder: the architecture as JSON, from which it is built again, its weights, and the scales of
    its data. What stands there already under these names is replaced.
    """
    folder = Path(path)
    with checkpoint.speaking(folder):
        folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_file(folder / SCALES, dump_scales(model))
    checkpoint.write_file(folder / WEIGHTS, _tensors(snapshot(model.network)))
    checkpoint.write_file(folder / ARCHITECTURE, model.network.structure.to_json().encode())


def load_model(path: str | Path, plugins: Plugins | None = None) -> Model:
    """The network that a run, or `save_model`, left in a folder, in the units of its data and in evaluation mode."""
    folder = Path(path)
    structure = found(folder, plugins or installed())
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        inputs, outputs, signature = load_scales(str(folder / SCALES))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunError(
            f"the weights or scales of {folder} cannot be read: {error}; give the folder of a run that is over"
        ) from error
    dtype = next(t.dtype for t in weights.values() if t.is_floating_point())
    network = build(structure, Seed((0, "overwritten"))).to(dtype)
    fill(network, weights)
    return Model(network, inputs, outputs, signature).eval()


class Keeper:
    """A consumer of events that keeps a run: a commit at each change, epoch and decision, and the records by line.

    Args:
        every: commit after so many updates within an epoch, too; None: not.
    """

    def __init__(self, folder: Folder, state: State, every: int | None = None) -> None:
        self.folder, self.state, self.every = folder, state, every
        for name, field in RECORDS.items():
            # what an earlier process wrote after its last commit has not happened: it is cut off before the first append
            checkpoint.write_file(folder.path / name, _lines(getattr(state, field)))
        self.written = {name: len(getattr(state, field)) for name, field in RECORDS.items()}

    def __call__(self, event: Event) -> None:
        """Commit what the event did, then append its records."""
        due = isinstance(event, Stepped) and self.every is not None and event.updates % self.every == 0
        if due or isinstance(event, EpochEnded | StageEnded | Changed | Finished):
            self.commit()

    def commit(self) -> None:
        """Commit the state as it is, and append the records that are new."""
        self.folder.commit(self.state)
        for name, field in RECORDS.items():
            records = getattr(self.state, field)
            with checkpoint.speaking(self.folder.path / name), (self.folder.path / name).open("ab") as file:
                file.write(_lines(records[self.written[name] :]))
            self.written[name] = len(records)


def follow(search: Search, keeper: Keeper, watch: Callable[[Event], None], check: Callable[[], None]) -> None:
    """Run the search, keep it, and let `watch` see its events; after each, `check` may raise to stop it there."""
    for event in search:
        keeper(event)
        watch(event)
        check()


def _tensors(values: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous().cpu().clone() for name, tensor in values.items()})


def _lines(records: Sequence[Any]) -> bytes:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
