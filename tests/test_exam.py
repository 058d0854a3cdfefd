"""The kit sees what it says that it sees: each mutant is killed by the law that is to see it (`nasframe mutants` has the rest)."""

from __future__ import annotations

import pytest

from nasframe import installed
from nasframe.testing.check import tried
from nasframe.testing.law import laws_of
from nasframe.testing.mutant import KINDS, PROFILE, Mutant, mutants_of

EVERY = [one for kind in KINDS for one in mutants_of(kind)]


@pytest.mark.parametrize("mutant", EVERY, ids=lambda one: f"{one.law}-{one.spoilt.__name__}")
def test_a_fault_is_seen(mutant: Mutant) -> None:
    """By the law that must see it, on a shipped part that has it."""
    subject = mutant.subject(installed())
    (law,) = [one for one in laws_of(subject.cls.kind) if one.id == mutant.law]

    assert tried(subject, law, PROFILE).status == "failed"


@pytest.mark.parametrize("kind", KINDS)
def test_every_law_has_mutants(kind: str) -> None:
    """And every mutant a law, and a fault in words."""
    laws = {one.id for one in laws_of(kind) if one.kind == kind}

    assert {one.law for one in mutants_of(kind)} == laws
    assert all(one.fault for one in mutants_of(kind))
