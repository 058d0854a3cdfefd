"""Journals: the records of a run on disk, one line each, which are only ever appended to.

Each line ends with the length and the checksum of what is before them, so that a line that was torn by a crash is
recognised. A commit holds a mark of each journal; whatever is behind the mark has not happened, and is cut off before
anything is appended.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from nasframe.errors import CheckpointError
from nasframe.records import Record, from_json, to_json
from nasframe.run.commits import write_errors

#: what separates a record from its length and checksum, within the JSON object of a line
CHECK = b', "check": "'


@attrs.frozen
class Mark:
    """A position in a journal: the bytes and records before it, and their digest."""

    bytes: int = 0
    records: int = 0
    # The digest of no bytes: an empty journal has a mark like any other.
    sha256: str = hashlib.sha256().hexdigest()


class Journal:
    """A file of records that is appended to.

    Attributes:
        path: the file.
        mark: the position of its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark = Mark()
        # continued by each append and never computed anew, so that an append costs the same however long the journal is
        self._hash = hashlib.sha256()

    @classmethod
    def begin(cls, path: Path) -> Journal:
        """Return an empty journal; what the file contains has not happened."""
        journal = cls(path)
        with write_errors(path), path.open("wb") as file:
            os.fsync(file.fileno())
        return journal

    @classmethod
    def resume(cls, path: Path, mark: Mark) -> tuple[Journal, list[Record]]:
        """Return the journal up to a mark and its records; what is behind the mark is cut off.

        Raises:
            CheckpointError: if the file is shorter than the mark, or its content is not what the mark says.
        """
        journal, records = cls(path), []
        try:
            with path.open("rb") as file:
                # what is behind the mark was appended after the commit and has not happened
                data = file.read(mark.bytes)
        except OSError as error:
            raise CheckpointError(f"the journal {path} cannot be read: {error.strerror or error}") from error
        # One pass over the file gives both the digest up to the mark and the state from which later appends continue it.
        journal._hash.update(data)
        if len(data) < mark.bytes or journal._hash.hexdigest() != mark.sha256:
            raise CheckpointError(
                f"the journal {path} is not as it was when the state was committed: it was changed or damaged"
            )
        # The digest holds, so that every line is whole. Reading them again costs time in proportion to the run, once for
        # each resume.
        records = [from_line(line) for line in data.splitlines()]
        with write_errors(path), path.open("r+b") as file:
            file.truncate(mark.bytes)
            os.fsync(file.fileno())
        journal.mark = mark
        return journal, records

    def append(self, records: Iterable[Record]) -> None:
        """Append records and flush them to the disk."""
        lines = [to_line(record) for record in records]
        if not lines:
            return
        data = b"".join(lines)
        with write_errors(self.path), self.path.open("r+b") as file:
            # a write that failed halfway (a full disk) may have left a torn line
            file.truncate(self.mark.bytes)
            file.seek(self.mark.bytes)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # only after the file was flushed: if the write fails, the mark is still that of the last whole line
        self._hash.update(data)
        self.mark = Mark(self.mark.bytes + len(data), self.mark.records + len(lines), self._hash.hexdigest())


def to_line(record: Record) -> bytes:
    """Return the line of a record: JSON with a last member `check`, the length and CRC-32 of what is before it."""
    # A checksum for each line although the journal has a digest: a reader that has no commit, such as a script that plots a
    # running search, recognises the torn last line by it.
    # Without the closing brace, so that `check` becomes the last member and the line is still valid JSON.
    body = to_json(record).encode()[:-1]
    return body + CHECK + f'{len(body)}-{zlib.crc32(body):08x}"}}\n'.encode()


def from_line(line: bytes) -> Record:
    """Return the record of a line.

    Raises:
        CheckpointError: if the line is torn or damaged.
    """
    # from the end, as an object within the record may have a member of the same name
    body, found, check = line.rpartition(CHECK)
    if not found or check.rstrip() != f'{len(body)}-{zlib.crc32(body):08x}"}}'.encode():
        raise CheckpointError(f"a line of a journal is torn or damaged: {line[:60]!r}...")
    return from_json(body.decode() + "}")


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a journal as far as they are whole.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nasframe.records import EpochEnded
        >>> with tempfile.TemporaryDirectory() as run:
        ...     path = Path(run) / "metrics.jsonl"
        ...     Journal.begin(path).append([EpochEnded(stage=0, phase="search", epoch=0, updates=9, train=0.7, valid=0.5)])
        ...     [record.valid for record in read(path)]
        [0.5]
    """
    with path.open("rb") as file:
        for line in file:
            try:
                yield from_line(line)
            except CheckpointError:
                return
