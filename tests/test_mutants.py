"""Each law of the conformance kit detects the faults that it is there for.

A quick run tries one mutant of each law. With `--nasframe-full` all mutants are tried, and each law must have a mutant that
no other law detects: a law that detects nothing alone is to be merged with another.
"""

from __future__ import annotations

import pytest
from mutants.system import CHECK, KINDS, Mutant, mutants_of

from nasframe import installed
from nasframe.testing.law import laws_of

LAWS = [law.id for kind in KINDS for law in laws_of(kind) if law.kind == kind]
ALL = [one for kind in KINDS for one in mutants_of(kind)]
FIRST = [*{one.law: one for one in reversed(ALL)}.values()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try all mutants and laws in a full run, a mutant of each law in a quick one."""
    full = metafunc.config.getoption("--nasframe-full")
    if "mutant" in metafunc.fixturenames:
        metafunc.parametrize("mutant", ALL if full else FIRST, ids=str)
    if "law" in metafunc.fixturenames:
        metafunc.parametrize("law", LAWS if full else [], ids=str)


def test_every_law_has_a_mutant() -> None:
    """There is a fault, described in words, for each law, and a law for each fault."""
    assert [law for law in LAWS if law not in {one.law for one in ALL}] == []
    assert [str(one) for one in ALL if one.law not in LAWS or not one.fault] == []


def test_the_law_detects_the_fault(mutant: Mutant) -> None:
    """The law fails on a part that has or meets the fault."""
    assert mutant.killers(installed(), [mutant.law]) == [mutant.law]


def test_no_other_law_detects_all_of_its_faults(law: str) -> None:
    """One mutant of the law at least is missed by all other laws in a quick check, which is what authors of parts run."""
    killers: dict[str, list[str]] = {}
    for one in ALL:
        if one.law == law and [] not in killers.values():
            killers[str(one)] = [other for other in one.killers(installed(), profile=CHECK) if other != law]

    assert [] in killers.values(), killers
