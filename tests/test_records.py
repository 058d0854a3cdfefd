"""Records are JSON values, and what is written is read as an equal record."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nasframe.errors import CheckpointError
from nasframe.records import (
    KINDS,
    Alternative,
    Changed,
    EpochEnded,
    Evaluated,
    Finished,
    Measured,
    Record,
    Refused,
    StageEnded,
    Started,
    Stepped,
    from_json,
    to_json,
)

NUMBERS = st.none() | st.floats()
WHOLE = st.integers(0, 2**40)
TEXT = st.text(max_size=8)
SCORES = st.dictionaries(TEXT, NUMBERS, max_size=3)
SIZES = st.dictionaries(TEXT, WHOLE, max_size=3)
WEIGHTS = st.dictionaries(TEXT, st.dictionaries(TEXT, st.floats(), max_size=2), max_size=2)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda values: st.lists(values, max_size=2) | st.dictionaries(TEXT, values, max_size=2),
    max_leaves=6,
)
TABLES = st.dictionaries(TEXT, PLAIN, max_size=3)
CANDIDATES = st.dictionaries(TEXT, st.dictionaries(TEXT, TABLES, max_size=2), max_size=2)
PLACE: dict[str, Any] = {"stage": WHOLE, "phase": TEXT, "epoch": WHOLE, "updates": WHOLE}
MAYBE = st.none() | TEXT
ENDED: dict[str, Any] = {"nodes": SIZES, "parameters": WHOLE, "decision": MAYBE, "reason": MAYBE}
RECORDS = st.one_of(
    st.builds(Stepped, **PLACE, samples=WHOLE, size=WHOLE, loss=NUMBERS),
    st.builds(
        EpochEnded, **PLACE, **ENDED, train=NUMBERS, valid=NUMBERS, diverged=st.booleans(), scores=SCORES, mixing=WEIGHTS
    ),
    st.builds(StageEnded, **PLACE, **ENDED, valid=NUMBERS),
    st.builds(Refused, **PLACE, by=TEXT, why=TEXT),
    st.builds(Started, **PLACE, structure=TABLES),
    st.builds(
        Changed,
        **PLACE,
        change=TEXT,
        by=TEXT,
        why=TEXT,
        request=TABLES,
        claim=st.none() | TABLES,
        distance=NUMBERS,
        evidence=st.dictionaries(TEXT, TEXT, max_size=2),
        added=CANDIDATES,
        removed=CANDIDATES,
        valid_before=NUMBERS,
        valid_after=NUMBERS,
        predicted=NUMBERS,
        realised=NUMBERS,
        alternatives=st.lists(st.builds(Alternative, TEXT, TEXT, TEXT, st.floats(0, 1), NUMBERS), max_size=2),
        parent=TEXT,
        child=TEXT,
        seed=st.lists(WHOLE | TEXT, max_size=3),
        nodes=SIZES,
        parameters=WHOLE,
        counts=SIZES,
    ),
    st.builds(Measured, **PLACE, by=TEXT, key=TEXT, value=NUMBERS),
    st.builds(Finished, **PLACE, valid=NUMBERS, diverged=st.booleans()),
    st.builds(Evaluated, **PLACE, number=WHOLE, name=TEXT, structure=st.none() | TABLES, valid=NUMBERS, scores=SCORES),
)


@given(RECORDS)
def test_a_record_survives_json(record: Record) -> None:
    """The record that is read equals the one that was written, and strict JSON accepts the text."""
    text = to_json(record)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    assert from_json(text) == record
    assert type(from_json(text)) is type(record)


@given(st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_number_that_is_not_finite_is_none(value: float) -> None:
    """JSON has no NaN and no Infinity. Mixing weights of a site that are not finite are left out."""
    mixing = {"one": {"0 tanh": 0.5, "1 sum": value}, "other": {"2 sum": 0.5}}
    tables: dict[str, Any] = {"scores": {"mse": value}, "mixing": mixing}
    record = EpochEnded(stage=0, phase="search", epoch=0, updates=1, train=value, valid=value, **tables)

    assert (record.train, record.valid, record.scores) == (None, None, {"mse": None})
    assert record.mixing == {"other": {"2 sum": 0.5}}


def test_each_kind_has_one_class() -> None:
    """The kinds are the names in JSON, and each class says which journal keeps it."""
    assert {cls.kind for cls in KINDS.values()} == set(KINDS)
    assert {kind: cls.journal for kind, cls in KINDS.items()} == {
        "step": None,
        "measured": None,
        "epoch": "history",
        "stage": "history",
        "refused": "history",
        "start": "lineage",
        "change": "lineage",
        "finished": None,
        "arrival": None,
        "trial": "trials",
        "evaluation": "evaluations",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "epoch"}', '{"kind": "nothing"}', "[" * 5000, '{"kind": ["a"]}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    """Text that is no record is a CheckpointError."""
    with pytest.raises(CheckpointError, match="is not a record of a run"):
        from_json(text)
