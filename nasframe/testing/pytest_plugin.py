"""The conformance kit in pytest: one item for each law of each part that is to be checked.

`pytest --nasframe NAME`, or a list `nasframe` of names in pytest's settings. Every run of pytest loads this module: what it
needs is imported where a check is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nasframe.testing.check import Plan
    from nasframe.testing.report import Outcome

PLAN: pytest.StashKey[Plan] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to check."""
    group = parser.getgroup("nasframe", "parts of nasframe held to the laws of its contract")
    group.addoption(
        "--nasframe",
        action="append",
        default=[],
        metavar="NAME",
        help="A distribution, a plugin or a part to check; repeatable.",
    )
    group.addoption("--nasframe-full", action="store_true", help="Many cases of each law, not a few.")
    parser.addini("nasframe", "Distributions, plugins or parts to check.", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot be checked before anything runs."""
    names = [*config.getini("nasframe"), *config.getoption("--nasframe")]
    if names:
        config.stash[PLAN] = _planned(names)


def _planned(names: list[str]) -> Plan:
    try:
        from nasframe import NasframeError
        from nasframe.plugins import discover, left_out
        from nasframe.testing.check import planned
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f'checking parts needs {error.name}: pip install "nasframe[testing]"') from error
    try:
        return planned(discover(left_out()), names)
    except NasframeError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """The checks stand behind the tests, to be chosen from like them."""
    if PLAN in config.stash:
        items.extend(session.genitems(Checks.from_parent(session, name="nasframe", nodeid="nasframe")))


class Checks(pytest.Collector):
    """All that is to be checked, in an order that does not depend on the process."""

    def collect(self) -> Iterator[pytest.Item]:
        """The laws part by part; before them, what is wrong before any law is tried."""
        from nasframe.testing.check import FULL, QUICK, tried

        plan = self.config.stash[PLAN]
        profile = FULL if self.config.getoption("--nasframe-full") else QUICK
        for told in plan.told:
            yield Check.from_parent(self, name=f"{told.law}[{told.part}]", run=lambda told=told: told)
        parts = sorted(plan.tries, key=lambda pair: str(pair[0]))  # a plugin may give its parts in a set
        short = Counter(f"{law.id}[{of.cls.name}]" for of, law in parts)
        for of, law in parts:
            name = f"{law.id}[{of.cls.name}]"
            if short[name] > 1:  # parts of several kinds, or of two plugins
                name = f"{law.id}[{of.plugin.name}-{of.cls.kind}-{of.cls.name}]"
            yield Check.from_parent(self, name=name, run=lambda of=of, law=law: tried(of, law, profile))


class Broken(Exception):  # noqa: N818 - it carries an outcome to its report
    """What is bad, in words."""


class Check(pytest.Item):
    """A law on a part."""

    def __init__(self, *, run: Callable[[], Outcome], **options: Any) -> None:
        super().__init__(**options)
        self.run = run

    def runtest(self) -> None:
        """Passed, skipped where the law says nothing, expected to fail where it is waived."""
        found = self.run()
        if found.status == "inapplicable":
            pytest.skip(found.why)
        if found.status == "waived":
            pytest.xfail(found.why)
        if found.bad:
            raise Broken(found.text())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The outcome's own words."""
        return str(excinfo.value) if isinstance(excinfo.value, Broken) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """The name stands for the place: a law on a part has no line of its own."""
        return self.path, None, f"law {self.name}"
