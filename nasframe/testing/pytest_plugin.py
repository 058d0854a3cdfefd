"""Check parts in pytest: one test for each law of each part.

`pytest --nasframe NAME` runs the checks, and so does a list `nasframe` of names in the settings of pytest. Every run of pytest
loads this module, so it imports nothing else of nasframe until there is something to check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nasframe.testing.check import Plan
    from nasframe.testing.law import Law
    from nasframe.testing.report import Outcome
    from nasframe.testing.subject import Subject

PLAN: pytest.StashKey[Plan] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select what to check."""
    group = parser.getgroup("nasframe", "check parts of nasframe against the laws of their interfaces")
    group.addoption(
        "--nasframe",
        action="append",
        default=[],
        metavar="NAME",
        help="A distribution, a plugin or a part to check; repeatable.",
    )
    group.addoption("--nasframe-full", action="store_true", help="Try many cases of each law.")
    parser.addini("nasframe", "Distributions, plugins or parts to check.", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Plan the checks, and refuse unknown names before any test runs."""
    names = [*config.getini("nasframe"), *config.getoption("--nasframe")]
    if names:
        config.stash[PLAN] = _planned(names)


def _planned(names: list[str]) -> Plan:
    try:
        from nasframe import NasframeError
        from nasframe.plugins import discover, left_out
        from nasframe.testing.check import planned
    except ModuleNotFoundError as error:
        raise pytest.UsageError(
            f'checking parts needs {error.name}: pip install ".[testing]" in the checkout of nasframe'
        ) from error
    try:
        return planned(discover(left_out()), names)
    except NasframeError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Append the checks to the tests, before `-k` selects among both."""
    if PLAN in config.stash:
        items.extend(session.genitems(Checks.from_parent(session, name="nasframe", nodeid="nasframe")))


class Checks(pytest.Collector):
    """The checks, in an order that does not depend on the process."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield the problems that are found before any law is tried, then the parts."""
        plan = self.config.stash[PLAN]
        for problem in plan.problems:
            yield Check.from_parent(self, name=f"{problem.law}[{problem.part}]", run=lambda problem=problem: problem)
        laws: dict[Subject, list[Law]] = {}
        for of, law in sorted(plan.tries, key=lambda pair: str(pair[0])):  # a plugin may return its parts as a set
            laws.setdefault(of, []).append(law)
        short = Counter(of.cls.name for of in laws)
        for of in laws:
            name: str = of.cls.name
            if short[name] > 1:  # parts of several kinds, or of two plugins
                name = f"{of.plugin.name}-{of.cls.kind}-{name}"
            yield Laws.from_parent(self, name=name, of=of, laws=laws[of])


class Laws(pytest.Collector):
    """The laws of one part.

    They are tried on the same trained networks, which each process has to train. With `--dist loadscope` pytest-xdist runs the tests
    of a collector in one process.
    """

    def __init__(self, *, of: Subject, laws: list[Law], **options: Any) -> None:
        super().__init__(**options)
        self.of, self.laws = of, laws

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each law of the part."""
        from nasframe.testing.check import FULL, QUICK, tried

        profile = FULL if self.config.getoption("--nasframe-full") else QUICK
        for law in self.laws:
            yield Check.from_parent(self, name=law.id, run=lambda law=law: tried(self.of, law, profile))


class Broken(Exception):  # noqa: N818 - it carries an outcome to its report
    """A violation of a law, explained in its message."""


class Check(pytest.Item):
    """A test of pytest that tries one law on one part."""

    def __init__(self, *, run: Callable[[], Outcome], **options: Any) -> None:
        super().__init__(**options)
        self.run = run

    def runtest(self) -> None:
        """Try the law: skip where it does not apply, and expect a failure where it is waived."""
        found = self.run()
        if found.status == "inapplicable":
            pytest.skip(found.reason)
        if found.status == "waived":
            pytest.xfail(found.reason)
        if found.bad:
            raise Broken(found.text())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the explanation of the outcome, without a traceback."""
        return str(excinfo.value) if isinstance(excinfo.value, Broken) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return the name of the law as the location, as a law on a part has no line in a test file."""
        return self.path, None, f"law {self.name}"
