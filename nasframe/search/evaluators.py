"""The evaluators that come with the core: training, and a table of outcomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs

from nasframe.errors import DataError
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe.options import nested
from nasframe.records import finite
from nasframe.seeds import Seed
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure


@attrs.frozen
class Train(Evaluator):
    """Train the architecture for `budget` updates, from the weights of its parent if it has one.

    The strategy's optimiser and batch size are used. It trains whole epochs, so that the budget is rounded up to these. The outcome is
    the least validation loss of an epoch.
    """

    name: ClassVar[str] = "train"

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the outcome of a training."""
        # The initial weights have another key than the training, so that a part that draws more numbers in one does not
        # shift the other.
        return bench.train(bench.build(structure, seed("build"), parent), budget, seed)


@attrs.frozen
class Row:
    """A row of a table.

    Attributes:
        picks: the architecture (see `nasframe.Space`).
        valid: its validation loss, or another number that is smaller for a better architecture; None if it diverged.
        budget: the budget that the row is valid for; None for any.
        scores: pairs of the name and the value of a metric on the validation split.
    """

    picks: tuple[int, ...]
    valid: float | None = attrs.field(default=None, converter=finite)
    budget: int | None = None
    scores: tuple[tuple[str, float], ...] = ()


@attrs.frozen
class Table(Evaluator):
    """Look the outcome up in a table, without a network.

    A table file is JSON: `options`, the number of options of each decision of the space, and `rows`, a list of objects with
    `picks`, `valid` and, optionally, `budget` and `scores`.

    Args:
        file: the path of the table.
        rows: the rows, in the place of a file.
        digest: the SHA-256 digest of the file; a file with another digest is refused.

    Raises:
        ValueError: if not exactly one of `file` and `rows` is given.
    """

    name: ClassVar[str] = "table"
    file: str | None = None
    rows: tuple[Row, ...] = nested(Row, default=())
    digest: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.file is None) == (not self.rows):
            raise ValueError("a table has either a file or rows; give one of them")

    @classmethod
    def of(cls, outcomes: Mapping[Sequence[int], float | None]) -> Table:
        """Return the table of a mapping from picks to validation losses.

        Example:
            >>> Table.of({(0, 1): 0.5, (1, 1): 0.25}).rows[1].valid
            0.25
        """
        return cls(rows=tuple(Row(tuple(picks), valid) for picks, valid in outcomes.items()))

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the outcome that the table has for the architecture and the budget.

        Raises:
            DataError: if it has none.
        """
        picks, index = bench.space.picks(structure), self._index
        # A row for exactly this budget is preferred to one for all budgets.
        row = index.get((picks, budget), index.get((picks, None)))
        if row is None:
            raise DataError(f"{self._where} has no row for picks {[*picks]} and budget {budget}; add one, or change the budget")
        return Outcome(row.valid, budget, dict(row.scores))

    def check(self, space: Space) -> None:
        """Refuse a table that was made for another space, or that is not valid.

        Raises:
            DataError: the message says which row is wrong, and why.
        """
        options = [choice.options for choice in space.decisions]
        # All rows are checked before the search begins, as a wrong row might be needed after hours only.
        given, rows = self._content
        if given is not None and list(given) != options:
            raise DataError(
                f"{self._where} is for a space with {list(given)} options, and the space of this search has {options}: choose the "
                "backbone, its operations and the number of nodes that the table was made for"
            )
        for number, row in enumerate(rows):
            fits = len(row.picks) == len(options)
            if not fits or not all(0 <= pick < most for pick, most in zip(row.picks, options, strict=True)):
                raise DataError(f"row {number} of {self._where} has picks {[*row.picks]}; the decisions have {options} options")
        assert len(self._index) == len(rows), "a row that occurs twice is refused"

    def pinned(self) -> Table:
        """Return the same table with an absolute path and the digest of the file."""
        if self.file is None or self.digest is not None:
            return self
        # A run may be resumed from another folder, and a table that has changed since would give other outcomes.
        path = Path(self.file).absolute()
        return attrs.evolve(self, file=str(path), digest=hashlib.sha256(_bytes(str(path))).hexdigest())

    @property
    def _where(self) -> str:
        return "the table" if self.file is None else f"the table {self.file}"

    @cached_property
    def _content(self) -> tuple[tuple[int, ...] | None, tuple[Row, ...]]:
        """The numbers of options, which a table without a file does not say, and the rows."""
        return (None, self.rows) if self.file is None else _read(self.file, self.digest)

    @cached_property
    def _index(self) -> Mapping[tuple[tuple[int, ...], int | None], Row]:
        """The rows by their picks and budget."""
        found: dict[tuple[tuple[int, ...], int | None], Row] = {}
        for row in self._content[1]:
            # by `is`, as two equal rows are a duplicate, too
            if found.setdefault((row.picks, row.budget), row) is not row:
                raise DataError(
                    f"{self._where} has two rows for picks {[*row.picks]} and budget {row.budget}; remove one of them"
                )
        return found


def _read(file: str, digest: str | None) -> tuple[tuple[int, ...], tuple[Row, ...]]:
    """Return the numbers of options and the rows of a file."""
    data = _bytes(file)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"the table {file} has changed since the run was started; undo the change, or start a new run")
    try:
        # Python reads NaN and Infinity, which are not JSON.
        values = json.loads(data, parse_constant=_refused)
        options = tuple(_whole(n, "a number of options") for n in values["options"])
        return options, tuple(_row(row) for row in values["rows"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is no table ({type(error).__name__}: {error}); write `options` and `rows` as JSON") from error


def _row(values: Mapping[str, Any]) -> Row:
    # A misspelt optional key would be ignored otherwise, and its value with it.
    if unknown := values.keys() - {f.name for f in attrs.fields(Row)}:
        raise ValueError(f"a row has {', '.join(sorted(unknown))}; it may have picks, valid, budget and scores")
    # `valid` must be there: null says that the training diverged, and a row without it is a mistake
    budget, valid = values.get("budget"), values["valid"]
    return Row(
        tuple(_whole(pick, "a pick") for pick in values["picks"]),
        None if valid is None else float(valid),
        None if budget is None else _whole(budget, "a budget"),
        tuple((str(name), float(value)) for name, value in values.get("scores", {}).items()),
    )


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 0")
    return value


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON; write null for a training that diverged")


def _bytes(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"the table {file} cannot be read: {error}") from error
