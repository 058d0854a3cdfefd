"""The result of a check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

#: the statuses of outcomes, from good to bad; those of BAD make a report fail
STATUSES = ("passed", "inapplicable", "waived", "inconclusive", "failed", "error")
BAD = frozenset({"inconclusive", "failed", "error"})


@attrs.frozen
class Outcome:
    """The result of one law on one part.

    The status is "passed"; "inapplicable" (the part does not claim what the law is about); "waived" (broken, as a waiver
    says); "inconclusive" (too few cases applied); "failed"; or "error" (a plugin that cannot be loaded, or a waiver that is
    unknown, expired or not needed).

    Args:
        part: the kind and the name of the part.
        plugin: the plugin, with distribution and version.
        law: the id of the law.
        status: the status.
        statement, hint: those of the law.
        cases: the number of cases that the law was tried on.
        reason: what was measured and what is allowed, or why there is nothing to say; for a law that passed, a remark.
        case: the smallest case found that breaks the law, in words.
        replay: the command that tries this case again.
        seconds: the time that it took.
    """

    part: str
    plugin: str
    law: str
    status: str
    statement: str = ""
    hint: str = ""
    cases: int = 0
    reason: str = ""
    case: str = ""
    replay: str = ""
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        """Return whether it makes a report fail."""
        return self.status in BAD

    def text(self) -> str:
        """Return the outcome in words."""
        rows = {
            "law": self.statement,
            "measured" if self.status == "failed" else "reason": self.reason,
            "case": self.case,
            "likely cause": self.hint if self.status == "failed" else "",
            "try again": self.replay,
        }
        lines = [f"{self.law} {self.status.upper()} for {self.part} of {self.plugin}"]
        # Further lines of a row begin below its first one.
        rows = {name: row.replace("\n", "\n" + " " * 16) for name, row in rows.items()}
        return "\n".join([*lines, *(f"  {name + ':':<14}{row}" for name, row in rows.items() if row)])


@attrs.frozen
class Report:
    """The outcomes of a check.

    Args:
        profile: "quick" or "full".
        versions: those of nasframe, the contract, torch, hypothesis and Python.
        outcomes: one for each law and part.
    """

    profile: str
    versions: dict[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Return whether something was checked and nothing is bad."""
        return bool(self.outcomes) and not any(o.bad for o in self.outcomes)

    def text(self) -> str:
        """Return the report in words: what is bad, then waivers and remarks, then the counts by part and in all."""
        paragraphs = [_bad(alike) for alike in _alike(o for o in self.outcomes if o.bad)]
        remarks = [f"{_named(alike)}: {alike[0].status}, {alike[0].reason}" for alike in _alike(self._remarks())]
        paragraphs += ["\n".join(remarks)] if remarks else []
        by_part: dict[str, list[Outcome]] = {}
        for o in self.outcomes:
            by_part.setdefault(f"{o.part} of {o.plugin}", []).append(o)
        counts = [f"{part}: {_counted(outcomes)}" for part, outcomes in by_part.items()]
        counts += [f"in all: {_counted(self.outcomes)}"] if len(by_part) != 1 else []
        return "\n\n".join([*paragraphs, "\n".join(counts)])

    def _remarks(self) -> Iterable[Outcome]:
        return (o for o in self.outcomes if not o.bad and o.reason)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "ok": self.ok,
            "profile": self.profile,
            "versions": self.versions,
            "outcomes": [attrs.asdict(o) for o in self.outcomes],
        }


def _alike(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Group outcomes by plugin and reason: one reason is reported once, for however many laws and parts."""
    found: dict[tuple[str, ...], list[Outcome]] = {}
    for o in outcomes:
        found.setdefault((o.plugin, o.status, o.reason), []).append(o)
    return [*found.values()]


def _bad(alike: Sequence[Outcome]) -> str:
    # a law of the kind of part explains a failure better than a law of all parts
    first, *others = sorted(alike, key=lambda o: o.law.startswith("part."))
    return "\n".join([first.text(), *([f"  {'the same for:':<14}{_named(others)}"] if others else [])])


def _named(outcomes: Sequence[Outcome]) -> str:
    by_part: dict[str, list[str]] = {}
    for o in outcomes:
        by_part.setdefault(o.part, []).append(o.law)
    return "; ".join(f"{', '.join(laws)} for {part}" for part, laws in by_part.items())


def _counted(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(o.status == status for o in outcomes) for status in STATUSES}
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "nothing to check"
