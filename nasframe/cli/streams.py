"""Keep a command going when its standard streams cannot be written: closed, without a reader, on a full disk, or ASCII only."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LenientStream:
    """A text stream that drops what it cannot write.

    A character that the stream's encoding lacks is written as an escape sequence. After the first error of the system (the
    reader of a pipe has gone, the disk is full) everything is dropped, for what is printed is not worth a run of hours.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text and return its length."""
        encoding = self.stream.encoding or "utf-8"
        with self._dropping():
            # Encoded and decoded: the text then has only characters that the stream's encoding has.
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Write buffered text to the stream."""
        with self._dropping():
            self.stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # the interpreter flushes the stream once more at its end: its descriptor leads to the null device from now on
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Make standard output and standard error lenient while the context is open."""
    # Python sets a stream to None if its descriptor was closed when the process started.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # this also takes the closed stream's descriptor, which the next file would get otherwise, and a library's
            # messages with it
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it is open until the process ends
    with contextlib.redirect_stdout(LenientStream(sys.stdout)), contextlib.redirect_stderr(LenientStream(sys.stderr)):
        yield
