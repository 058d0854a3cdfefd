"""A commit is on disk whole or not at all, and what is damaged is noticed."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from full import FULL
from test_resume import digest
from toy import PLUGINS, toy_strategy

from nasframe import Search, save_model
from nasframe.errors import CheckpointError, RunError
from nasframe.records import Changed, Record, to_json
from nasframe.run import commits
from nasframe.run.commits import Commit
from nasframe.run.folder import Folder, follow
from nasframe.search.trial_state import TrialWeights

ENVIRONMENT = {"torch": "2"}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), value), "b": torch.tensor(value)}


def shared(*values: float) -> dict[str, dict[str, torch.Tensor]]:
    found = [TrialWeights.of(tensors(value)) for value in values]
    return {each.digest: dict(each.tensors) for each in found}


def commit(folder: Path, value: float) -> Path:
    # as trials do: each commit refers to a new file, and to that of the commit before
    written = Commit(f'{{"value": {value}}}', tensors(value), {}, "digest", ENVIRONMENT, shared(value, value - 1))
    return commits.write(folder, written, commits.referred(folder))


def value_of(folder: Path) -> float:
    _, found = next(commits.whole(folder, lambda text: None))
    value = float(found.tensors["b"])
    wanted = shared(value, value - 1)
    assert found.shared.keys() == wanted.keys()
    assert all(torch.equal(found.shared[d][n], t) for d, ts in wanted.items() for n, t in ts.items())
    assert torch.equal(found.tensors["a"], tensors(float(found.tensors["b"]))["a"])
    assert found.text == f'{{"value": {float(found.tensors["b"])}}}'
    return float(found.tensors["b"])


def test_the_newest_is_read_and_the_last_two_are_kept(tmp_path: Path) -> None:
    """After any number of commits the newest is read, and one more is there to fall back on."""
    for value in range(5):
        commit(tmp_path, float(value))

    assert value_of(tmp_path) == 4.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000004", "00000005", "shared"]
    assert {p.stem for p in (tmp_path / "shared").iterdir()} == shared(2.0, 3.0, 4.0).keys()


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("step", range(56))
def test_killed_at_any_step_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Whichever step of a commit a kill stops at, before or after it, the state read is the old one or the new one.

    The next commit removes what was left of it.
    """
    commit(tmp_path, 0.0)
    commit(tmp_path, 1.0)
    left = [step]

    def fatal(original):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            result = original(*args, **kwargs)
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return result

        return call

    named = ((os, "fsync"), (shutil, "rmtree"), *((Path, name) for name in ("mkdir", "rename", "replace", "unlink")))
    for target, name in named:
        monkeypatch.setattr(target, name, fatal(getattr(target, name)))
    monkeypatch.setattr(commits, "_write", fatal(commits._write))
    try:
        commit(tmp_path, 2.0)
        finished = True
    except Killed:
        finished = False
    monkeypatch.undo()
    found = value_of(tmp_path)

    assert found == 2.0 if finished else found in (1.0, 2.0)
    commit(tmp_path, 3.0)
    assert value_of(tmp_path) == 3.0
    assert [*tmp_path.rglob("*.draft")] == []


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_damage_is_noticed_and_set_aside(tmp_path: Path, file: str, damage: str) -> None:
    """One flipped bit, a file cut short, emptied or gone: the commit before is read, and the damaged one is named."""
    commit(tmp_path, 1.0)
    path = commit(tmp_path, 2.0) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes({"flip": bytes(content), "truncate": bytes(content[:-3]), "empty": b""}[damage])
    said: list[str] = []
    _, found = next(commits.whole(tmp_path, said.append))

    assert float(found.tensors["b"]) == 1.0
    assert len(said) == 1
    assert "00000002" in said[0]
    assert "set aside as 00000002.damaged" in said[0]


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_damage_of_a_shared_file_is_noticed(tmp_path: Path, damage: str) -> None:
    """The commits that refer to it are set aside; when the run comes to the same weights again, they are written again."""
    commit(tmp_path, 1.0)
    commit(tmp_path, 2.0)
    (new,) = shared(2.0)
    path = tmp_path / "shared" / f"{new}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink() if damage == "delete" else path.write_bytes(content)

    assert value_of(tmp_path) == 1.0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["00000001", "00000002.damaged", "shared"]
    commit(tmp_path, 2.0)
    assert value_of(tmp_path) == 2.0


def test_a_commit_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """It is refused and not set aside, so that the version that wrote it can go on."""
    manifest = commit(tmp_path, 1.0) / "manifest.json"
    written = manifest.read_text()
    manifest.write_text(written.replace(f'"schema": {commits.SCHEMA}', '"schema": 99'))
    with pytest.raises(RunError, match="has schema 99, and this version reads schema"):
        value_of(tmp_path)
    manifest.write_text(written)

    assert value_of(tmp_path) == 1.0


