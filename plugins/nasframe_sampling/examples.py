"""The options that the conformance kit draws for the architects and the evaluator."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_sampling.evolution import RegularisedEvolution
from nasframe_sampling.halving import SuccessiveHalving
from nasframe_sampling.inherited import Inherited
from nasframe_sampling.random_search import RandomSearch


def examples() -> Examples:
    """Return searches of a few trials, and evaluators with few batches."""
    few = {"trials": st.integers(4, 8), "updates": st.integers(1, 3)}
    return Examples(
        parts={
            RandomSearch: st.builds(RandomSearch, **few),
            RegularisedEvolution: st.builds(
                RegularisedEvolution,
                population=st.integers(1, 3),
                sample=st.integers(1, 3),
                inherit=st.booleans(),
                **few,
            ),
            Inherited: st.builds(Inherited, st.integers(0, 2)),
            SuccessiveHalving: st.builds(
                SuccessiveHalving,
                candidates=st.sampled_from([1, 7, 9]),
                updates=st.integers(1, 2),
                factor=st.just(3),
                inherit=st.booleans(),
            ),
        }
    )
