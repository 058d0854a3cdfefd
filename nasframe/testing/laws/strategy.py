"""The laws of recipes: strategies with a name."""

from __future__ import annotations

from typing import Any

import attrs
import tomli_w
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Strategy
from nasframe.testing import case
from nasframe.testing.assertions import demand
from nasframe.testing.law import law
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False, kw_only=True)
class Case(case.Case):
    """A recipe, and a seed to start it from."""

    seed: int


def cases(subject: Subject) -> SearchStrategy[Case]:
    """The recipe, from any seed."""
    assert subject.parts is not None
    return st.builds(
        lambda part, seed, data: Case(subject=subject, part=part, seed=seed, data=data),
        subject.parts,
        st.integers(0, 2**16),
        st.data(),
    )


def exercise(case: Case) -> dict[str, Any]:
    """Its values."""
    return {"its values": case.part.values()}


@law("strategy.values", "a part or an option is misspelt or is not registered, or an option is None where it is to be left out")
def values(case: Case) -> None:
    """The values make a strategy, from any seed, of parts that are registered; written to a file and read again they make an
    equal one, and so does the strategy.
    """
    values, plugins = {**case.part.values(), "seed": case.seed}, case.subject.plugins
    made = Strategy.from_dict(values, plugins)
    for what, text in {"the values": tomli_w.dumps(values), "the strategy": made.to_toml()}.items():
        again = Strategy.from_toml(text, plugins)
        demand("values", again == made, f"written to a file, {what} make {again}, which is not {made}")
