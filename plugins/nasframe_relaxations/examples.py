"""The options that the conformance kit draws for the relaxations."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_relaxations.gumbel import Concrete, HardGumbel
from nasframe_relaxations.sigmoids import ZeroOne


def examples() -> Examples:
    """Return temperatures that fall, rise or stay, and factors of the zero-one loss."""
    temperatures = {"initial": st.sampled_from([10.0, 1.0]), "final": st.sampled_from([0.1, 0.5, 1.0])}
    return Examples(
        parts={
            HardGumbel: st.builds(HardGumbel, **temperatures),
            Concrete: st.builds(Concrete, **temperatures),
            ZeroOne: st.builds(ZeroOne, st.sampled_from([1.0, 10.0])),
        }
    )
