"""NAS-Bench-201: its networks have the published sizes, searches of any kind find cells of its space, and a table scores these."""

from __future__ import annotations

import itertools
import math
import os
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from convolutional import Blobs, image_strategy
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import (
    DenseConvolution,
    Identity,
    NasBench201,
    NasBench201Table,
    cell_architecture,
    cell_digits,
    cell_string,
)
from nasframe_growing import Epochs, Threshold
from nasframe_relaxations import HardGumbel
from nasframe_robustness import DartsPT
from nasframe_sampling import RandomSearch, RegularisedEvolution

from nasframe import Address, Optimiser, Search, Seed, Space, Strategy, Structure
from nasframe.errors import DataError, StructureError
from nasframe.interfaces.evaluator import Outcome
from nasframe.network.network import unallocated
from nasframe.records import TrialEnded
from nasframe.structure.editing import remove_from

SIZES = {"channels": 3, "classes": 10}
SUPERNET = NasBench201(1, 1).initial(SIZES, 3)
TABLE = Path(os.environ.get("NASFRAME_DATA", ".")) / "nasbench201.csv.gz"
#: the number of searches whose mean is compared with a known one
SEEDS = 20


def small(**changes: Any) -> Strategy:
    """Return a search of tiny networks for two epochs, in which the backbone derives the cell."""
    options: dict[str, Any] = {
        "task": Blobs(size=8, height=5, width=6),
        "backbone": NasBench201(channels=1, cells=1),
        "criterion": Epochs(2),
        "pruner": Threshold(below=0.0),
        "growth": (),
        "nodes": 3,
        "batch": 4,
        "optimiser": Optimiser(learning_rate=0.01, epochs=2),
    }
    return image_strategy(**(options | changes))


def test_the_cell_of_3x3_convolutions_has_the_published_number_of_parameters() -> None:
    """With 16 channels and five cells a stage it is 1.531546 million."""
    space = NasBench201(affine=True).space(NasBench201(affine=True).initial(SIZES, 3))
    assert space.size == 15625
    assert sum(p.numel() for p in unallocated(space.architecture((3,) * 6)).parameters()) == 1_531_546


@pytest.mark.parametrize(
    "changes",
    [
        {"architect": FirstOrder()},
        {"architect": FirstOrder(relaxation=HardGumbel())},
        {"plan": DartsPT(epochs=1, tuning=1, alphas=False).steps()},
    ],
    ids=["softmax", "hard_gumbel", "darts_pt"],
)
def test_searches_find_a_cell(changes: dict[str, Any]) -> None:
    """A search of alphas, or of perturbations, ends with a network that has one candidate on each of the six edges."""
    search = Search(small(**changes))
    for _ in search:
        pass
    picks = search.space.picks(search.network.structure)
    assert len(picks) == 6


def test_zero_may_be_the_strongest_candidate() -> None:
    """Each edge keeps the candidate of the largest mixing weight, also where it is zero."""
    backbone = NasBench201(channels=1, cells=1)
    supernet = backbone.initial(SIZES, 3)
    wanted = (0, 3, 1, 0, 4, 2)
    mixing = {a: torch.eye(5)[pick] for (a, _), pick in zip(supernet.sites(), wanted, strict=True)}
    architecture = remove_from(supernet, backbone.derive(supernet, mixing))
    assert wanted == backbone.space(supernet).picks(architecture)


class TestNames:
    def test_cells_have_published_names(self) -> None:
        """The digits and the description of a cell both make the same architecture, whose picks are the digits."""
        for digits in ("000000", "033124", "421211", "333132"):
            architecture = cell_architecture(SUPERNET, digits)
            assert "".join(map(str, Space(SUPERNET).picks(architecture))) == digits == cell_digits(architecture)
            assert architecture == cell_architecture(SUPERNET, cell_string(architecture))

    def test_a_removed_edge_is_none(self) -> None:
        """An edge that a pruner removed has the digit of none."""
        architecture = cell_architecture(SUPERNET, "333333")
        removed = {Address("cell/n0-n1"): {c.id for c in architecture.cell("cell").site("n0-n1").candidates}}
        assert cell_digits(remove_from(architecture, removed)) == "330333"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "33333",
            "333335",
            "|none~0|+|none~0|",
            "|skip~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
            "|0~0|+|0~0|0~1|+|0~0|0~1|0~2|",
        ],
    )
    def test_other_texts_are_refused(self, text: str) -> None:
        """What is not the name of a cell is refused with both forms of a name."""
        with pytest.raises(StructureError, match="write six digits"):
            cell_architecture(SUPERNET, text)

    def test_other_structures_are_refused(self) -> None:
        """A supernet, more nodes and other operations have no name."""
        other = NasBench201(1, 1, operations=(DenseConvolution(5), Identity()))
        architectures = [
            SUPERNET,
            Space(NasBench201().initial(SIZES, 4)).architecture((0,) * 10),
            Space(other.initial(SIZES, 3)).architecture((0,) * 6),
        ]
        for structure in architectures:
            with pytest.raises(StructureError, match="NAS-Bench-201"):
                cell_digits(structure)
        with pytest.raises(StructureError, match="does not have the cell"):
            cell_architecture(other.initial(SIZES, 3), "333333")


