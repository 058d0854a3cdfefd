"""A law: what every part of a kind must hold to, with an id that stays."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import attrs


class Inapplicable(Exception):  # noqa: N818 - nothing went wrong
    """The law says nothing of this case: what it is about is not claimed, or does not come up."""


class NoCases(Exception):  # noqa: N818 - nothing went wrong
    """There is nothing to try the part on, and why."""


@attrs.frozen
class Law:
    """A law of the contract.

    Args:
        id: "kind.name".
        says: what holds, in a sentence.
        likely: what is most often the reason where it does not.
        holds: raises an AssertionError, which says what was measured and what is allowed, where a case breaks it, and
            Inapplicable where it says nothing of the case; returns None, or what stronger could be claimed of the case.
    """

    id: str
    says: str
    likely: str
    holds: Callable[[Any], str | None]

    def __call__(self, case: Any) -> str | None:
        """Raise if the case breaks the law."""
        return self.holds(case)

    @property
    def kind(self) -> str:
        """The kind of part that it is about; "part" for all kinds."""
        return self.id.split(".")[0]


def law(id: str, likely: str) -> Callable[[Callable[[Any], str | None]], Law]:
    """Makes a law of a function: its docstring is what the law says."""

    def made(holds: Callable[[Any], str | None]) -> Law:
        return Law(id, " ".join(inspect.cleandoc(holds.__doc__ or "").split()), likely, holds)

    return made


def contract(kind: str) -> Any:
    """The module nasframe.testing.laws.<kind>: the laws of a kind, `cases` to try them on, and `exercise`."""
    return importlib.import_module(f"nasframe.testing.laws.{kind}")


def laws_of(kind: str) -> tuple[Law, ...]:
    """The laws of a kind, in the order in which they stand; those of every part first."""
    names = dict.fromkeys(("part", kind))
    return tuple(v for name in names for v in vars(contract(name)).values() if isinstance(v, Law))
