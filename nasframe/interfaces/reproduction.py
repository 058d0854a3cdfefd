"""The interface of reproductions, which compute results of papers again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from nasframe.interfaces.part import Part

#: JSON values by name; `ours` and `paper` are compared, and `paper` is None where the paper gives no number
Row = Mapping[str, Any]


class Reproduction(Part):
    """Base class of reproductions: results of papers that `nasframe reproduce NAME` computes again.

    Required: `name`, `about` and `rows`. Optional: `draw`.
    """

    kind: ClassVar[str] = "reproduction"

    #: what is reproduced, and of which paper, in one line
    about: ClassVar[str]

    @abstractmethod
    def rows(self, folder: Path, say: Callable[[str], None]) -> Iterator[Row]:
        """Yield a row for each number that is compared, as soon as it is computed.

        Args:
            folder: a folder for intermediate results, which another run of the same reproduction can use.
            say: a function that shows a line about the progress.
        """

    def draw(self, rows: Sequence[Row], folder: Path) -> Sequence[Path]:
        """Write pictures of the rows into the folder, and return their paths. Optional."""
        return ()
