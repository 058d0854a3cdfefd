"""Forecasts of several rows at once: targets, scales, references, models and searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_forecasting import Forecasting
from nasframe_forecasting.series import read
from nasframe_forecasting.task import data
from nasframe_growing import Epochs, MaxNodes
from nasframe_recurrent import Sum, Tanh, TwoToOne
from series_files import CPU, EXACT, drawn, noise, text
from torch import Tensor, nn

from nasframe import Data, Search, Strategy, load_model, save_model
from nasframe.errors import DataError
from nasframe.network.model import Model, Scale, Signature

SCALINGS = st.sampled_from(["training", "window"])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Draw rows, a window of two rows at least and a horizon."""
    window, horizon = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    size = math.ceil(5 * (window + horizon) / 3) + 2 * horizon + draw(st.integers(6, 20))
    return noise(size, draw(st.integers(1, 3)), draw(st.integers(0, 99))), window, horizon


def loaded(rows: Tensor, window: int, horizon: int, **options: Any) -> Data:
    """Return the data of rows that went through a CSV text."""
    return data(read(text(rows), "noise", date="date"), window, CPU, EXACT, horizon=horizon, **options)


@drawn
@given(cases())
def test_a_target_is_the_rows_after_its_window(case: tuple[Tensor, int, int]) -> None:
    """Row after row, and all of them in the part of the window."""
    rows, window, horizon = case
    task, train, validation = loaded(*case), len(rows) * 3 // 5, len(rows) * 4 // 5
    rows = (rows - rows[:train].mean(0)) / rows[:train].std(0, correction=0)
    parts = ((task.train, window, train), (task.validation, train, validation), (task.test, validation, len(rows)))
    for split, first, end in parts:
        inputs, targets = split.batch(torch.arange(split.size))

        assert split.size == end - first - horizon + 1
        for i in range(split.size):
            assert torch.equal(inputs[:, i], rows[first + i - window : first + i])
            assert torch.equal(targets[i], rows[first + i : first + i + horizon].flatten())


@drawn
@given(cases(), SCALINGS)
def test_a_perfect_network_forecasts_the_rows(case: tuple[Tensor, int, int], scaling: str) -> None:
    """Outputs equal to the targets, scaled back, are the rows that follow in the units of the data, and have no loss."""
    rows, window, horizon = case
    task, validation = loaded(*case, scaling=scaling), len(rows) * 4 // 5
    targets = task.test.batch(torch.arange(task.test.size))[1]
    wanted = targets[:, 0] if scaling == "window" else targets
    raw = torch.stack([rows[validation - window + i : validation + i] for i in range(task.test.size)], 1)
    outputs = wanted.expand(window, *wanted.shape)
    assert task.outputs is not None
    found = task.outputs.back(outputs, raw)[-1].unflatten(-1, (horizon, -1))

    assert task.loss(outputs, targets).item() == 0
    for i in range(task.test.size):
        torch.testing.assert_close(found[i], rows[validation + i : validation + i + horizon], rtol=1e-9, atol=1e-9)


