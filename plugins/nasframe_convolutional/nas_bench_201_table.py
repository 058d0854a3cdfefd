"""The published names of the cells of NAS-Bench-201, and an evaluator that looks their accuracies up (Dong & Yang 2020, section 2.4)."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import attrs

from nasframe import Cell, Seed, Space, Structure
from nasframe.errors import DataError, StructureError
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe_convolutional.nas_bench_201 import OPERATIONS

#: the edges of a cell by the ids of their sites, in the published order: 0->1, 0->2, 1->2, 0->3, 1->3, 2->3
EDGES = ("input-n0", "input-n1", "n0-n1", "input-n2", "n0-n2", "n1-n2")


def cell_digits(structure: Structure) -> str:
    """Return the operations of a cell as six digits, in the order of `OPERATIONS` and `EDGES`. A removed edge counts as none.

    Raises:
        StructureError: if the structure is not the cell of an architecture of NAS-Bench-201.

    Example:
        >>> from nasframe_convolutional import NasBench201
        >>> supernet = NasBench201().initial({"channels": 3, "classes": 10}, nodes=3)
        >>> cell_digits(cell_architecture(supernet, "033124"))
        '033124'
    """
    cell = dict(structure.cells).get("cell", Cell())
    sites = {site.id: site for site in cell.sites}
    # the cell outputs its last node, which a pruner cannot have removed
    if [node.id for node in cell.nodes[-1:]] != ["n2"] or not sites.keys() <= {*EDGES} or not structure.decided:
        raise StructureError(
            f"the structure has the sites {', '.join(address for address, _ in structure.sites())}; a cell of NAS-Bench-201 has one "
            "candidate on each of six edges: take the backbone 'nas_bench_201' with three nodes, and derive an architecture"
        )
    chosen = [sites[edge].candidates[0].operation if edge in sites else OPERATIONS["none"] for edge in EDGES]
    known = [*OPERATIONS.values()]
    if foreign := [operation for operation in chosen if operation not in known]:
        raise StructureError(f"{foreign[0]!r} is no operation of NAS-Bench-201; these are {', '.join(map(repr, known))}")
    return "".join(str(known.index(operation)) for operation in chosen)


def cell_string(structure: Structure) -> str:
    """Return the published description of a cell: for each node its edges as |operation~source|.

    Raises:
        StructureError: if the structure is not the cell of an architecture of NAS-Bench-201.

    Example:
        >>> from nasframe_convolutional import NasBench201
        >>> supernet = NasBench201().initial({"channels": 3, "classes": 10}, nodes=3)
        >>> cell_string(cell_architecture(supernet, "033124"))
        '|none~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|'
    """
    return _described([[*OPERATIONS][int(digit)] for digit in cell_digits(structure)])


def _described(names: Sequence[str]) -> str:
    """Return the published description of a cell from the names of its six operations."""
    nodes = (names[:1], names[1:3], names[3:])
    return "+".join("|" + "".join(f"{name}~{source}|" for source, name in enumerate(node)) for node in nodes)


def cell_architecture(supernet: Structure, text: str) -> Structure:
    """Return the architecture of a supernet with a published cell.

    Args:
        supernet: a supernet of `NasBench201` with three nodes and all operations.
        text: the cell, as `cell_digits` or `cell_string` write it.

    Raises:
        StructureError: if the text is no such cell, or the supernet does not have it.

    Example:
        >>> from nasframe_convolutional import NasBench201
        >>> supernet = NasBench201().initial({"channels": 3, "classes": 10}, nodes=3)
        >>> architecture = cell_architecture(supernet, "033124")
        >>> [site.candidates[0].operation.name for _, site in architecture.sites()]
        ['zero', 'dense_convolution', 'dense_convolution', 'identity', 'dense_convolution', 'avg_pool']
    """
    # In the published form the edges have the order of the digits.
    published = "|" in text
    names = [part.partition("~")[0] for part in text.split("|") if "~" in part] if published else [*text]
    known = OPERATIONS if published else {str(digit): operation for digit, operation in enumerate(OPERATIONS.values())}
    complete = len(names) == len(EDGES) and {*names} <= known.keys()
    if not complete or (published and text != _described(names)):
        raise StructureError(
            f"{text!r} is no cell of NAS-Bench-201; write six digits from 0 to 4, such as 333333, or its published description, such as "
            "|none~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
        )
    sites = {site.id: [c.operation for c in site.candidates] for _, site in supernet.sites()}
    wanted = {edge: known[name] for edge, name in zip(EDGES, names, strict=True)}
    if sites.keys() != wanted.keys() or any(operation not in sites[edge] for edge, operation in wanted.items()):
        raise StructureError(
            f"the supernet does not have the cell {text!r}: take NasBench201() with three nodes and all operations"
        )
    return Space(supernet).architecture([sites[edge].index(wanted[edge]) for edge in EDGES])


@attrs.frozen
class NasBench201Table(Evaluator):
    """Look the accuracy of a cell of NAS-Bench-201 up, without a network.

    The file is CSV, may be compressed (.gz), and has a header. Its column `ops` has the cells as six digits, and other columns have
    accuracies in percent. The validation loss of a trial is 100 minus the accuracy.

    Args:
        table: the path of the file.
        column: the column with the accuracies that the search sees; by default those of the validation split of CIFAR-10 after 12 epochs.
        digest: the SHA-256 digest of the file; a file with another digest is refused.
    """

    name: ClassVar[str] = "nas_bench_201"
    table: str
    column: str = "cifar10_val_e12"
    digest: str | None = None

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the error of the cell in percent as its loss, and its accuracy as a score.

        Raises:
            DataError: if the file has no such cell.
        """
        digits = cell_digits(structure)
        if digits not in self.accuracies:
            raise DataError(f"{self.table} has no row with ops {digits}; add one, or take the whole table")
        accuracy = self.accuracies[digits]
        return Outcome(100 - accuracy, budget, {"accuracy": accuracy / 100})

    def check(self, space: Space) -> None:
        """Refuse a file that cannot be read, and a space with other cells.

        Raises:
            DataError: if the file is no such table, or an empty one.
            StructureError: if the space has other cells.
        """
        if not self.accuracies:
            raise DataError(f"{self.table} has a header and no rows; give a file with the accuracies of cells")
        for options in range(max(choice.options for choice in space.decisions)):
            cell_digits(space.architecture([min(options, choice.options - 1) for choice in space.decisions]))

    def pinned(self) -> NasBench201Table:
        """Return the same evaluator with an absolute path and the digest of the file."""
        if self.digest is not None:
            return self
        path = Path(self.table).absolute()
        return attrs.evolve(self, table=str(path), digest=hashlib.sha256(_bytes(path)).hexdigest())

    @cached_property
    def accuracies(self) -> Mapping[str, float]:
        """The accuracies in percent, by the digits of the cells.

        Raises:
            DataError: if the file cannot be read, or has another digest.
        """
        data = _bytes(Path(self.table))
        if self.digest is not None and hashlib.sha256(data).hexdigest() != self.digest:
            raise DataError(f"{self.table} has changed since the run was started; undo the change, or start a new run")
        try:
            text = (gzip.decompress(data) if self.table.endswith(".gz") else data).decode()
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return {row["ops"]: _percent(row[self.column]) for row in rows}
        except (ValueError, TypeError, KeyError, EOFError, OSError, csv.Error) as error:
            raise DataError(
                f"{self.table} cannot be read ({type(error).__name__}: {error}); it must be a CSV file with a header, whose columns "
                f"'ops' and {self.column!r} have cells as six digits and accuracies in percent"
            ) from error


def _percent(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:  # also if it is not a number
        raise ValueError(f"an accuracy is {text!r}; it must be from 0 to 100")
    return number


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"the table {path} cannot be read: {error}; give the path of a CSV file with accuracies") from error
