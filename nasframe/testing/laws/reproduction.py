"""The laws of reproductions: results of papers to be made again. What they do takes hours and data, so none is run."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe.testing import case
from nasframe.testing.assertions import demand
from nasframe.testing.law import law
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False, kw_only=True)
class Case(case.Case):
    """A reproduction; `turn` counts the times that one without options is looked at."""

    turn: int


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The reproduction, again and again."""
    assert subject.parts is not None
    return st.builds(
        lambda part, turn, data: Case(subject=subject, part=part, turn=turn, data=data),
        subject.parts,
        st.integers(0, 2**16),
        st.data(),
    )


def exercise(case: Case) -> dict[str, Any]:
    """What it is about."""
    return {"what it is about": case.part.about}


@law("reproduction.about", "`about` is left out, empty, or taken from a docstring of several lines")
def about(case: Case) -> None:
    """A reproduction says in one line what of which paper it makes again."""
    told = getattr(case.part, "about", None)
    good = isinstance(told, str) and len(told.split("\n")) == 1 and told.strip() != ""
    demand("about", good, f"`about` is {told!r}; it must be one line of text")


@law("reproduction.options", "a field was added, and not the line for it under `Args:` in the class's docstring")
def options(case: Case) -> None:
    """Each option of a reproduction is described in its class's docstring, in a line that begins with its name and a colon."""
    text = inspect.getdoc(type(case.part)) or ""
    names = [f.name for f in attrs.fields(type(case.part))]
    lacking = [name for name in names if not re.search(rf"^\s*(\w+, )*{name}(, \w+)*: \S", text, re.MULTILINE)]
    demand("options", not lacking, f"nothing is said of {', '.join(lacking)}")
