"""The batch size: a number, or a rule of a third party whose answer is part of the state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_sizes import EXAMPLES, PLUGIN, Halved, Product
from nasframe_growing import NodeGrowth
from nasframe_sampling import RandomSearch
from test_resume import check_resumes_everywhere
from toy import PLUGINS, toy_strategy

from nasframe import Part, Search, Strategy
from nasframe.errors import StrategyError
from nasframe.plugins import Plugins
from nasframe.records import EpochEnded, Measured
from nasframe.search.batches import batches
from nasframe.search.plan import TRIALS, Change, Restore, Train
from nasframe.testing.check import QUICK, check
from nasframe.testing.fakes import Scripted

PAGE = Path(__file__).parent.parent / "docs" / "plans.md"
ALL = Plugins((*PLUGINS.found, PLUGIN))
BOTH = ("weights", "alphas")
#: a phase in which a node grows after the first epoch, and one that tunes what is left
PLAN = (
    Train(phase="grow", parameters=BOTH, epochs=2, during=(Change(grow=True, growth=(NodeGrowth("gate"),)),)),
    Change(prune=True, derive=True),
    Train(phase="tune", epochs=1, competes=True),
    Restore(),
)


def strategy(batch: Any, **changes: Any) -> Strategy:
    """Return a search by the plan above."""
    return toy_strategy(batch=batch, plan=PLAN, growth=(), criterion=Scripted(epochs=9), **changes)


def test_the_batch_follows_the_rule() -> None:
    """It is decided at the beginning of each phase and after the changes of a phase, from the network as it is then."""
    search = Search(strategy(Product()))
    measured = [r.value for r in search if isinstance(r, Measured)]
    rows = [r for r in search.state.history if isinstance(r, EpochEnded)]

    assert [r.parameters for r in rows] == measured
    assert len({*measured}) == 3
    assert [r.batch for r in rows] == [1000 // r.parameters for r in rows]
    assert [r.batch_readings for r in rows] == [{"parameters": r.parameters} for r in rows]
    updates = [r.updates - before for r, before in zip(rows, [0, *(r.updates for r in rows)], strict=False)]
    assert updates == [len(batches(torch.arange(25), r.batch)) for r in rows]


def test_the_rule_of_the_page() -> None:
    """The example in docs/plans.md has the batch sizes of the rule above, without measuring a value."""
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, "plans.md", "exec"), names)  # noqa: S102 - the docs are ours
    searches = [Search(strategy(rule)) for rule in (names["Product"](1000), Product(1000))]
    records = [[*search] for search in searches]
    sizes = [[r.batch for r in search.state.history if isinstance(r, EpochEnded)] for search in searches]

    assert sizes[0] == sizes[1]
    assert not any(isinstance(r, Measured) for r in records[0])


def test_a_rule_resumes_at_every_event() -> None:
    """A search continues in the same bytes also from the measurement for a batch size, and within an epoch of that size."""
    assert check_resumes_everywhere(strategy(Product())) >= 15


def test_a_rule_knows_its_last_answer() -> None:
    """The answer is state: it is the next call's `previous`."""
    search = Search(strategy(Halved()))
    search.run()

    assert [r.batch for r in search.state.history if isinstance(r, EpochEnded)] == [16, 8, 4]


def test_the_comparison_has_the_last_batch_size() -> None:
    """What is trained outside of the plan has batches as large as the last phase had."""
    search = Search(strategy(Halved(), seeds=1))
    search.run()

    assert search.loop.sized(search.state).batch == 4
    assert [*search.compare()]


@pytest.mark.parametrize("batch", [50, Product(7), Halved()])
def test_a_file_has_a_number_or_a_rule(batch: Any) -> None:
    """`batch = 50` is a number as before; a rule is a table, or the name of one with defaults."""
    given = strategy(batch)
    again = Strategy.from_toml(given.to_toml(), ALL)

    assert again == given
    assert ("batch = 50\n" in given.to_toml()) == (batch == 50)
    assert Strategy.from_dict(given.to_dict() | {"batch": "halved"}, ALL).batch == Halved()


def test_a_number_needs_no_decision() -> None:
    """The batch size is that number in every record, and nothing is measured."""
    search = Search(strategy(7))
    records = [*search]

    assert {r.batch for r in records if isinstance(r, EpochEnded)} == {7}
    assert not any(isinstance(r, Measured) for r in records)


@pytest.mark.parametrize("first", [0, 2.5])
def test_a_wrong_answer_is_refused(first: float) -> None:
    """A batch has a whole number of examples."""
    with pytest.raises(StrategyError, match=r"decides .*; it must be a whole number of at least 1"):
        Search(strategy(Halved(first))).run()


@pytest.mark.parametrize("value", [0, 2.5, True, Scripted()])
def test_a_wrong_batch_is_refused(value: Any) -> None:
    """The error says what a batch size may be."""
    with pytest.raises(ValueError, match="it must be a whole number of at least 1, or a BatchSize"):
        strategy(value)


def test_trials_before_any_phase_need_a_number() -> None:
    """Nothing decides how large the batches of trials are if no phase has trained."""
    trials = toy_strategy(architect=RandomSearch(trials=1, updates=1), plan=TRIALS, growth=(), batch=Product())
    with pytest.raises(StrategyError, match="give batch a number, or let a phase of the plan train first"):
        Search(trials)


@pytest.mark.parametrize("part", [Product, Halved])
def test_the_rules_keep_the_laws(part: type[Part]) -> None:
    """They pass the laws of all parts."""
    report = check(part, examples=EXAMPLES, profile=QUICK)

    assert report.ok, report.text()
