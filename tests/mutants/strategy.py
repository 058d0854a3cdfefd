"""Recipes with one fault each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mutants.system import mutant, overriding
from nasframe.testing.subject import Subject

DIGITS = ("strategy", "digits")


def stating(of: Subject, **values: Any) -> Subject:
    """The recipe with other values."""
    honest: Any = of.cls

    def changed(self: Any) -> Mapping[str, Any]:
        return {**honest.values(self), **values}

    return overriding(of, values=changed)


@mutant("strategy.values", *DIGITS)
def misspelt(of: Subject) -> Subject:
    """The name of its pruner is misspelt."""
    return stating(of, pruner="strongst")


@mutant("strategy.values", *DIGITS)
def unsaid(of: Subject) -> Subject:
    """An option that is to be left out is None, which a file cannot hold."""
    return stating(of, optimiser={"final": None})
