"""The options that the conformance kit draws for the architects."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe.testing.strategies import optimisers
from nasframe_bilevel.alpha_losses import BetaDecay
from nasframe_bilevel.first_order import FirstOrder, SingleLevel
from nasframe_bilevel.second_order import ExactSecondOrder, SecondOrder
from nasframe_bilevel.smoothing import SmoothDarts

FACTORS = st.sampled_from([1.0, 10.0])


def examples() -> Examples:
    """Return optimisers that move the alphas within a few steps, both forms of the unrolled step, and factors of the decay."""
    shared = {"optimiser": optimisers(), "after_growth": FACTORS}
    unrolled = {**shared, "follow": st.booleans()}
    return Examples(
        parts={
            SingleLevel: st.builds(SingleLevel, **shared),
            FirstOrder: st.builds(FirstOrder, **shared),
            SecondOrder: st.builds(SecondOrder, **unrolled, step=st.sampled_from([0.001, 0.01])),
            ExactSecondOrder: st.builds(ExactSecondOrder, **unrolled),
            SmoothDarts: st.builds(
                SmoothDarts,
                st.builds(FirstOrder, **shared),
                st.sampled_from(["random", "adversarial"]),
                final=st.sampled_from([0.03, 0.3]),
                steps=st.integers(1, 2),
            ),
            BetaDecay: st.builds(BetaDecay, st.sampled_from([0.5, 50.0])),
        }
    )
