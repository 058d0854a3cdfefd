"""The fakes of the kit keep the contract themselves."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from nasframe import Operation, Part, Strategy
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.check import check
from nasframe.testing.examples import Examples, Habitat
from nasframe.testing.fakes import AdamDescent, Chain, Dense, Endless, Keep, Noise, PassThrough, Scripted, Shares, Sigmoids
from nasframe.testing.strategies import searches, sizes


@st.composite
def chains(draw: st.DrawFn, operations: tuple[Operation, ...]) -> Strategy:
    inputs, outputs = draw(sizes()), draw(sizes(2))
    task = Noise((("inputs", inputs), ("outputs", outputs)), (-1, inputs), (-1, outputs))
    return draw(searches(Chain(tuple(dict.fromkeys((PassThrough(), *operations, Dense())))), task))


@pytest.mark.parametrize(
    "part",
    [Chain, PassThrough, Dense, AdamDescent, Shares, Sigmoids, Endless, Scripted, Keep, Noise],
    ids=lambda part: part.name,
)
def test_a_fake_keeps_the_contract(part: type[Part]) -> None:
    """With no plugin installed: there is a task, a backbone with operations, and a part of every other kind but morphisms."""
    parts = {
        PassThrough: st.builds(PassThrough),
        Dense: st.builds(Dense),
        Scripted: st.builds(Scripted, sizes(3), st.integers(0, 2)),
        Noise: st.just(Noise((("inputs", 2), ("outputs", 1)), (-1, 2), (-1, 1))),
    }
    # the architect's description names its relaxation
    plugins = Plugins((Plugin("fakes", "tests", "0", (Shares,)),) if part is AdamDescent else ())
    report = check(part, examples=Examples(parts=parts, habitats=(Habitat(Chain, chains),)), plugins=plugins)

    assert report.ok, report.text()
