"""Examples of the parts that come with the core."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe.modules.deepen import Deepen
from nasframe.modules.kernels import CropKernel, Dilate, PadKernel
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.unwrap import Unwrap
from nasframe.modules.widen import Widen
from nasframe.search.evaluators import Table
from nasframe.testing.examples import Examples
from nasframe.testing.models import models


def examples() -> Examples:
    """Return tables of all architectures of short chains for the laws of evaluators, and the morphisms of any module with its models."""
    return Examples(
        parts={
            Table: st.integers(1, 3).flatmap(_tables),
            # models have 1 or 3 units
            Widen: st.builds(Widen, st.integers(4, 6), skew=st.sampled_from([0.0, 0.1]))
            | st.builds(Widen, st.integers(4, 6), st.just("zero")),
            Narrow: st.builds(Narrow, st.integers(1, 2)) | st.builds(Narrow, remove=st.just((0,))),
            Deepen: st.builds(Deepen, st.sampled_from([1, 3])),
            PadKernel: st.builds(PadKernel, st.sampled_from([5, 7, (5, 3)])),
            CropKernel: st.sampled_from([CropKernel(1), CropKernel((1, 3))]),
            Dilate: st.sampled_from([Dilate(1), Dilate(1, lossy=True), Dilate(2), Dilate(3, lossy=True)]),
            AddPath: st.builds(AddPath, st.none() | st.integers(1, 3)),
            Unwrap: st.just(Unwrap()),
        },
        models=models(),
    )


def _tables(nodes: int) -> SearchStrategy[Table]:
    # Each node of a chain has two candidates.
    every, valid = [*itertools.product(range(2), repeat=nodes)], st.none() | st.floats(0, 10)
    return st.lists(valid, min_size=len(every), max_size=len(every)).map(
        lambda values: Table.of(dict(zip(every, values, strict=True)))
    )
