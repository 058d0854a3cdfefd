"""Commits: the state of a run on disk, whole or not at all.

A commit is a folder with state.json, tensors.safetensors and a manifest with the digests of both. It is written under
another name, flushed and renamed, and never changed afterwards. The newest one whose digests hold is the one to resume
from; no pointer is trusted, and nothing is unpickled. A commit does not contain the records of the run but the marks of
its journals, so that its cost does not grow with the length of the run. What never changes, such as the weights of a trial, is written
once, in a file that has its digest as its name and that commits refer to; a file that no commit refers to is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import attrs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nasframe.errors import CheckpointError, RunError
from nasframe.search.trial_state import packed

# Raised when the content of a commit changes its meaning: an old commit is then refused and not misread.
SCHEMA = 4
KEPT = 2
MANIFEST = "manifest.json"
#: the folder of the files that commits refer to
SHARED = "shared"


@attrs.frozen
class Commit:
    """A commit that was read.

    Attributes:
        text: the JSON of the state.
        tensors: its tensors.
        marks: the positions of the journals.
        strategy: the digest of the strategy of the run.
        environment: the versions of what wrote it.
        shared: the contents of the files that it refers to, by their digest (SHA-256).
    """

    text: str
    tensors: Mapping[str, Tensor]
    marks: Mapping[str, Mapping[str, Any]]
    strategy: str
    environment: Mapping[str, str]
    shared: Mapping[str, Mapping[str, Tensor]] = attrs.field(factory=dict)


def write(folder: Path, commit: Commit, present: Set[str] = frozenset()) -> Path:
    """Write a commit after those that exist, and remove all but the last few.

    Args:
        folder: where the commits are.
        commit: what to write.
        present: the digests of the shared files that need not be written, because this process has written or read them.
    """
    # Everything is serialised before anything is written, so that a state that cannot be written leaves no trace.
    files = {"state.json": commit.text.encode(), "tensors.safetensors": safetensors.torch.save(dict(commit.tensors))}
    digests = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()}
    manifest = {
        "schema": SCHEMA,
        "environment": dict(commit.environment),
        "strategy": commit.strategy,
        "journals": dict(commit.marks),
        "shared": [*commit.shared],
        "files": digests,
    }
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # before the commit that refers to them
        for digest, tensors in commit.shared.items():
            if digest not in present:
                (folder / SHARED).mkdir(exist_ok=True)
                write_file(_shared(folder, digest), packed(tensors))
        target = folder / f"{_next_number(folder):08d}"
        draft = folder / f"{target.name}.draft"
        # What is left of a process that was killed while it wrote a commit.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name, data in files.items():
            _write(draft / name, data)
        # A file that is flushed can still be missing after a power cut if the entry of its name was not.
        _sync_folder(draft)
        # renaming is atomic: a commit is there with all of its files, flushed, or not at all
        draft.rename(target)
        # the new name has to be on the disk before older commits are removed
        _sync_folder(folder)
        # one older commit is kept for the case that the newest one is damaged later
        for old in _numbered(folder)[:-KEPT]:
            shutil.rmtree(old)
        needed = referred(folder)
        for path in (folder / SHARED).glob("*"):
            if path.stem not in needed:
                path.unlink()
    return target


def referred(folder: Path) -> Set[str]:
    """Return the digests of the shared files that the commits in a folder refer to."""
    found: set[str] = set()
    for path in _numbered(folder):
        # a commit that was damaged meanwhile is set aside when somebody reads it, and needs nothing
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found |= {*json.loads((path / MANIFEST).read_bytes())["shared"]}
    return found


def begun(folder: Path) -> bool:
    """Return whether there was ever a commit in a folder; a draft is a commit that was interrupted."""
    # A commit that was set aside counts: a run whose commits are all damaged must not begin again as if nothing had been there.
    return any(path.suffix != ".draft" and path.name != SHARED for path in folder.glob("*"))


def whole(folder: Path, warn: Callable[[str], None]) -> Iterator[tuple[Path, Commit]]:
    """Yield the commits whose digests hold, the newest first; the others are set aside."""
    for path in reversed(_numbered(folder)):
        try:
            commit = read(path)
        except CheckpointError as error:
            set_aside(path, error, warn)
            continue
        yield path, commit


def set_aside(path: Path, error: CheckpointError, warn: Callable[[str], None]) -> None:
    """Rename a commit that cannot be resumed from, so that nobody reads it again, and report why."""
    # renamed and not removed: it is evidence of what went wrong
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    warn(f"{error}; it was set aside as {aside.name}")


def read(path: Path) -> Commit:
    """Return the commit in a folder.

    Raises:
        CheckpointError: if a file is missing, or its digest is not that of the manifest.
        RunError: if another version of nasframe wrote it.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        # First of all: in another schema no other entry need mean the same.
        if manifest["schema"] != SCHEMA:
            # no CheckpointError, so that the commit is not set aside: the version that wrote it can resume the run
            raise RunError(
                f"{path} has schema {manifest['schema']!r}, and this version reads schema {SCHEMA}; resume the run with the version "
                "of nasframe that it was started with"
            )
        data = {name: (path / name).read_bytes() for name in ("state.json", "tensors.safetensors")}
        for name, content in data.items():
            expected, found = manifest["files"][name]["sha256"], _sha256(content)
            if expected != found:
                raise CheckpointError(f"{path / name} is damaged: its digest is {found[:12]}, not {expected[:12]}")
        # from the bytes whose digest was checked, and not from the file, which could change in between
        tensors = safetensors.torch.load(data["tensors.safetensors"])
        # What the bytes mean is checked by `state.load`; here they are only known to be those that were written.
        text = data["state.json"].decode()
        shared = {digest: _read_shared(_shared(path.parent, digest)) for digest in manifest["shared"]}
        return Commit(text, tensors, manifest["journals"], manifest["strategy"], manifest["environment"], shared)
    # Whatever a damaged or foreign file may cause: a manifest that is no JSON, one without a key, or with a list for a
    # table.
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a commit ({type(error).__name__}: {error})") from error


