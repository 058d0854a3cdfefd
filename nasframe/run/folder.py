"""A run folder: the strategy, the journals, the commits, and the results when the run is over."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Set as AbstractSet
from pathlib import Path

import attrs
import filelock
import safetensors.torch
from torch import Tensor

from nasframe.errors import CheckpointError, RunError, StrategyError
from nasframe.network.model import Model, dump_scales, load_scales
from nasframe.network.network import build
from nasframe.plugins import Plugins, installed
from nasframe.records import (
    JOURNALS,
    Changed,
    EpochEnded,
    Evaluated,
    Finished,
    Measured,
    Record,
    Refused,
    StageEnded,
    Stepped,
    TrialArrived,
    TrialEnded,
)
from nasframe.run import commits
from nasframe.run.journal import Journal, Mark
from nasframe.search.changes import digest
from nasframe.search.device import computing, loaded
from nasframe.search.search import Search
from nasframe.search.state import State, copied, dump, fill, load, trial_weights
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

LOCK, STRATEGY, ARCHITECTURE = ".lock", "strategy.toml", "architecture.json"
WEIGHTS, SCALES = "weights.safetensors", "scales.safetensors"
#: the files of the journals
FILES = {"history": "metrics.jsonl", "lineage": "lineage.jsonl", "trials": "trials.jsonl", "evaluations": "evaluations.jsonl"}
COMMITS, EVIDENCE = "commits", "evidence"


@attrs.frozen
class Folder:
    """Where a run is kept. One process at a time writes to it."""

    path: Path
    plugins: Plugins

    @classmethod
    def create(cls, path: Path | None, strategy: Strategy, plugins: Plugins, state: State | None = None) -> Folder:
        """Return a new folder that contains the strategy, and the first state where that is not the beginning of a search.

        Args:
            path: a folder that does not exist or is empty; None makes `runs/<the next number>`.
            strategy: the strategy of the run.
            plugins: where the parts of the strategy are found.
            state: the first state of a retraining; None for a search.

        Raises:
            NasframeError: the folder is not empty, cannot be written (then nothing is left of it), or the strategy could not
                be read from it again.
        """
        # a strategy that cannot be read back would make a run that cannot be resumed
        Strategy.from_dict(strategy.to_dict(), plugins)
        path, made = _next_run(Path("runs")) if path is None else _made(path)
        folder = cls(path, plugins)
        try:
            with folder.locked():
                # Looked at again with the lock held: another process may have started a run here since the folder was made.
                if any(entry.name != LOCK for entry in path.iterdir()):
                    raise RunError(f"{path} was taken by another process; give another --out")
                try:
                    if state is not None:
                        Keeper(folder, strategy, state).commit()
                    # comes last: with a strategy and without a commit the folder would be that of a search
                    commits.write_file(path / STRATEGY, strategy.to_toml().encode())
                except BaseException:
                    # all of it was written here: the folder was empty when the lock was taken
                    for entry in path.iterdir():
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                    raise
        except BaseException:
            if made:
                with contextlib.suppress(OSError):  # another process may have taken it
                    path.rmdir()
            raise
        return folder

    @classmethod
    def open(cls, path: Path, plugins: Plugins) -> Folder:
        """Return the folder of a run.

        Raises:
            RunError: if it is not one.
        """
        if not (path / STRATEGY).is_file():
            raise RunError(f"{path} is no run folder: it contains no {STRATEGY}")
        return cls(path, plugins)

    def discard(self) -> None:
        """Remove the run if nothing of it was committed; any other run stays as it is."""
        if (self.path / COMMITS).exists():
            return
        with commits.write_errors(self.path):
            for name in (STRATEGY, *FILES.values(), LOCK):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    @property
    def finished(self) -> bool:
        """Return whether the run is over and its results are written: the summary is the last of them."""
        return (self.path / "summary.md").is_file()

    def search(self, warn: Callable[[str], None] = lambda text: None) -> tuple[Search, Keeper]:
        """Return the search as it was at the last commit, or at its beginning, and what keeps it.

        Args:
            warn: is called with a sentence about each thing that is not as it was.

        Raises:
            StrategyError: if the strategy is not the one that the run was started with.
            CheckpointError: if no commit is whole.
        """
        strategy = Strategy.read(self.path / STRATEGY, self.plugins)
        if not commits.begun(self.path / COMMITS):
            search = Search(strategy)  # it was interrupted before its first commit
            return search, Keeper(self, strategy, search.state)
        # The data are loaded once, and not for each commit that is tried.
        with computing(strategy):
            data = loaded(strategy)
        # the newest commit that holds; if its journals do not, the one before it
        for path, commit in commits.whole(self.path / COMMITS, warn):
            # No damage, so that the commit is not set aside: it can be used again when the change of the file is undone.
            if commit.strategy != strategy_digest(strategy):
                raise StrategyError(
                    f"{self.path / STRATEGY} was changed after the run had started; the run would mix two strategies. Undo the "
                    f"change, or start a new run: nasframe search --strategy {self.path / STRATEGY}"
                )
            try:
                # A commit and its journals belong together. If one journal is damaged, an older commit with shorter marks
                # may still hold.
                journals, records = {}, {}
                for name in JOURNALS:
                    mark = Mark(**commit.marks[name])
                    journals[name], records[name] = Journal.resume(self.path / FILES[name], mark)
                evidence = self._evidence(records["lineage"])
                with computing(strategy):
                    state = load(
                        commit.text,
                        commit.tensors,
                        records,
                        evidence,
                        commit.shared,
                        strategy=strategy,
                        data=data,
                        plugins=self.plugins,
                    )
            except CheckpointError as error:
                commits.set_aside(path, error, warn)
                continue
            self._compare(commit.environment, warn)
            return Search(strategy, data=data, state=state), Keeper(self, strategy, state, journals)
        raise CheckpointError(f"{self.path / COMMITS} contains no commit that is whole; start the run anew")

    def _compare(self, before: Mapping[str, str], warn: Callable[[str], None]) -> None:
        now = self.environment()
        for name in sorted(now.keys() | before.keys()):
            was, is_ = before.get(name, "absent"), now.get(name, "absent")
            if was != is_:
                warn(f"{name} was {was} and is {is_}: the run continues, but the same bytes are not promised")

    def _evidence(self, lineage: list[Record]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for position, record in enumerate(lineage):
            if not isinstance(record, Changed) or not record.evidence:
                continue
            # Evidence is kept in separate files, because it never changes and a commit would write it again each time.
            path = self.path / EVIDENCE / f"{position:06d}.safetensors"
            try:
                values = safetensors.torch.load_file(path)
            except (OSError, safetensors.SafetensorError) as error:
                raise CheckpointError(f"the evidence {path} cannot be read: {error}") from error
            if {name: digest(value) for name, value in values.items()} != dict(record.evidence):
                raise CheckpointError(f"the evidence {path} is damaged: its digests are not those of the lineage")
            found |= {f"{position}/{name}": value for name, value in values.items()}
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder within a `with` block, so that no other process writes to it.

        Raises:
            RunError: if another process writes to the folder.
        """
        # The lock is the kernel's: it is released with the process that holds it, however that ends. The file itself stays.
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

    def environment(self) -> dict[str, str]:
        """Return what equal bytes depend on beside the strategy."""
        return commits.environment({p.name: p.version for p in self.plugins.found})


