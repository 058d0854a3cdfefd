"""The options that the conformance kit draws for the methods against collapse."""

from __future__ import annotations

from hypothesis import strategies as st

from nasframe.testing.examples import Examples
from nasframe_robustness.annealing import AnnealedSoftmax, AnnealedThreshold
from nasframe_robustness.curvature import Curvature
from nasframe_robustness.elimination import LeastNeeded
from nasframe_robustness.parameter_free import ParameterFree
from nasframe_robustness.perturbation import Perturbation
from nasframe_robustness.sequential import MostCertain


def examples() -> Examples:
    """Return pruners that decide one site, some or all, and criteria that compare one or two epochs."""
    return Examples(
        parts={
            Perturbation: st.builds(Perturbation, sites=st.none() | st.integers(1, 3)),
            MostCertain: st.builds(MostCertain, st.integers(1, 2), st.integers(0, 2)),
            AnnealedThreshold: st.builds(AnnealedThreshold, st.sampled_from([0.4, 1.0])),
            AnnealedSoftmax: st.builds(AnnealedSoftmax, final=st.sampled_from([0.12, 1.0])),
            ParameterFree: st.builds(ParameterFree, st.floats(0, 1)),
            LeastNeeded: st.builds(LeastNeeded, st.sampled_from(["network", "site"])),
            Curvature: st.builds(Curvature, st.integers(1, 2), st.floats(0, 1)),
        }
    )
