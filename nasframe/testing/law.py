"""Laws: what every part of a kind must fulfil. Each has an id that does not change."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import attrs

#: a function that tries a case: see `Law`
Try = Callable[[Any], str | None]


class Inapplicable(Exception):  # noqa: N818 - nothing went wrong
    """The law does not apply to a case: the part does not claim what the law is about, or it does not occur."""


class NoCases(Exception):  # noqa: N818 - nothing went wrong
    """There is nothing that the part can be tried on; the message says why."""


@attrs.frozen
class Law:
    """A property that every part of a kind must have, with the function that tries it on a case.

    Args:
        id: the kind of part and the name of the law, "kind.name"; the kind "part" is for parts of every kind.
        statement: what holds, in a sentence.
        hint: the most likely cause of a failure.
        holds: raises an AssertionError if a case breaks the law, with what was measured and what is allowed, and Inapplicable
            if the law does not apply to it. Returns a remark, for example a stronger claim that the case would allow, or None.
    """

    id: str
    statement: str
    hint: str
    holds: Try

    def __call__(self, case: Any) -> str | None:
        """Try the law on a case and return a remark, or None."""
        return self.holds(case)

    @property
    def kind(self) -> str:
        """Return the kind of part that the law is about."""
        return self.id.split(".")[0]


def law(id: str, hint: str) -> Callable[[Try], Law]:
    """Return a decorator that makes a law of a function; the first paragraph of its docstring is the statement."""

    def made(holds: Try) -> Law:
        statement = inspect.cleandoc(holds.__doc__ or "").split("\n\n")[0]
        return Law(id, " ".join(statement.split()), hint, holds)

    return made


def module(kind: str) -> Any:
    """Return the module with the laws of a kind, its `cases` and its `exercise`; that of "part" if the kind has no laws."""
    name = f"nasframe.testing.laws.{kind}"
    return importlib.import_module(name if find_spec(name) else "nasframe.testing.laws.part")


def laws_of(kind: str) -> tuple[Law, ...]:
    """Return the laws of a kind of part, in the order of the file, after those of all parts."""
    # A module keeps its names in the order in which they were defined.
    found = (value for name in ("part", kind) for value in vars(module(name)).values() if isinstance(value, Law))
    return tuple(dict.fromkeys(found))
