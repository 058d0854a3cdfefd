"""Third-party architects that propose: the same bytes with one worker and with three, and from every event."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from asking import asking, check_resumes_everywhere, run, shuffle
from controller import Controller
from full import FULL
from halving import Halving
from hypothesis import strategies as st
from inheriting import Inheriting
from nasframe_sampling import RandomSearch
from test_layers import FOLDERS, MODULES, imports
from test_resume import digest

from nasframe import AskTellArchitect, Search
from nasframe.plugins import Plugins, discover, installed
from nasframe.search.evaluators import Table
from nasframe.testing.check import QUICK, check
from nasframe.testing.examples import Examples

PROFILE = QUICK if FULL else attrs.evolve(QUICK, cases=1)
ARCHITECTS: list[Any] = [Inheriting(), Controller(), Halving(RandomSearch())]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """The installed plugins and that of the third party, which worker processes find in the same way."""
    installed()  # the process must not remember a plugin that this test alone installs
    info = tmp_path / "proposers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: proposers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nasframe]\nproposers = proposers\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(Path(__file__).parent), *sys.path])
    return discover()


@pytest.mark.parametrize("architect", ARCHITECTS, ids=lambda a: a.name)
def test_they_use_public_names_in_less_than_a_screen(architect: AskTellArchitect) -> None:
    """Each takes fewer than 80 lines."""
    path = Path(inspect.getfile(type(architect)))

    assert len(path.read_text().splitlines()) < 80
    for module, name in imports(path):
        if module.split(".")[0] == "nasframe":
            assert module in MODULES or module.split(".")[1] in FOLDERS, module
            assert name is None or not name.startswith("_"), name


@pytest.mark.parametrize("architect", ARCHITECTS, ids=lambda a: a.name)
def test_they_fulfil_the_laws(architect: AskTellArchitect) -> None:
    """The conformance kit finds no fault."""
    report = check(type(architect), examples=Examples(parts={type(architect): st.just(architect)}), profile=PROFILE)

    assert report.ok, report.text()


@pytest.mark.parametrize("architect", ARCHITECTS, ids=lambda a: a.name)
def test_the_same_bytes_with_one_and_three_workers(architect: AskTellArchitect, plugins: Plugins) -> None:
    """Processes change the order in which results arrive, and nothing else."""
    strategy = asking(architect)
    one, three = Search(strategy), Search(strategy)
    run(one, plugins=plugins)
    run(three, plugins=plugins, workers=3)

    assert digest(one.state) == digest(three.state)


@pytest.mark.parametrize("architect", ARCHITECTS, ids=lambda a: a.name)
def test_the_same_bytes_from_every_event(
    architect: AskTellArchitect, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search resumed at any event, also between an arrival and its turn, ends in the same bytes."""
    shuffle(monkeypatch)
    check_resumes_everywhere(asking(architect), plugins)


def test_halving_doubles_the_budget_of_the_better_half() -> None:
    """Each rung has half of the trials and twice the budget, and continues from the weights of its members."""
    search = Search(asking(Halving(RandomSearch(), width=4, updates=3)))
    run(search)
    trials = search.state.trials

    assert [trial.budget for trial in trials] == [3, 3, 3, 3, 6, 6, 12]
    assert [trial.parent is None for trial in trials] == [True] * 4 + [False] * 3
    assert {trial.parent for trial in trials[4:6]} == set(sorted(range(4), key=lambda n: trials[n].valid or 9e9)[:2])
    assert trials[-1].best


def test_the_controller_learns() -> None:
    """What is rewarded becomes more probable."""
    controller = Controller(trials=60, updates=1)
    values = {(a, b, c): float(a != 2) for a in range(5) for b in range(5) for c in range(5)}
    search = Search(asking(controller, evaluator=Table.of(values)))
    run(search)
    late = [trial.picks[0] for trial in search.state.trials[40:]]

    assert late.count(2) > 10
