"""What came of checking parts by their laws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

#: what can come of a law, from good to bad; those of BAD make a report fail
STATUSES = ("passed", "inapplicable", "waived", "inconclusive", "failed", "error")
BAD = frozenset({"inconclusive", "failed", "error"})


@attrs.frozen
class Outcome:
    """What came of one law on one part.

    "passed"; "inapplicable": the part claims nothing that the law is about; "waived": broken, as a waiver says;
    "inconclusive": too few cases came up to tell; "failed": broken; "error": a plugin that cannot be loaded, or a waiver that
    is unknown, expired or not needed.

    Args:
        part: "kind 'name'".
        plugin: with distribution, version and contract.
        law: the law's id.
        says, likely: the law's.
        cases: on how many the law was tried.
        why: what was measured and what is allowed, or why there is nothing to say; for a law that passed, what stronger claim
            the cases would bear.
        case: the smallest case that was found to break the law, in words.
        again: the command that tries this case again.
        seconds: how long it took.
    """

    part: str
    plugin: str
    law: str
    status: str
    says: str = ""
    likely: str = ""
    cases: int = 0
    why: str = ""
    case: str = ""
    again: str = ""
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        """Whether it makes a report fail."""
        return self.status in BAD

    def text(self) -> str:
        """What there is to read about it."""
        rows = {
            "the law": self.says,
            "measured" if self.status == "failed" else "why": self.why,
            "case": self.case,
            "most likely": self.likely if self.status == "failed" else "",
            "try again": self.again,
        }
        lines = [f"{self.law} {self.status.upper()} for {self.part} of {self.plugin}"]
        return "\n".join([*lines, *(f"  {name + ':':<13}{row}" for name, row in rows.items() if row)])


@attrs.frozen
class Report:
    """The outcomes of a check, and what they were made with.

    Args:
        profile: "quick" or "full".
        versions: of nasframe, the contract, torch, hypothesis and Python.
    """

    profile: str
    versions: dict[str, str]
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether there is nothing bad, and something was checked."""
        return bool(self.outcomes) and not any(o.bad for o in self.outcomes)

    def text(self) -> str:
        """What is bad, in words; then why what did not apply did not, what was waived and what could be claimed; then the count,
        by part and in all.
        """
        told = [_told(alike) for alike in _alike(o for o in self.outcomes if o.bad)]
        aside = [_aside(alike) for alike in _alike(o for o in self.outcomes if not o.bad and o.why)]
        told += ["\n".join(aside)] if aside else []
        by_part: dict[str, list[Outcome]] = {}
        for o in self.outcomes:
            by_part.setdefault(f"{o.part} of {o.plugin}", []).append(o)
        counts = [f"{part}: {_counted(outcomes)}" for part, outcomes in by_part.items()]
        counts += [f"in all: {_counted(self.outcomes)}"] if len(by_part) != 1 else []
        return "\n\n".join([*told, "\n".join(counts)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ok": self.ok,
            "profile": self.profile,
            "versions": self.versions,
            "outcomes": [attrs.asdict(o) for o in self.outcomes],
        }


def _alike(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """The outcomes by plugin and reason: what one reason explains is one thing to read, of however many laws and parts."""
    found: dict[tuple[str, ...], list[Outcome]] = {}
    for o in outcomes:
        found.setdefault((o.plugin, o.status, o.why), []).append(o)
    return [*found.values()]


def _told(alike: Sequence[Outcome]) -> str:
    first, *others = sorted(alike, key=lambda o: o.law.startswith("part."))  # the laws of its own kind know it better
    return "\n".join([first.text(), *([f"  {'the same of:':<13}{_named(others)}"] if others else [])])


def _aside(alike: Sequence[Outcome]) -> str:
    return f"{_named(alike)}: {alike[0].status}, {alike[0].why}"


def _named(outcomes: Sequence[Outcome]) -> str:
    """The laws, by part."""
    by_part: dict[str, list[str]] = {}
    for o in outcomes:
        by_part.setdefault(o.part, []).append(o.law)
    return "; ".join(f"{', '.join(laws)} for {part}" for part, laws in by_part.items())


def _counted(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(o.status == status for o in outcomes) for status in STATUSES}
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "nothing to check"
