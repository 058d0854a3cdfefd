"""The batch size: a number, or a rule of a third party whose answer is part of the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import pytest
import torch
from hypothesis import strategies as st
from nasframe_growing import NodeGrowth
from test_resume import check_resumes_everywhere
from toy import PLUGINS, toy_strategy

from nasframe import Context, Part, Search, Strategy, number
from nasframe.errors import StrategyError
from nasframe.interfaces.batch_size import BatchSize
from nasframe.plugins import Plugin, Plugins
from nasframe.records import EpochEnded, Measured
from nasframe.search.batches import batches
from nasframe.search.plan import Change, Restore, Train
from nasframe.testing.check import QUICK, check
from nasframe.testing.examples import Examples
from nasframe.testing.fakes import Scripted


@attrs.frozen
class Product(BatchSize):
    """The largest batch for which the number of examples times the number of parameters stays under a limit.

    Args:
        limit: the limit.
    """

    name: ClassVar[str] = "product"
    limit: int = number(1000, low=1, whole=True)

    def measure(self, context: Context) -> Mapping[str, float]:
        """Return the number of parameters of the network, which is counted once."""
        return {"parameters": context.remember("parameters", lambda: sum(p.numel() for p in context.network.parameters()))}

    def decide(self, previous: int | None, readings: Mapping[str, float]) -> int:
        """Return the quotient, and at least one example."""
        return max(1, int(self.limit // readings["parameters"]))


@attrs.frozen
class Halved(BatchSize):
    """Half of the last batch size."""

    name: ClassVar[str] = "halved"
    first: float = number(16, low=0)

    def decide(self, previous: int | None, readings: Mapping[str, float]) -> Any:
        return self.first if previous is None else previous // 2


ALL = Plugins((*PLUGINS.found, Plugin("sizes", "tests", "0", (Product, Halved))))
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
    updates = [r.updates - before for r, before in zip(rows, [0, *(r.updates for r in rows)], strict=False)]
    assert updates == [len(batches(torch.arange(25), r.batch)) for r in rows]


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
    with pytest.raises(StrategyError, match="give batch a number, or let a phase of the plan train first"):
        _ = strategy(Product()).fixed_batch


@pytest.mark.parametrize("part", [Product, Halved])
def test_the_rules_keep_the_laws(part: type[Part]) -> None:
    """They pass the laws of all parts."""
    examples = Examples(
        parts={Product: st.builds(Product, st.integers(1, 2000)), Halved: st.builds(Halved, st.integers(1, 64))}
    )
    report = check(part, examples=examples, profile=QUICK)

    assert report.ok, report.text()
