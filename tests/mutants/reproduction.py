"""Reproductions with one fault each."""

from __future__ import annotations

from mutants.system import mutant, overriding
from nasframe.testing.subject import Subject

CELLS = ("reproduction", "image-cells")


@mutant("reproduction.about", *CELLS)
def in_two_lines(of: Subject) -> Subject:
    """What it is about takes two lines."""
    return overriding(of, about="a paper:\na table of it")


@mutant("reproduction.options", *CELLS)
def undescribed(of: Subject) -> Subject:
    """Nothing is said of its options."""
    return overriding(of, __doc__="Results of a paper.")