class TestTable:
    def file(self, folder: Path, *rows: str) -> str:
        """Write a table with the validation accuracies of some cells, and return its path."""
        path = folder / "table.csv"
        path.write_text("\n".join(["ops,cifar10_val_e12", *rows, ""]))
        return str(path)

    def outcome(self, table: NasBench201Table, digits: str) -> Outcome:
        """Return the outcome of a cell; neither data nor networks are needed."""
        bench: Any = None
        return table.evaluate(cell_architecture(SUPERNET, digits), 10, Seed((0,)), None, bench)

    def test_an_accuracy_becomes_an_error(self, tmp_path: Path) -> None:
        """The loss is the error in percent, so that a smaller one is better, and the accuracy is a score from 0 to 1."""
        table = NasBench201Table(self.file(tmp_path, "333333,84.5", "000000,10"))
        table.check(Space(SUPERNET))
        found = self.outcome(table, "333333")
        assert (found.valid, found.scores) == (15.5, {"accuracy": 0.845})

    def test_what_is_no_table_is_refused(self, tmp_path: Path) -> None:
        """A missing file, column or row, an empty table, and a number that is no accuracy are refused with what to write instead."""
        path = self.file(tmp_path, "333333,84.5")
        pinned = NasBench201Table(path).pinned()
        cases = {
            "cannot be read": NasBench201Table(str(tmp_path / "none.csv")),
            "columns 'ops' and 'speed'": NasBench201Table(path, "speed"),
            "has no row with ops 000000": NasBench201Table(path),
        }
        for message, table in cases.items():
            with pytest.raises(DataError, match=message):
                self.outcome(table, "000000")
        self.file(tmp_path)
        with pytest.raises(DataError, match="no rows"):
            NasBench201Table(path).check(Space(SUPERNET))
        self.file(tmp_path, "333333,nan")
        with pytest.raises(DataError, match="from 0 to 100"):
            self.outcome(NasBench201Table(path), "333333")
        with pytest.raises(DataError, match="has changed"):
            self.outcome(pinned, "333333")

    def test_another_space_is_refused(self, tmp_path: Path) -> None:
        """A search of cells that are not in the benchmark is refused before its first trial."""
        with pytest.raises(StructureError, match="with three nodes"):
            NasBench201Table(self.file(tmp_path, "333333,84.5")).check(Space(NasBench201().initial(SIZES, 2)))

    def test_a_search_by_trials(self, tmp_path: Path) -> None:
        """A search whose evaluator is a table returns the best cell that it drew."""
        digits = ["".join(cell) for cell in itertools.product("01234", repeat=6)]
        table = NasBench201Table(self.file(tmp_path, *(f"{cell},{cell.count('3')}" for cell in digits)))
        search = Search(small(architect=RandomSearch(trials=5, updates=1), evaluator=table))
        trials = [record for record in search if isinstance(record, TrialEnded)]
        assert max(trial.picks.count(3) for trial in trials) == cell_digits(search.network.structure).count("3")


@pytest.mark.skipif(not TABLE.is_file(), reason=f"needs the published table; set NASFRAME_DATA to the folder of {TABLE.name}")
class TestPublished:
    """The published table, which is not shipped."""

    TABLES = tuple(NasBench201Table(str(TABLE), column) for column in ("cifar10_val_e12", "cifar10_test_e200"))

    def errors(self, architecture: Structure) -> tuple[float, ...]:
        """Return the validation error of a cell, by which a search chooses, and its test error."""
        bench: Any = None
        outcomes = [table.evaluate(architecture, 1, Seed((0,)), None, bench).valid for table in self.TABLES]
        return tuple(valid for valid in outcomes if valid is not None)

    def searched(self, architect: Any, seed: Seed) -> float:
        """Return the test accuracy of the cell that an architect finds, one trial after the other."""
        space = Space(SUPERNET)
        memory, found = architect.start(space, seed("start")), []
        for number in itertools.count():
            memory, request = architect.ask(space, memory, number, seed("ask", number))
            if request is None:
                break
            found.append(self.errors(request.structure))
            picks = space.picks(request.structure)
            position: Any = {"stage": 0, "phase": "search", "epoch": number, "updates": 0}
            record = TrialEnded(**position, number=number, picks=picks, budget=1, valid=found[-1][0])
            memory = architect.tell(space, memory, record, seed("tell", number))
        return 100 - min(found)[1]

    def test_the_cell_of_3x3_convolutions(self) -> None:
        """333333 has 93.76 % on the test split of CIFAR-10."""
        assert self.errors(cell_architecture(SUPERNET, "333333"))[1] == pytest.approx(100 - 93.76)

    @pytest.mark.parametrize(
        ("architect", "expected", "spread"),
        [
            # exact expectations over draws without replacement, and their standard deviation
            (RandomSearch(trials=10), 92.578, 1.053),
            (RandomSearch(trials=100), 93.731, 0.361),
            # simulated with 500 seeds
            (RegularisedEvolution(population=10, sample=3, trials=100), 93.94, 0.36),
        ],
        ids=["random-10", "random-100", "evolution-100"],
    )
    def test_searches_find_what_is_known(self, architect: Any, expected: float, spread: float) -> None:
        """The mean test accuracy of the cell of best validation accuracy is the known one, up to three standard errors."""
        accuracies = [self.searched(architect, Seed((seed,))) for seed in range(SEEDS)]
        assert statistics.fmean(accuracies) == pytest.approx(expected, abs=3 * spread / math.sqrt(SEEDS))


def test_the_page_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of the page run one after the other."""
    page = Path(__file__).parent.parent / "docs" / "nas-bench-201.md"
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(code, page.name, "exec"), names)  # noqa: S102 - the docs are ours
    assert all(math.isfinite(float(score)) for score in capsys.readouterr().out.split())