def strategy_digest(strategy: Strategy) -> str:
    """Return the digest of a strategy."""
    return hashlib.sha256(strategy.to_toml().encode()).hexdigest()


class Keeper:
    """A consumer of records that keeps a run on disk.

    It commits at each measured value, change, epoch, decision and evaluation: first the records are appended to the journals, then the
    state is committed with the positions of the journals.

    Args:
        folder: where the run is kept.
        strategy: the strategy of the run.
        state: the state of the run, which is committed as it is at that time.
        journals: the journals at the state's positions; by default they begin empty.

    Attributes:
        every: the number of updates after which the state is committed within an epoch, too; None if it is not.
    """

    def __init__(self, folder: Folder, strategy: Strategy, state: State, journals: Mapping[str, Journal] | None = None) -> None:
        self.folder, self.strategy, self.state = folder, strategy, state
        self.every: int | None = None
        # those of a state that was loaded have been read, and their digests hold
        self._shared: AbstractSet[str] = trial_weights(state).keys()
        self.journals = journals or {name: Journal.begin(folder.path / FILES[name]) for name in JOURNALS}

    def __call__(self, record: Record) -> None:
        """Commit what the record is about."""
        # Steps are counted over the whole run, so that commits fall on the same updates after a resume.
        due = isinstance(record, Stepped) and self.every is not None and record.updates % self.every == 0
        if due or isinstance(
            record,
            Measured | EpochEnded | StageEnded | Refused | Changed | TrialArrived | TrialEnded | Evaluated | Finished,
        ):
            self.commit()

    def commit(self) -> None:
        """Append the new records to the journals and commit the state."""
        path = self.folder.path
        self._write_evidence()
        for name, journal in self.journals.items():
            # The state holds the records of the whole run in memory, the journal knows how many of them are on disk.
            journal.append(getattr(self.state, name)[journal.mark.records :])
        # journals first: a commit whose journals are too short could not be resumed from, while lines behind a commit's marks
        # are cut off
        text, values = dump(self.state)
        marks = {name: attrs.asdict(journal.mark) for name, journal in self.journals.items()}
        commit = commits.Commit(
            text, values, marks, strategy_digest(self.strategy), self.folder.environment(), trial_weights(self.state)
        )
        commits.write(path / COMMITS, commit, self._shared)
        # `write` has removed what no commit refers to any more: if it is needed again, it has to be written again.
        self._shared = commits.referred(path / COMMITS)

    def _write_evidence(self) -> None:
        # before the records that name it; a file without its record is written again
        written = self.journals["lineage"].mark.records
        for position, record in enumerate(self.state.lineage[written:], written):
            if isinstance(record, Changed) and record.evidence:
                folder = self.folder.path / EVIDENCE
                with commits.write_errors(folder):
                    folder.mkdir(exist_ok=True)
                values = {name: self.state.evidence[f"{position}/{name}"] for name in record.evidence}
                commits.write_file(folder / f"{position:06d}.safetensors", _tensors(values))