def test_nothing_whole_is_an_error(tmp_path: Path) -> None:
    """A run whose commits are all damaged says so."""
    folder = Folder.create(tmp_path / "run", toy_strategy(), PLUGINS)
    run(folder, 3)
    for manifest in (folder.path / "commits").rglob("manifest.json"):
        manifest.write_text("{}")

    with pytest.raises(CheckpointError, match="contains no commit that is whole; start the run anew"):
        folder.search()


def test_a_full_disk_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError while writing says what could not be written, and leaves the last commit."""
    commit(tmp_path, 1.0)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commits, "_write", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
        commit(tmp_path, 2.0)
    assert value_of(tmp_path) == 1.0


def run(folder: Folder, stop_after: int | None = None) -> Search:
    search, keeper = folder.search()
    keeper.every = 1
    seen: list[Record] = []

    def check() -> None:
        if len(seen) == stop_after:
            raise Killed

    with contextlib.suppress(Killed):
        follow(iter(search), keeper, seen.append, check)
    return search


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Search]:
    """Return the folder of a run and its search at the end."""
    whole = Folder.create(tmp_path_factory.mktemp("run") / "whole", toy_strategy(plan="stage"), PLUGINS)
    return whole, run(whole)


@pytest.mark.parametrize("stop_after", [1, 5, 9, 17, 23] if FULL else [5, 17])
def test_a_run_taken_up_from_its_folder(uninterrupted: tuple[Folder, Search], tmp_path: Path, stop_after: int) -> None:
    """Stopped after any event and resumed from disk, records included: the same bytes as without a stop."""
    whole, expected = uninterrupted
    strategy = expected.strategy
    broken = Folder.create(tmp_path / "broken", strategy, PLUGINS)
    run(broken, stop_after)
    # what was appended after the last commit has not happened
    for name in ("metrics.jsonl", "lineage.jsonl"):
        with (broken.path / name).open("a") as file:
            file.write('{"kind": "epoch", "torn')
    actual = run(Folder.open(broken.path, PLUGINS))
    for folder, search in ((whole, expected), (broken, actual)):
        save_model(search.model, folder.path)

    assert digest(expected.state) == digest(actual.state)
    for name in ("strategy.toml", "metrics.jsonl", "lineage.jsonl", "architecture.json", "weights.safetensors"):
        assert (whole.path / name).read_bytes() == (broken.path / name).read_bytes(), name


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """A second writer is refused while the first one is at work."""
    folder = Folder.create(tmp_path / "run", toy_strategy(), PLUGINS)

    with folder.locked(), pytest.raises(RunError, match="another process is writing to"):
        folder.locked().__enter__()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    """A folder that holds something is not overwritten, and one that is no run folder is not resumed."""
    (tmp_path / "file").write_text("precious")

    with pytest.raises(RunError, match="exists and is not an empty folder; give another --out"):
        Folder.create(tmp_path, toy_strategy(), PLUGINS)
    with pytest.raises(RunError, match=r"is no run folder: it contains no strategy\.toml"):
        Folder.open(tmp_path, PLUGINS)
    Folder.create(tmp_path / "run", toy_strategy(), PLUGINS)
    with pytest.raises(RunError, match=r"holds a run; give another --out, or continue it: nasframe resume"):
        Folder.create(tmp_path / "run", toy_strategy(), PLUGINS)


def test_another_environment_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming with another version says that the same bytes are not promised."""
    folder = Folder.create(tmp_path / "run", toy_strategy(), PLUGINS)
    run(folder, 3)
    monkeypatch.setattr(torch, "__version__", "99.0")
    said: list[str] = []
    folder.search(said.append)

    assert len(said) == 1
    assert "and is 99.0: the run continues, but the same bytes are not promised" in said[0]


def test_changes_are_in_the_lineage_without_wall_time(tmp_path: Path) -> None:
    """Every change is journalled with what, where, why, claim, distance and seed, and no record holds a clock's reading."""
    search = Search(toy_strategy())
    changes = [event for event in search if isinstance(event, Changed)]

    assert changes == search.state.lineage[1:]
    assert [r.change for r in changes] == ["grow", "grow", "restore", "remove", "restore"]
    for record in (*search.state.lineage, *search.state.history):
        assert "seconds" not in to_json(record)
    grown = [r for r in changes if r.change == "grow"]
    assert [r.stage for r in grown] == [1, 2]
    for record in grown:
        assert record.why
        assert record.claim
        assert record.seed
        assert record.distance is not None
        (candidates,) = record.added.values()
        assert abs(sum(c["mixing"] for c in candidates.values()) - 1) < 1e-12
        assert {c["operation"]["name"] for c in candidates.values()} == {"sigmoid", "tanh", "relu", "sum", "prod"}
