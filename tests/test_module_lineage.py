"""A grown model is rebuilt from a fresh instance of its class and the file of its changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_made import batch, changed, mlp
from hypothesis import given, strategies as st
from torch import nn

from nasframe.change.map import FRESH
from nasframe.errors import ChangeError
from nasframe.modules.lineage import read, rebuild


@given(data=st.data(), hidden=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_chain_of_changes_is_rebuilt(tmp_path_factory: Any, data: st.DataObject, hidden: int, seed: int) -> None:
    """After any number of changes a fresh model gets the shapes of the last one, and with its weights the same outputs."""
    path = tmp_path_factory.mktemp("lineage") / "lineage.json"
    model = mlp(hidden=hidden, norm=True, seed=seed)
    for number in range(data.draw(st.integers(1, 3))):
        size = model.inner.out_features
        extra = data.draw(st.lists(st.sampled_from([FRESH, *range(size)]), max_size=2))
        change = changed(model, [*range(size), *extra], seed=number)
        change.save(path)
        model = change.model

    fresh = mlp(hidden=hidden, norm=True, seed=seed + 1)
    before = fresh.inner.weight
    grown = rebuild(fresh, path)
    assert fresh.inner.weight is before
    assert str(grown) == str(model)
    grown.load_state_dict(model.state_dict())
    assert torch.equal(grown.eval()(batch()), model.eval()(batch()))


def saved(path: Path) -> Any:
    """Save a change of an `mlp`, and return the JSON values of the file."""
    changed(mlp(), [0, 1, 2, 3, 4, 0]).save(path)
    return json.loads(path.read_text())


def test_what_a_file_says(tmp_path: Path) -> None:
    """The file has the morphism with its options, the place, the claim and the distances, as plain JSON."""
    plain = saved(tmp_path / "lineage.json")
    (change,) = plain["changes"]

    assert change["morphism"] == {"kind": "module_morphism", "name": "by_hand", "to": 6}
    assert (change["at"], change["claim"], change["seed"]) == ("inner", "exact", 0)
    assert change["distances"]["eval"] < 1e-13
    assert plain["start"]["inner.weight"] == [5, 3]
    assert change["shapes"]["inner.weight"] == [6, 3]
    assert [*tmp_path.iterdir()] == [tmp_path / "lineage.json"]


def test_changes_are_added_in_order_only(tmp_path: Path) -> None:
    """A change whose parent is not the last model of the file is refused, and the file is as it was."""
    path = tmp_path / "lineage.json"
    saved(path)
    before = path.read_bytes()
    with pytest.raises(
        ChangeError,
        match=r"not the parent of this change: inner\.weight is \(6, 3\), and \(5, 3\) in the parent; .*earlier run, delete it",
    ):
        changed(mlp(), [0, 1, 2, 3, 4, 1]).save(path)

    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full while a change is saved, the file has its earlier changes, and nothing is left beside it."""
    path = tmp_path / "lineage.json"
    saved(path)
    before = path.read_bytes()
    model = mlp(hidden=6)
    change = changed(model, [0, 1, 2, 3, 4, 5, 0])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ChangeError, match="No space left on device"):
        change.save(path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_another_model_is_refused(tmp_path: Path) -> None:
    """A model that is not the original one, for example because it is grown already, is refused with the first tensor that differs."""
    path = tmp_path / "lineage.json"
    saved(path)
    with pytest.raises(
        ChangeError, match=r"the model is not the one at the start of .*: inner\.weight is \(6, 3\), and \(5, 3\)"
    ):
        rebuild(mlp(hidden=6), path)
    with pytest.raises(ChangeError, match=r"norm\.weight is \(5,\), and missing in the file"):
        rebuild(mlp(norm=True), path)
    with pytest.raises(ChangeError, match="cannot read the lineage"):
        rebuild(mlp(), tmp_path / "none.json")


def test_a_class_is_refused(tmp_path: Path) -> None:
    """An instance is needed, and the message says so."""
    saved(path := tmp_path / "lineage.json")
    with pytest.raises(ChangeError, match="was given the class Linear; give a new instance"):
        rebuild(nn.Linear, path)


def replaced(plain: Any, value: Any, *path: Any) -> Any:
    """Return JSON values with another value at a path of keys."""
    copied = json.loads(json.dumps(plain))
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


DAMAGED: list[tuple[tuple[Any, ...], Any, str]] = [
    (("format",), 2, "has the format 2"),
    (("changes",), {}, "its changes must be a list"),
    (("start",), [], "must have shapes"),
    (("start", "inner.weight"), [5, "3"], "must have shapes"),
    (("changes", 0, "shapes"), {"inner.weight": [7, 3]}, "change 0 of .* gives other shapes than it records"),
    (("changes", 0, "edits"), 1, "with a list of edits"),
    (("changes", 0, "edits", 0), {"edit": "exec"}, "change 0: .* is no edit"),
    (("changes", 0, "edits", 0, "shape"), [6], "change 0: .*another number of axes"),
    (("changes", 0, "edits", 0, "name"), "x.weight", "change 0: the model has no module 'x'"),
    (("changes", 0, "seed"), 1.5, "a whole number as seed"),
    (("changes", 0, "more"), 1, "must have the keys"),
]


@pytest.mark.parametrize(("keys", "value", "message"), DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, keys: tuple[Any, ...], value: Any, message: str) -> None:
    """A file with other keys, types or shapes is refused with what is wrong, and the model is as it was."""
    path = tmp_path / "lineage.json"
    path.write_text(json.dumps(replaced(saved(path), value, *keys)))
    model = mlp()
    before = str(model)
    with pytest.raises(ChangeError, match=message):
        rebuild(model, path)
    assert str(model) == before


@given(
    text=st.sampled_from(["", "[]", "null", "{}", '{"format": 1}', "{", "\ufffd", '{"format": 1, "start": {}, "changes": [3]}'])
)
def test_a_file_that_is_no_lineage_is_refused(tmp_path_factory: Any, text: str) -> None:
    """Whatever a file contains, it is refused with an error of nasframe."""
    path = tmp_path_factory.mktemp("lineage") / "lineage.json"
    path.write_text(text)
    with pytest.raises(ChangeError):
        read(path)