@drawn
@given(cases(), SCALINGS)
def test_the_last_values_are_repeated(case: tuple[Tensor, int, int], scaling: str) -> None:
    """The last value is the same forecast for all rows, and the seasonal one the last row at the same place in the season."""
    _, window, horizon = case
    season = window - 1
    task = loaded(*case, scaling=scaling, season=season)
    made = task.references(50)
    inputs, _ = task.test.batch(torch.arange(task.test.size))
    last, seasonal = (made[name]()(inputs)[-1].unflatten(-1, (horizon, -1)) for name in ("last value", "seasonal last value"))
    for ahead in range(horizon):
        # the row `ahead` + 1 steps after the window is like the one so many whole seasons before it that is in the window
        back = season * math.ceil((ahead + 1) / season)
        torch.testing.assert_close(last[:, ahead], inputs[-1], rtol=0, atol=1e-12)
        torch.testing.assert_close(seasonal[:, ahead], inputs[window + ahead - back], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scaling", "name"), [("training", "ridge AR(1)"), ("window", "AR(1) of changes")])
def test_the_linear_references_have_the_least_error(scaling: str, name: str) -> None:
    """No other coefficient forecasts the training rows better; ridge is exact where each row is a linear map of the one before."""
    task = loaded(noise(80, 2).cumsum(0), 4, 3, scaling=scaling)
    best = task.references(9)[name]()
    if scaling == "window":
        least = task.measure(best, task.train)[0]
        for tensor in best.parameters():
            for step in (-1e-3, 1e-3):
                tensor += step
                assert task.measure(best, task.train)[0] > least
                tensor -= step
        return
    turned = [torch.tensor([1.0, 0.0], dtype=EXACT)]
    law = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=EXACT)
    for _ in range(79):
        turned.append(turned[-1] @ law)
    task = loaded(torch.stack(turned), 4, 3)

    assert task.measure(task.references(9)[name](), task.test)[0] < 1e-9


class Steps(nn.Module):
    """Forecast x + 1, x + 2, ... in standardised units, where x is the last row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x + ahead for ahead in range(1, self.rows + 1)], -1)


@given(st.integers(1, 4), st.integers(1, 9), st.booleans())
def test_a_forecast_has_as_many_rows_as_wanted(rows: int, steps: int, batch: bool) -> None:
    """Also where that is no multiple of what the network forecasts at once."""
    scale = Scale(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5]), rows=rows)
    signature = Signature(("time", "batch", "columns"), (3, None, 2))
    known = torch.tensor([[1.0, 2.0]] * 3).double()
    found = Model(Steps(rows), scale, scale, signature).forecast(known[:, None] if batch else known, steps)  # type: ignore[arg-type]
    expected = known[-1] + torch.arange(1, steps + 1)[:, None] * scale.std

    torch.testing.assert_close(found[:, 0] if batch else found, expected)


def test_a_search_with_a_horizon(tmp_path: Path, short_series: None) -> None:
    """All networks of the comparison forecast several rows, and a model that is loaded forecasts as the one that was saved."""
    strategy = attrs.evolve(
        Strategy.named("two-to-one-grow-end"),
        task=Forecasting(horizon=3, split=(200, 80, 60)),
        backbone=TwoToOne(hidden=3, operations=(Sum(), Tanh())),
        criterion=Epochs(1) | MaxNodes(2),
        seeds=1,
    )
    search = Search(strategy)
    search.run()
    names = {record.name for record in search.compare(workers=1) if record.kind == "evaluation"}
    save_model(search.model, tmp_path)
    model, rows = load_model(tmp_path), noise(12, 4)

    assert search.data.train.size == 200 - 10 - 3 + 1
    assert {"mean", "last value", "ridge AR(1)", "RNN", "LSTM", "GRU"} <= names
    assert model.forecast(rows, 7).shape == (7, 4)
    assert torch.equal(model.forecast(rows, 7), search.model.forecast(rows, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is 0; it must be a whole number of at least 1"),
        ({"split": (5, 5)}, "split is (5, 5); it must be three numbers of rows, or left out"),
        ({"split": (5, 5, 0)}, "split is (5, 5, 0); it must be three numbers of rows, or left out"),
        ({"split": (1000, 400, 400)}, "has 1461 rows, fewer than split = [1000, 400, 400] needs; give smaller numbers"),
        ({"horizon": 900}, "are too few for a window of 10 and a target of 900; give at least 910 for training"),
        ({"horizon": 300}, "292 rows for validation and 293 for the test are too few for a target of 300"),
    ],
)
def test_impossible_numbers_of_rows_are_refused(options: dict[str, Any], message: str) -> None:
    """The message says what is wrong and what to give instead."""
    with pytest.raises((ValueError, DataError)) as refused:
        Forecasting(**options).load(CPU, EXACT)

    assert message in str(refused.value)
