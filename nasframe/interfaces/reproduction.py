"""The interface of reproductions: results of papers that are computed again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nasframe.interfaces.part import Part

#: plain values, of which `ours` and `paper` are what is compared; `paper` is None where the paper gives nothing
Row = Mapping[str, Any]


class Reproduction(Part):
    """A result of a paper, made again, for `nasframe reproduce NAME`. Its fields are the options."""

    kind: ClassVar[str] = "reproduction"

    #: what of which paper, in one line
    about: ClassVar[str]

    @abstractmethod
    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Row]:
        """A row for each thing compared, as soon as it is there.

        Args:
            folder: for what is worth keeping between two runs of the same reproduction.
            say: takes a line about what goes on.
        """

    def draw(self, rows: Sequence[Row], folder: Path) -> Sequence[Path]:
        """MAY: the pictures of these rows, written into the folder."""
        return ()