def follow(records: Iterator[Record], keeper: Keeper, watch: Callable[[Record], None], check: Callable[[], None]) -> None:
    """Keep the records of a run and show them; after each, `check` may raise an exception in order to stop there."""
    for record in records:
        # kept before it is shown, so that a crash takes back nothing that the user has seen
        keeper(record)
        watch(record)
        check()


def _next_run(runs: Path) -> tuple[Path, bool]:
    """Make the folder of the next number; two processes that start at once make two."""
    with commits.write_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in runs.iterdir() if path.name.isdecimal()), default=0)
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                # of two processes that try the same number, one makes the folder and the other tries the next number
                (path := runs / f"{number:03d}").mkdir()
                return path, True


def _made(path: Path) -> tuple[Path, bool]:
    """Make the folder where it does not exist, and return whether it was made."""
    with commits.write_errors(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if (path / STRATEGY).is_file():
                raise RunError(f"{path} holds a run; give another --out, or continue it: nasframe resume {path}") from None
            # A lock alone is no content. Whether a process holds it is known when the lock is taken.
            if not path.is_dir() or any(entry.name != LOCK for entry in path.iterdir()):
                raise RunError(f"{path} exists and is not an empty folder; give another --out") from None
            return path, False
    return path, True


def found(path: Path, plugins: Plugins) -> Structure:
    """Return the architecture of a finished run, or of a file.

    Args:
        path: a run folder, or a file such as architecture.json.
        plugins: where the parts of the structure are found.

    Raises:
        RunError: if there is no such file, or the run is not over.
    """
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
    """Write a model into a folder: its architecture as JSON, its weights, and the scales of its data.

    Files of these names are replaced.

    Example:
        A cell with one candidate at each site, so that there is nothing to search:

        >>> import attrs, os, tempfile
        >>> from nasframe_recurrent import Sum, TwoToOne
        >>> strategy = attrs.evolve(nasframe.Strategy.named("two-to-one-grow-end"), backbone=TwoToOne(operations=(Sum(),)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nasframe.save_model(nasframe.Search(strategy).model, folder)
        ...     sorted(os.listdir(folder))
        ['architecture.json', 'scales.safetensors', 'weights.safetensors']
    """
    folder = Path(path)
    with commits.write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The architecture is written last: `load_model` looks for it first, and a folder that has it has the other files, too.
    commits.write_file(folder / SCALES, dump_scales(model))
    commits.write_file(folder / WEIGHTS, _tensors(copied(model.network)))
    commits.write_file(folder / ARCHITECTURE, model.network.structure.to_json().encode())


def load_model(path: str | Path, plugins: Plugins | None = None) -> Model:
    """Return the model of a finished run, or of `save_model`, in evaluation mode.

    It maps rows or images in the units of the data to predictions in these units.

    Args:
        path: the folder.
        plugins: where the parts of the architecture are found; by default the installed plugins.

    Raises:
        RunError: if the folder has no model.
        StructureError: if the architecture cannot be built with these plugins.

    Example:
        The next seven days of a series with four columns, from the last ten, by a network that was not trained:

        >>> import attrs, tempfile, torch
        >>> from nasframe_recurrent import Sum, TwoToOne
        >>> strategy = attrs.evolve(nasframe.Strategy.named("two-to-one-grow-end"), backbone=TwoToOne(operations=(Sum(),)))
        >>> rows = torch.tensor([[0.0, 12.8, 5.0, 4.7]]).expand(10, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nasframe.save_model(nasframe.Search(strategy).model, folder)
        ...     nasframe.load_model(folder).forecast(rows, steps=7).shape
        torch.Size([7, 4])
    """
    folder = Path(path)
    structure = found(folder, plugins or installed())
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        inputs, outputs, signature = load_scales(str(folder / SCALES))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunError(
            f"the weights or scales of {folder} cannot be read: {error}; give the folder of a run that is over"
        ) from error
    # the dtype of the run is not in the architecture, but all weights have it
    dtype = next(t.dtype for t in weights.values() if t.is_floating_point())
    # Built with initial weights, all of which are replaced; `fill` refuses files in which one is missing.
    network = build(structure, Seed((0, "overwritten"))).to(dtype)
    fill(network, weights)
    return Model(network, inputs, outputs, signature).eval()


def _tensors(values: Mapping[str, Tensor]) -> bytes:
    # both sides of a model may have one scale, and the file format knows no tensor twice
    return safetensors.torch.save({name: tensor.contiguous().cpu().clone() for name, tensor in values.items()})
