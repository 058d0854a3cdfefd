"""What the conformance kit tries the parts of this plugin on."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import strategies as st

from nasframe import Seed
from nasframe.testing.examples import Examples
from nasframe_forecasting.task import Forecasting

COLUMNS = st.sampled_from([(), ("temp_max", "wind"), ("wind",)])


def examples() -> Examples:
    """Return windows of the weather, down to one row, of several columns or one; and returns of prices in two files."""
    horizons = st.integers(1, 3)
    standardised = st.builds(Forecasting, window=st.integers(1, 12), horizon=horizons, columns=COLUMNS)
    normalised = st.builds(Forecasting, window=st.integers(2, 12), horizon=horizons, columns=COLUMNS, scaling=st.just("window"))
    return Examples(parts={Forecasting: standardised | normalised}, sources={Forecasting: prices})


def prices(folder: Path) -> tuple[Forecasting, Forecasting]:
    """Write two series that differ in their test rows, and return a task for each."""
    generator = Seed(("prices",)).generator()
    known, late = torch.rand(33, 2, generator=generator) + 1, torch.rand(2, 8, 2, generator=generator) + 1
    tasks = []
    for name, rows in zip("ab", late, strict=True):
        path = folder / f"{name}.csv"
        path.write_text("\n".join(["one,other", *(f"{one!r},{other!r}" for one, other in torch.cat([known, rows]).tolist())]))
        tasks.append(Forecasting(csv=str(path), window=3, returns=True))
    return tasks[0], tasks[1]
