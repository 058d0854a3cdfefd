"""Commits: the state on disk, whole or not at all.

A commit is a folder of its own: state.json, tensors.safetensors, and a manifest with the digest of both. It is written
under another name, flushed and renamed, and never changed afterwards. The newest one whose digests hold is the one to
resume from; no pointer is trusted, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nasframe.errors import CheckpointError, RunError

SCHEMA = 1
KEPT = 2
MANIFEST = "manifest.json"


@attrs.frozen
class Commit:
    """A commit that was read: the state's JSON, its tensors, and the environment that wrote it."""

    text: str
    tensors: Mapping[str, Tensor]
    environment: Mapping[str, str]


def write(folder: Path, text: str, tensors: Mapping[str, Tensor], environment: Mapping[str, str]) -> Path:
    """Commit a state after those that are there, and remove all but the last few."""
    files = {"state.json": text.encode(), "tensors.safetensors": safetensors.torch.save(dict(tensors))}
    digests = {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()}
    manifest = {"schema": SCHEMA, "environment": dict(environment), "files": digests}
    files[MANIFEST] = json.dumps(manifest, indent=1).encode()
    with speaking(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{_next_number(folder):08d}"
        draft = folder / f"{target.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name, data in files.items():
            _write(draft / name, data)
        _sync_folder(draft)
        draft.rename(target)
        _sync_folder(folder)
        for old in _numbered(folder)[:-KEPT]:
            shutil.rmtree(old)
    return target


def newest(folder: Path, warn: Callable[[str], None]) -> Commit:
    """The newest commit that is whole. One that is not is set aside, and `warn` is told."""
    for path in reversed(_numbered(folder)):
        try:
            return read(path)
        except CheckpointError as error:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            warn(f"{error}; it was set aside as {aside.name}")
    raise CheckpointError(f"{folder} holds no commit that is whole; the search has to be started anew")


def read(path: Path) -> Commit:
    """The commit in this folder, its digests checked first."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["schema"] != SCHEMA:
            raise CheckpointError(f"{path} has schema {manifest['schema']!r}; this version reads schema {SCHEMA}")
        data = {name: (path / name).read_bytes() for name in ("state.json", "tensors.safetensors")}
        for name, content in data.items():
            expected, found = manifest["files"][name]["sha256"], _sha256(content)
            if expected != found:
                raise CheckpointError(f"{path / name} is damaged: its digest is {found[:12]}, not {expected[:12]}")
        tensors = safetensors.torch.load(data["tensors.safetensors"])
        return Commit(data["state.json"].decode(), tensors, manifest["environment"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a commit ({type(error).__name__}: {error})") from error


def environment(plugins: Mapping[str, str]) -> dict[str, str]:
    """What the promise of the same bytes rests on, beside the strategy: torch and the plugins."""
    return {"torch": torch.__version__, **plugins}


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by this content, whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    with speaking(path):
        _write(draft, data)
        draft.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def speaking(path: Path) -> Iterator[None]:
    """Turn an OSError while writing to `path` into an error that says what could not be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was committed before is kept") from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and p.name.isdigit())


def _next_number(folder: Path) -> int:
    # a number that was set aside as damaged is not given again
    taken = [int(p.name.split(".")[0]) for p in folder.glob("*") if p.name.split(".")[0].isdigit()]
    return max(taken, default=0) + 1


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
