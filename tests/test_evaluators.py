"""Evaluators return the outcome of an architecture: by training it, or from a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from nasframe_recurrent import TwoToOne

from nasframe import Seed, Space
from nasframe.errors import DataError, StrategyError
from nasframe.interfaces.evaluator import Outcome
from nasframe.interfaces.part import to_plain
from nasframe.plugins import CORE, Plugins
from nasframe.search.evaluators import Row, Table
from nasframe.testing.check import check
from nasframe.testing.examples import Examples

BACKBONE = TwoToOne(hidden=2)
SPACE = BACKBONE.space(BACKBONE.initial({"inputs": 1, "outputs": 1}, 2))


class Bench:
    """A workbench that has the space alone."""

    space: Space = SPACE


def looked_up(table: Table, picks: tuple[int, ...], budget: int = 7) -> Outcome:
    table.check(SPACE)
    bench: Any = Bench()
    return table.evaluate(SPACE.architecture(picks), budget, Seed((0,)), None, bench)


def written(path: Path, **changes: Any) -> str:
    rows = [{"picks": [0, 1], "valid": 0.5, "scores": {"mse": 0.25}}, {"picks": [1, 1], "valid": None, "budget": 7}]
    path.write_text(json.dumps({"options": [5, 5], "rows": rows} | changes))
    return str(path)


def test_a_table_returns_its_rows(tmp_path: Path) -> None:
    """A row is found by the picks of the architecture, and by the budget if the row has one."""
    table = Table(written(tmp_path / "table.json"))

    assert (looked_up(table, (0, 1)).valid, looked_up(table, (0, 1)).scores) == (0.5, {"mse": 0.25})
    assert looked_up(table, (1, 1)).valid is None
    assert looked_up(Table.of({(2, 2): 0.125}), (2, 2), budget=1).valid == 0.125
    with pytest.raises(DataError, match=r"has no row for picks \[1, 1\] and budget 8"):
        looked_up(table, (1, 1), budget=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": [5, 4]}, r"is for a space with \[5, 4\] options, and the space of this search has \[5, 5\]"),
        ({"options": None}, "is no table"),
        ({"rows": [{"picks": [0], "valid": 1}]}, "row 0 of the table .* has picks"),
        ({"rows": [{"picks": [0, 5], "valid": 1}]}, "row 0 of the table .* has picks"),
        ({"rows": [{"picks": [0, -1], "valid": 1}]}, "a pick is -1"),
        ({"rows": [{"picks": [0, 1.5], "valid": 1}]}, "a pick is 1.5"),
        ({"rows": [{"picks": [0, 1]}]}, "KeyError: 'valid'"),
        ({"rows": [{"picks": [0, 1], "valid": "low"}]}, "is no table"),
        ({"rows": [{"picks": [0, 1], "valid": float("nan")}]}, "NaN is not JSON"),
        ({"rows": [{"picks": [0, 1], "valid": 1, "loss": 1}]}, "a row has loss"),
        ({"rows": [{"picks": [0, 1], "valid": 1}] * 2}, r"two rows for picks \[0, 1\] and budget None"),
    ],
)
def test_a_wrong_table_is_refused_before_the_first_trial(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(DataError, match=message):
        Table(written(tmp_path / "table.json", **changes)).check(SPACE)


def test_a_pinned_table_notices_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the same file from any folder, and refuses another content."""
    written(tmp_path / "table.json")
    monkeypatch.chdir(tmp_path)
    pinned = Table("table.json").pinned()
    monkeypatch.chdir("/")

    assert looked_up(pinned, (0, 1)).valid == 0.5
    assert pinned.pinned() == pinned
    written(tmp_path / "table.json", rows=[{"picks": [0, 1], "valid": 0.25}])
    changed = Table(pinned.file, digest="0" * 64)
    with pytest.raises(DataError, match="has changed since the run was started"):
        changed.check(SPACE)
    with pytest.raises(DataError, match="cannot be read"):
        Table("nowhere.json").check(SPACE)


def test_a_table_survives_a_strategy_file() -> None:
    """Its description makes an equal table."""
    table = Table(rows=(Row((0, 1), 0.5, 7, (("mse", 0.25),)), Row((1, 1))))

    assert Plugins((CORE,)).make("evaluator", json.loads(json.dumps(to_plain(table)))) == table
    with pytest.raises(StrategyError, match="a table has either a file or rows"):
        Plugins((CORE,)).make("evaluator", "table")


def test_an_evaluator_of_another_space_has_no_faults() -> None:
    """Laws about evaluating do not apply to an evaluator that refuses the spaces of the kit, and the others hold."""
    examples = Examples(parts={Table: st.just(Table(rows=(Row((7,), 0.5),)))})
    found = {outcome.law: outcome.status for outcome in check(Table, examples=examples).outcomes}

    assert {law: status for law, status in found.items() if status != "passed"}.keys() >= {
        "evaluator.outcome",
        "evaluator.budget",
    }
    assert {*found.values()} == {"passed", "inapplicable"}
    assert found["part.described"] == "passed"
