"""A journal is appended to, keeps what was committed, and recognises what was torn or damaged."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from toy import PLUGINS, toy_strategy

from nasframe import Search
from nasframe.errors import CheckpointError, StrategyError
from nasframe.records import Finished, Record, Started
from nasframe.run.folder import Folder, Keeper
from nasframe.run.journal import Journal, Mark, from_line, read, to_line


def record(number: int) -> Record:
    return Finished(stage=0, phase="done", epoch=0, updates=number, valid=number / 3)


@given(st.lists(st.integers(0, 3), max_size=5))
@settings(max_examples=20)
def test_what_is_appended_is_read(counts: list[int]) -> None:
    """Any number of appends, of any number of records, up to any mark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tempfile.mkdtemp())
        journal, written, marks = Journal.begin(Path("journal")), [], [Mark()]
        for count in counts:
            new = [record(len(written) + i) for i in range(count)]
            journal.append(new)
            written += new
            marks.append(journal.mark)
        assert list(read(Path("journal"))) == written
        for mark in reversed(marks):  # each resume cuts off what is behind its mark
            again, records = Journal.resume(Path("journal"), mark)
            assert records == written[: mark.records]
            assert again.mark == mark
            assert Path("journal").stat().st_size == mark.bytes


@pytest.mark.parametrize("torn", [b"{", b'{"kind": "finished"', to_line(record(7))[:-5], to_line(record(7))])
def test_a_torn_tail_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    """What a process wrote after its last commit has not happened, and the next record begins a new line."""
    path = tmp_path / "journal"
    journal = Journal.begin(path)
    journal.append([record(0)])
    mark = journal.mark
    with path.open("ab") as file:
        file.write(torn)
    journal, _ = Journal.resume(path, mark)
    journal.append([record(1)])

    assert list(read(path)) == [record(0), record(1)]


def test_a_line_has_its_length_and_checksum() -> None:
    """Each line is a JSON object by itself; any changed, missing or added byte is noticed."""
    line = to_line(record(3))
    assert from_line(line) == record(3)
    assert json.loads(line)["updates"] == 3
    for place in range(len(line) - 1):
        flipped = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
        for damaged in (flipped, line[:place]):
            with pytest.raises(CheckpointError, match="torn or damaged"):
                from_line(damaged)


@pytest.mark.parametrize("damage", ["flip", "short", "gone"])
def test_a_journal_that_was_changed_is_refused(tmp_path: Path, damage: str) -> None:
    """A commit is not resumed with records other than those it was committed with."""
    path = tmp_path / "journal"
    journal = Journal.begin(path)
    journal.append([record(0), record(1)])
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if damage == "flip" else path.read_bytes()[:-1])

    with pytest.raises(CheckpointError, match="journal"):
        Journal.resume(path, journal.mark)


def test_the_cost_of_a_commit_does_not_grow(tmp_path: Path) -> None:
    """A commit after ten thousand records writes as many bytes as one after a hundred."""
    sizes = []
    for count in (100, 10_000):
        folder = Folder.create(tmp_path / str(count), toy_strategy(), PLUGINS)
        search = Search(toy_strategy())
        for _ in zip(range(8), search, strict=False):
            pass
        search.state.history += search.state.history[:1] * count
        keeper = Keeper(folder, search.strategy, search.state)
        keeper.commit()
        search.state.keep(search.state.history[0])
        before = (folder.path / "metrics.jsonl").stat().st_size
        keeper.commit()
        (newest,) = sorted((folder.path / "commits").glob("0*"))[-1:]
        sizes.append(((folder.path / "metrics.jsonl").stat().st_size - before, (newest / "tensors.safetensors").stat().st_size))
        assert (newest / "state.json").stat().st_size < 20_000

    assert sizes[0] == sizes[1]


def test_a_run_with_an_edited_strategy_is_refused(tmp_path: Path) -> None:
    """A run does not continue with another strategy than the one it was started with."""
    strategy = toy_strategy()
    folder = Folder.create(tmp_path / "run", strategy, PLUGINS)
    search, keeper = folder.search()
    for _, event in zip(range(6), search, strict=False):
        keeper(event)
    other = attrs.evolve(strategy, seed=strategy.seed + 1)
    (folder.path / "strategy.toml").write_text(other.to_toml())
    with pytest.raises(StrategyError, match=r"was changed after the run had started.*Undo the change, or start a new run"):
        folder.search()
    # what means the same is the same strategy
    (folder.path / "strategy.toml").write_text("# a comment\n" + strategy.to_toml())

    assert folder.search()[0].state.updates == search.state.updates


def test_the_lineage_begins_with_the_first_structure() -> None:
    """Every other structure follows from it and the records after it."""
    first = Search(toy_strategy()).state.lineage[0]

    assert isinstance(first, Started)
    assert first.structure["next_id"] == 5