def _shared(folder: Path, digest: str) -> Path:
    return folder / SHARED / f"{digest}.safetensors"


def _read_shared(path: Path) -> Mapping[str, Tensor]:
    data = path.read_bytes()
    if (found := _sha256(data)) != path.stem:
        raise CheckpointError(f"{path} is damaged: its digest is {found[:12]}, not {path.stem[:12]}")
    return safetensors.torch.load(data)


def environment(plugins: Mapping[str, str]) -> dict[str, str]:
    """Return what equal bytes depend on beside the strategy: torch, the vector instructions, and the plugins."""
    # Kernels for other vector instructions add in another order, and round otherwise.
    return {"torch": torch.__version__, "cpu capability": torch.backends.cpu.get_cpu_capability(), **plugins}


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by this content, whole or not at all."""
    # In the same folder, because a file is replaced in one step within a file system only.
    draft = path.with_name(f"{path.name}.draft")
    with write_errors(path):
        _write(draft, data)
        draft.replace(path)
        # the rename itself has to reach the disk
        _sync_folder(path.parent)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing to `path` into an error that says what could not be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # POSIX flushes a folder through its descriptor; there is no such call on a path.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(folder: Path) -> list[Path]:
    # The numbers have leading zeros, so that the order of the names is that of the numbers.
    return sorted(p for p in folder.glob("*") if p.is_dir() and p.name.isdigit())


def _next_number(folder: Path) -> int:
    # a number that was set aside as damaged is not given again; that of a draft is, so that the next commit replaces it
    taken = [int(p.name.split(".")[0]) for p in folder.glob("*") if p.name.split(".")[0].isdigit() and p.suffix != ".draft"]
    return max(taken, default=0) + 1


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
