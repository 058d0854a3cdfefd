"""Forecasting: windows that leak nothing, scaling, warnings about the data, and the references."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, strategies as st
from nasframe_forecasting import Forecasting, nasframe_parts, references, task
from nasframe_forecasting.references import nearest_units, ridge
from nasframe_forecasting.series import read, shipped
from nasframe_forecasting.task import data, normalised_windows
from series_files import CPU, EXACT, cases, drawn, noise, text
from torch import Tensor, nn

from nasframe import Data, NasframeError, Search, Seed, Split, Strategy, installed
from nasframe.cli.main import cli
from nasframe.errors import DataError
from nasframe.interfaces.part import to_plain

#: a folder with series that cannot be shipped
REAL = os.environ.get("NASFRAME_DATA", "")
real = pytest.mark.skipif(not REAL, reason="NASFRAME_DATA does not name the folder of the real series")


def loaded(rows: Tensor, window: int, **options: Any) -> Data:
    """The data of rows that went through a CSV text."""
    return data(read(text(rows), "noise", date="date"), window, CPU, EXACT, **options)


def whole(split: Split) -> tuple[Tensor, Tensor]:
    """All windows of a split in one batch."""
    return split.batch(torch.arange(split.size))


def same(one: Split, other: Split) -> bool:
    """Whether two splits give the same batches."""
    return all(map(torch.equal, whole(one), whole(other)))


def parameters(module: nn.Module) -> int:
    """How many numbers the module's parameters hold."""
    return sum(p.numel() for p in module.parameters())


def ends(size: int) -> tuple[int, int]:
    """Where the training rows and the validation rows end."""
    return int(0.6 * size + 1e-9), int(0.8 * size + 1e-9)


# ---------------------------------------------------------------------------------------------------------- windows


@drawn
@given(cases())
def test_a_window_is_the_rows_before_its_target(case: tuple[Tensor, int]) -> None:
    """Window i of a part holds the standardised rows just before that part's target i, in order, to the last bit."""
    rows, window = case
    task = loaded(rows, window)
    train, validation = ends(len(rows))
    rows = (rows - rows[:train].mean(0)) / rows[:train].std(0, correction=0)
    for split, first in ((task.train, window), (task.validation, train), (task.test, validation)):
        inputs, targets = whole(split)
        assert inputs.shape == (window, split.size, rows.shape[1])
        for i in range(split.size):
            assert torch.equal(inputs[:, i], rows[first + i - window : first + i])
            assert torch.equal(targets[i], rows[first + i])


@drawn
@given(cases())
def test_the_parts_share_the_targets_out_by_time(case: tuple[Tensor, int]) -> None:
    """Each row after the first window is the target of one window: 60 % of the rows train, 20 % validate, 20 % test."""
    rows, window = case
    task = loaded(rows, window)
    train, validation = ends(len(rows))

    assert [task.train.size, task.validation.size, task.test.size] == [
        train - window,
        validation - train,
        len(rows) - validation,
    ]


@drawn
@given(cases(), st.data())
def test_test_rows_are_seen_by_the_test_alone(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """Changing a test row changes no training batch, no validation batch, no scale and no reference, in either scaling."""
    rows, window = case
    scaling = data.draw(st.sampled_from(["training", "window"] if window > 1 else ["training"]))
    changed = rows.clone()
    changed[data.draw(st.integers(ends(len(rows))[1], len(rows) - 1))] += 1e3
    before, after = (loaded(known, window, scaling=scaling) for known in (rows, changed))
    name = {"training": "ridge AR(1)", "window": "AR(1) of changes"}[scaling]
    one, other = (task.references(100)[name]() for task in (before, after))

    assert same(before.train, after.train)
    assert same(before.validation, after.validation)
    assert not same(before.test, after.test)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert before.inputs is not None
    assert after.inputs is not None
    assert all(map(torch.equal, before.inputs.buffers(), after.inputs.buffers()))


@drawn
@given(cases(), st.data())
def test_training_and_scales_depend_on_training_rows_alone(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """Changing a validation row changes no training batch, and of the other batches only the windows with that row."""
    rows, window = case
    train, validation = ends(len(rows))
    row = data.draw(st.integers(train, validation - 1))
    changed = rows.clone()
    changed[row] += 1e3
    before, after = loaded(rows, window), loaded(changed, window)
    kept = torch.arange(before.validation.size) != row - train

    assert same(before.train, after.train)
    assert torch.equal(whole(before.validation)[1][kept], whole(after.validation)[1][kept])
    assert torch.equal(whole(before.test)[1], whole(after.test)[1])


@drawn
@given(cases())
def test_training_rows_are_standard(case: tuple[Tensor, int]) -> None:
    """With a window of one row, first input and targets are all training rows, of mean 0 and standard deviation 1."""
    inputs, targets = whole(loaded(case[0], 1).train)
    rows = torch.cat([inputs[0, :1], targets])

    torch.testing.assert_close(rows.mean(0), torch.zeros_like(rows[0]))
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones_like(rows[0]))


@drawn
@given(cases(), st.data())
def test_a_batch_holds_the_windows_at_its_positions(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """A batch at any positions, in any order and number, is those columns of the whole, and a copy of them."""
    split = loaded(*case).validation
    positions = torch.tensor(data.draw(st.lists(st.integers(0, split.size - 1))), dtype=torch.long)
    inputs, targets = split.batch(positions)

    assert torch.equal(inputs, whole(split)[0][:, positions])
    assert torch.equal(targets, whole(split)[1][positions])

    expected = whole(split)[0].clone()
    inputs.zero_()
    assert torch.equal(whole(split)[0], expected)


def test_a_position_outside_a_part_reaches_no_other_part() -> None:
    """A position that a part does not have is an error, not a window of the next part."""
    task = loaded(noise(30, 2), 3)
    for split in (task.train, task.validation, task.test):
        with pytest.raises(IndexError):
            split.batch(torch.tensor([split.size]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_has_the_given_dtype(dtype: torch.dtype) -> None:
    """Batches, references, losses and metrics are in the dtype that the data were loaded in."""
    task = Forecasting().load(CPU, dtype)
    inputs, targets = task.test.batch(torch.arange(5))
    assert inputs.dtype == targets.dtype == dtype
    for make in task.references(200).values():
        outputs = make()(inputs)
        metrics = task.metrics()
        metrics.update(task.predict(outputs), targets)
        errors = [task.loss(outputs, targets), *metrics.compute().values()]
        assert {outputs.dtype, *(error.dtype for error in errors)} == {dtype}


# ---------------------------------------------------------------------------------------------------- loss and metrics


@drawn
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_the_last_step_is_the_forecast(window: int, batch: int, columns: int, seed: int) -> None:
    """Loss and metrics are the mean squared and absolute error of the outputs' last step, over batch and columns."""
    task = loaded(noise(20, columns), 3)
    outputs = noise(window * batch, columns, seed).reshape(window, batch, columns)
    targets = noise(batch, columns, seed + 1)
    errors = (outputs[-1] - targets).flatten().tolist()
    mse, mae = (sum(e * e for e in errors) / len(errors), sum(map(abs, errors)) / len(errors))
    metrics = task.metrics()
    for i in range(batch):
        metrics.update(task.predict(outputs[:, i : i + 1]), targets[i : i + 1])

    assert torch.equal(task.predict(outputs), outputs[-1])
    assert task.loss(outputs, targets).item() == pytest.approx(mse)
    assert {key: value.item() for key, value in metrics.compute().items()} == pytest.approx({"mse": mse, "mae": mae})


def test_metrics_are_new_each_time() -> None:
    """Values that one set of metrics has received do not change the next."""
    task = loaded(noise(20, 1), 3)
    first, second = task.metrics(), task.metrics()
    first.update(torch.ones(1, 1), torch.zeros(1, 1))
    second.update(torch.zeros(1, 1), torch.zeros(1, 1))

    assert second.compute()["mse"].item() == 0


# ------------------------------------------------------------------------------------------------------ standardising


@pytest.mark.parametrize("window", [1, 2, 3, 4, 10, 25])
def test_too_few_rows_are_refused(window: int) -> None:
    """The error names the fewest training rows that do; with these each part has a window, with one row less it is raised."""
    fewest = math.ceil(5 * (window + 1) / 3)
    task = loaded(noise(fewest, 1), window)
    with pytest.raises(DataError) as refused:
        loaded(noise(fewest - 1, 1), window)

    assert min(task.train.size, task.validation.size, task.test.size) >= 1
    assert str(refused.value) == (
        f"noise: {fewest - 1} rows, of which {window} are for training, are too few for a window of {window} and a target of 1; "
        f"give at least {window + 1} for training, or a smaller window (the task's option)"
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.7, 12.8])
def test_a_constant_column_is_refused(constant: float) -> None:
    """A column constant in training is named, also where it varies later or rounding gives it a deviation."""
    rows = noise(20, 1)
    rows[:12] = constant
    with pytest.raises(DataError) as refused:
        loaded(rows, 3)

    assert str(refused.value) == (
        f"noise, column 'c0' is constant, {constant:g} in all of its 12 training rows, and cannot be standardised; choose other columns"
    )


def test_constant_returns_are_refused() -> None:
    """A price that grows by the same share each day has constant log returns, also if they differ by rounding."""
    found = read(text(exponential()), "trend", returns=True)
    assert (found.rows != found.rows[0]).any()
    with pytest.raises(DataError, match=r"column 'c0' is constant, 0\.1 in all of its 119 training rows"):
        data(found, 5, CPU, EXACT)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_a_deviation_out_of_range_is_refused(scale: float) -> None:
    """A column whose deviation under- or overflows is refused, not turned into zeros or NaN."""
    with pytest.raises(DataError, match="column 'c0' cannot be standardised: its 12 training rows lie between"):
        loaded(noise(20, 1) * scale, 3)


@drawn
@given(cases(), st.data())
def test_a_value_too_far_from_the_training_rows_is_refused(case: tuple[Tensor, int], data: st.DataObject) -> None:
    """Where the square of a standardised value leaves the range of the dtype, row and column are named."""
    rows, window = case
    row = data.draw(st.integers(ends(len(rows))[0], len(rows) - 1))
    column = data.draw(st.integers(0, rows.shape[1] - 1))
    rows[row, column] = 1e100
    found = read(text(rows), "far")
    assert task.data(found, window, CPU, EXACT).train.size > 0
    with pytest.raises(DataError, match=rf"far, row {row + 2}, column 'c{column}' is 1e\+100, .* in torch.float32; leave out"):
        task.data(found, window, CPU, torch.float32)


# ------------------------------------------------------------------------------------------------- windows normalised


@st.composite
def window_cases(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Rows and a window of at least two rows."""
    return draw(cases().filter(lambda case: case[1] > 1))


@drawn
@given(window_cases())
def test_a_normalised_window_ends_in_0_and_has_a_spread_of_1(case: tuple[Tensor, int]) -> None:
    """Inputs, scaled back, are the standardised rows, and so are targets (z, s): the row l + s z follows a window that ends in l."""
    rows, window = case
    plain, normalised = loaded(rows, window), loaded(rows, window, scaling="window")
    for part in ("train", "validation", "test"):
        (inputs, targets), (x, y) = whole(getattr(normalised, part)), whole(getattr(plain, part))
        last, spread = x[-1], targets[:, 1]
        assert torch.equal(inputs[-1], torch.zeros_like(last))
        torch.testing.assert_close(inputs.std(0, correction=0), torch.ones_like(last))
        torch.testing.assert_close(inputs * spread + last, x)
        torch.testing.assert_close(targets[:, 0] * spread + last, y)


@drawn
@given(window_cases(), st.floats(0.1, 10), st.floats(-100, 100))
def test_level_and_spread_of_a_window_do_not_reach_the_network(case: tuple[Tensor, int], factor: float, level: float) -> None:
    """Normalised windows of a x + b have the inputs and the z of those of x, and a times their spread."""
    rows, window = case
    one = normalised_windows(rows, window, 1, CPU, EXACT)
    other = normalised_windows(factor * rows + level, window, 1, CPU, EXACT)
    (inputs, targets), (x, y) = whole(one), whole(other)

    torch.testing.assert_close(x, inputs, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(y[:, 0], targets[:, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(y[:, 1], factor * targets[:, 1], rtol=1e-7, atol=1e-7)


def test_a_constant_window_is_only_shifted() -> None:
    """Its inputs are 0 and its spread counts as 1, also where rounding leaves a spread above 0."""
    rows = noise(40, 1)
    rows[10:20] = rows[30:40] = 0.1
    inputs, targets = whole(loaded(rows, 5, scaling="window").test)

    assert inputs.isfinite().all()
    assert torch.equal(inputs[:, -1], torch.zeros(5, 1, dtype=EXACT))
    assert targets[-1, 1].item() == 1


@drawn
@given(window_cases(), st.integers(0, 2**32))
def test_errors_are_in_the_units_of_the_training_rows(case: tuple[Tensor, int], seed: int) -> None:
    """Loss and metrics of outputs o are those of the forecasts l + s o, as without normalised windows."""
    rows, window = case
    plain, normalised = loaded(rows, window), loaded(rows, window, scaling="window")
    (inputs, targets), (x, y) = whole(normalised.test), whole(plain.test)
    outputs = noise(inputs.numel(), 1, seed).reshape(inputs.shape)
    forecasts = x[-1] + targets[:, 1] * outputs
    metrics, expected = normalised.metrics(), plain.metrics()
    metrics.update(normalised.predict(outputs), targets)
    expected.update(plain.predict(forecasts), y)

    torch.testing.assert_close(normalised.loss(outputs, targets), plain.loss(forecasts, y))
    torch.testing.assert_close(metrics.compute(), expected.compute())


def exponential(size: int = 200) -> Tensor:
    """A price that grows by the same share each day."""
    return 1000 * torch.linspace(0, 0.1 * (size - 1), size, dtype=EXACT).exp().unsqueeze(1)


def test_normalised_windows_reach_the_baselines_where_the_level_moves() -> None:
    """On an exponential trend a GRU is far off the last value, and with normalised windows far better than it."""
    errors = {}
    for scaling in ("training", "window"):
        task = loaded(exponential(), 10, scaling=scaling)
        with Seed((0,)).as_global():
            network = task.references(500)["GRU"]()
            optimiser = torch.optim.Adam(network.parameters(), 1e-2)
            for _ in range(60):
                optimiser.zero_grad()
                task.loss(network(whole(task.train)[0]), whole(task.train)[1]).backward()
                optimiser.step()
        errors[scaling] = task.measure(network, task.test)[0]
    baseline = task.measure(task.references(500)["last value"](), task.test)[0]

    assert errors["window"] < 0.01 * baseline < 0.1 * errors["training"]


def test_references_forecast_changes() -> None:
    """The last value is that of the rows; the autoregression of changes has the least error, which is 0 on an exponential trend."""
    rows = noise(60, 2).cumsum(0)
    for series in (exponential(), rows):
        plain, normalised = loaded(series, 4), loaded(series, 4, scaling="window")
        errors = [task.measure(task.references(9)["last value"](), task.test)[0] for task in (plain, normalised)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-9)
        best = normalised.references(9)["AR(1) of changes"]()
        least = normalised.measure(best, normalised.train)[0]
        for tensor in best.parameters():
            for step in (-1e-3, 1e-3):
                tensor += step
                assert normalised.measure(best, normalised.train)[0] > least
                tensor -= step
    exact = loaded(exponential(), 4, scaling="window")
    assert exact.measure(exact.references(9)["AR(1) of changes"](), exact.test)[0] < 1e-9


# ------------------------------------------------------------------------------------------------------------ warnings


def test_a_moving_level_is_named_before_training() -> None:
    """A warning names the column, the ranges of all parts and the distance; not where windows are normalised."""
    rows = torch.cat([exponential(), noise(200, 1)], 1)
    (warning,) = loaded(rows, 10).warnings

    assert warning.startswith(
        "noise, column 'c0' leaves the range of its training rows: the training rows 1000 to 1.47267e+08, "
    )
    assert (
        "the validation rows 1.62755e+08 to 8.04049e+09, the test rows 8.88611e+09 to 4.38996e+11, up to 1.52e+04 " in warning
    )
    assert "scaling='window'" in warning
    assert loaded(rows, 10, scaling="window").warnings == ()


def test_a_nearly_constant_column_is_named_before_training() -> None:
    """One tick among equal training rows: the warning names the column, and its distance once it moves, however seldom."""
    rows = torch.cat([noise(150, 1), torch.full((150, 1), 3.0, dtype=EXACT)], 1)
    rows[10, 1] += 0.001
    rows[149, 1] = 4.0
    for scaling in ("training", "window"):
        (warning,) = loaded(rows, 10, scaling=scaling).warnings
        assert warning.startswith("noise, column 'c1' leaves the range of its training rows: the training rows 3 to 3.001, ")
        assert "up to 9.54e+03 standard deviations" in warning
        assert "98.9% of its training rows are equal: leave it out" in warning


def test_ordinary_data_have_no_warning() -> None:
    """A few values beyond the training rows are no moving level: neither the weather, nor noise with an outlier."""
    rows = noise(200, 3)
    rows[190, 1] = 50  # an outlier
    rows[180:, 2] = rows[:120, 2].max() + 0.1  # many values, hardly outside

    assert loaded(rows, 5).warnings == ()
    assert Forecasting().load(CPU, EXACT).warnings == ()


def test_of_many_columns_five_are_named() -> None:
    """The farthest first, and the others are counted."""
    rows = torch.arange(100, dtype=EXACT).unsqueeze(1) ** torch.arange(1, 9, dtype=EXACT)
    warnings = loaded(rows, 5).warnings

    assert [warning.split("'")[1] for warning in warnings[:5]] == ["c7", "c6", "c5", "c4", "c3"]
    assert warnings[5:] == ("noise: 3 more columns leave the range of their training rows",)


def test_a_search_gives_the_warnings_of_its_data(prices: Path) -> None:
    """They come with the warnings about the network, before training."""
    prices.write_bytes(text(exponential(60)).replace(b"date", b"timestamp"))
    search = Search(Strategy.named("default", installed()), data=Forecasting(csv=str(prices)).load(CPU, torch.float32))
    notes = [warning for warning in search.warnings() if warning.startswith("prices.csv")]

    assert notes[0] == "prices.csv: column 'timestamp' holds times and is not forecast"
    assert notes[1].startswith("prices.csv, column 'c0' leaves the range of its training rows")


# ----------------------------------------------------------------------------------------------------- files of users


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of prices in the working directory, relative to it."""
    (tmp_path / "prices.csv").write_bytes(text(noise(60, 2).exp()))
    monkeypatch.chdir(tmp_path)
    return Path("prices.csv")


def test_a_file_is_forecast_as_the_shipped_series_is(prices: Path) -> None:
    """The task reads the columns that were chosen of a file, in its windows; without a choice, all."""
    loaded = Forecasting(csv=str(prices), columns=["c1"], returns=True, window=4).load(CPU, EXACT)
    returns = read(prices.read_bytes(), "prices", returns=True)

    assert loaded.sizes == {"inputs": 1, "outputs": 1}
    assert same(loaded.test, data(attrs.evolve(returns, rows=returns.rows[:, 1:], names=("c1",)), 4, CPU, EXACT).test)
    assert Forecasting(csv=str(prices)).load(CPU, EXACT).sizes == {"inputs": 2, "outputs": 2}


@pytest.mark.parametrize("path", ["nowhere.csv", ".", "prices.csv/c0", "\0", ""])
def test_a_file_that_cannot_be_read_is_refused(prices: Path, path: str) -> None:
    """What is not there, is a folder, or cannot be a path, is a DataError that gives the path."""
    with pytest.raises(DataError, match=r"the CSV file .* cannot be read: .*; give the path of a file that can") as refused:
        Forecasting(csv=path).load(CPU, EXACT)

    assert f"the CSV file {path} cannot" in str(refused.value)


def test_a_file_that_has_changed_is_refused(prices: Path) -> None:
    """With the digest of its bytes a file is read, and after any change no longer."""
    digest = hashlib.sha256(prices.read_bytes()).hexdigest()
    held = Forecasting(csv=str(prices), digest=digest)
    assert held.load(CPU, EXACT).sizes == {"inputs": 2, "outputs": 2}
    prices.write_bytes(prices.read_bytes() + b"\n")

    with pytest.raises(DataError, match=rf"prices.csv is not the file that the digest was taken of: .*, not {digest}; "):
        held.load(CPU, EXACT)


OPTIONS = {
    "series is 'seattle_weather' and csv is 'a.csv'; give one of them": {"series": "seattle_weather", "csv": "a.csv"},
    "csv is 3; it must be a string, or left out": {"csv": 3},
    "columns is 'a'; it must be a list of names": {"csv": "a.csv", "columns": "a"},
    "returns is 1; it must be true or false": {"csv": "a.csv", "returns": 1},
    "missing is 'fill'; it must be one of 'fail', 'drop'": {"csv": "a.csv", "missing": "fill"},
    "date is 1; it must be a string, or left out": {"csv": "a.csv", "date": 1},
    "delimiter is ', '; it must be one character, such as ';' or a tab": {"csv": "a.csv", "delimiter": ", "},
    "decimal is ';'; it must be one of '.', ','": {"csv": "a.csv", "decimal": ";"},
    "encoding is 'latin-x'; it must be an encoding that Python knows, such as 'latin-1'": {
        "csv": "a.csv",
        "encoding": "latin-x",
    },
    "scaling is 'window' and window is 1, which has no spread; give a window of at least 2 rows": {
        "scaling": "window",
        "window": 1,
    },
}


@pytest.mark.parametrize("message", OPTIONS)
def test_impossible_options_are_refused(message: str) -> None:
    """Each says what was given and what it must be, before any file is read."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Forecasting(**OPTIONS[message])


TINY = ["--hidden=2", "--seeds=1", "--budget=1", "--criterion=patience:epochs=1", "--criterion=max_nodes:nodes=1", "--plan=end"]


def run(*arguments: str) -> Result:
    """The result of the command line; every error is a nasframe error."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None or isinstance(result.exception, NasframeError)
    return result


def test_a_run_on_a_file_goes_on_from_anywhere(prices: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    """`--csv` and its companions are in the strategy, with the path made absolute; a changed file is refused."""
    flags = ["--csv", str(prices), "--columns", "c1, c0", "--returns", "--missing", "drop"]
    assert run("search", *TINY, "--task", "forecasting:window=5", *flags, "--out", "run").exit_code == 0
    file, folder = prices.absolute(), Path("run").absolute()
    (elsewhere := folder.parent / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)

    assert Strategy.read(folder / "strategy.toml").task == Forecasting(
        csv=str(file),
        window=5,
        columns=("c1", "c0"),
        returns=True,
        missing="drop",
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    assert run("resume", str(folder)).exit_code == 0
    file.write_bytes(file.read_bytes().replace(b"2000-01-01", b"1999-01-01"))
    refused = run("search", "--strategy", str(folder / "strategy.toml"), "--out", "again")
    assert "is not the file that the digest was taken of" in str(refused.exception)
    again = run("search", *TINY, "--strategy", str(folder / "strategy.toml"), "--csv", str(file), "--out", "again")
    assert again.exit_code == 0, "another file has another digest"


def test_a_file_that_is_not_there_is_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is refused before there is a run folder."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(run("search", "--csv", "absent.csv").exception, DataError)
    assert not Path("runs").exists()


# ------------------------------------------------------------------------------------------------------------ mutants


def test_far_values_let_through_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of far values its law fails."""
    monkeypatch.setattr(task, "check_finite", lambda *_: None)
    with pytest.raises(pytest.fail.Exception):
        test_a_value_too_far_from_the_training_rows_is_refused()


# ---------------------------------------------------------------------------------------------------- what is shipped


def test_the_shipped_series_is_complete() -> None:
    """Four years of Seattle's weather: 1461 days of four columns."""
    weather = read(shipped("seattle_weather"), "weather")

    assert weather.names == ("precipitation", "temp_max", "temp_min", "wind")
    assert weather.rows.shape == (1461, 4)
    assert weather.rows[0].tolist() == [0.0, 12.8, 5.0, 4.7]
    assert weather.rows[-1].tolist() == [0.0, 5.6, -2.1, 3.5]


def test_the_task_is_a_part_with_checked_options() -> None:
    """The plugin gives the task `forecasting`; an unknown series or a window that is none is refused."""
    assert nasframe_parts() == [Forecasting]
    assert (Forecasting.kind, Forecasting.name) == ("task", "forecasting")
    assert Forecasting() == Forecasting("seattle_weather")
    with pytest.raises(ValueError, match="series is 'weather'; it must be one of 'seattle_weather'"):
        Forecasting("weather")
    with pytest.raises(ValueError, match="window is 0; it must be a whole number of at least 1"):
        Forecasting(window=0)


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, (10, None)),
        ({"series": "melbourne_pedestrians"}, (24, 24)),
        ({"series": "melbourne_pedestrians", "window": 30}, (30, 24)),
        ({"series": "melbourne_pedestrians", "window": 8}, (8, None)),
        ({"csv": "a.csv"}, (10, None)),
        ({"csv": "a.csv", "season": 7}, (10, 7)),
        ({"csv": "a.csv", "season": 24}, (24, 24)),
    ],
)
def test_window_and_season_are_those_of_the_series(options: dict[str, Any], lengths: tuple[int, int | None]) -> None:
    """Without options they depend on the series; a file does not inherit those of a series that it replaces, whoever replaces it."""
    task = Forecasting(**options)
    file = attrs.evolve(Forecasting(series="melbourne_pedestrians"), csv="a.csv", series=None)

    assert task.lengths() == lengths
    assert Forecasting(**{k: v for k, v in to_plain(task).items() if k != "name"}).lengths() == lengths
    assert file.lengths() == (10, None)


def test_the_series_is_loaded_in_its_parts() -> None:
    """With windows of ten rows the weather has 866, 292 and 293 windows; the sizes are its columns."""
    task = Forecasting().load(CPU, torch.float32)

    assert (task.train.size, task.validation.size, task.test.size) == (866, 292, 293)
    assert task.sizes == {"inputs": 4, "outputs": 4}


# --------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(("name", "expected"), [("mean", 1.1815), ("last value", 0.7450), ("ridge AR(1)", 0.5343)])
def test_references_reach_their_known_errors(name: str, expected: float) -> None:
    """The test MSE of each fixed reference on the weather is the known one, and none of them trains."""
    task = Forecasting().load(CPU, torch.float32)
    inputs, targets = whole(task.test)
    reference = task.references(100)[name]()

    assert task.loss(reference(inputs), targets).item() == pytest.approx(expected, abs=1e-4)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("scaling", ["training", "window"])
def test_a_repeating_series_is_forecast_by_its_last_season(scaling: str) -> None:
    """The seasonal last value of a series of period 3 has no error, in either scaling, and its steps see no later one."""
    task = loaded(noise(3, 2).repeat(20, 1), 4, season=3, scaling=scaling)
    inputs, targets = whole(task.test)
    reference = task.references(9)["seasonal last value"]()

    assert task.loss(reference(inputs), targets).item() < 1e-20
    torch.testing.assert_close(reference(inputs)[:-1], reference(inputs[:-1]))
    with pytest.raises(ValueError, match="season is 11 and window is 10"):
        Forecasting(window=10, season=11)


def test_the_pedestrians_are_shipped() -> None:
    """The series has 4,271 hours of four sensors, and the test MSE of the last hour and of the same hour of the day before are known."""
    task = Forecasting(series="melbourne_pedestrians").load(CPU, torch.float32)
    made = task.references(9)
    last, seasonal = (task.measure(made[name](), task.test)[0] for name in ("last value", "seasonal last value"))

    assert (task.sizes["inputs"], task.train.size, task.validation.size, task.test.size) == (4, 2538, 854, 855)
    assert (last, seasonal) == (pytest.approx(0.4883, abs=1e-4), pytest.approx(0.9058, abs=1e-4))


@real
@pytest.mark.parametrize(
    ("file", "expected"),
    [("g7_2007_2017", ["0.571", "1.147", "0.540"]), ("brics_2007_2017", ["0.684", "1.307", "0.674"])],
)
def test_references_reach_their_known_errors_on_prices(file: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On daily log returns of national indices, with ridge's penalties at the powers of ten, as the known errors have it."""
    monkeypatch.setattr(references, "PENALTIES", references.PENALTIES[::2])
    loaded = Forecasting(csv=f"{REAL}/{file}.csv.gz", returns=True).load(CPU, EXACT)
    inputs, targets = whole(loaded.test)
    made = loaded.references(100)
    errors = [loaded.loss(made[name]()(inputs), targets).item() for name in ("mean", "last value", "ridge AR(1)")]

    assert [f"{error:.3f}" for error in errors] == expected


@real
def test_what_was_dropped_by_others_is_dropped_here() -> None:
    """The G7 columns of all indices, on the days when all seven traded, are the G7 file."""
    g7, indices = (Path(REAL, f"{name}_2007_2017.csv.gz").read_bytes() for name in ("g7", "indices_world20"))
    expected = read(g7, "g7")
    found = read(indices, "indices", columns=expected.names, drop=True)

    assert torch.equal(found.rows, expected.rows)
    assert read(Path(REAL, "skfolio_factors.csv.gz").read_bytes(), "factors").rows.shape == (2264, 5)


def test_ridge_finds_a_linear_law() -> None:
    """Where each row is a linear function of the one before, ridge AR(1) finds that function."""
    law = torch.tensor([[0.9, 0.3], [-0.3, 0.9], [0.5, -0.2]], dtype=EXACT)
    past = noise(200, 2)
    following = past @ law[:-1] + law[-1]

    torch.testing.assert_close(ridge(past, following, 150), law, rtol=0, atol=1e-5)


def test_ridge_is_chosen_on_validation() -> None:
    """Where validation contradicts training, the largest penalty wins: slope near 0, intercept at the targets' mean."""
    past = noise(60, 1)
    following = torch.cat([past[:30], -past[30:]]) + 5
    slope, intercept = ridge(past, following, 30)

    assert abs(slope.item()) < 0.01
    assert intercept.item() == pytest.approx(following[:30].mean().item(), abs=0.01)


@drawn
@given(cases(), st.integers(1, 3))
def test_references_forecast_at_every_step(case: tuple[Tensor, int], batch: int) -> None:
    """Every reference maps [T, B, n] to [T, B, n] for any number of steps, and no step sees a later one."""
    rows, window = case
    inputs = noise((window + 1) * batch, rows.shape[1]).reshape(window + 1, batch, rows.shape[1])
    for make in loaded(rows, window).references(50).values():
        reference = make()
        assert reference(inputs).shape == inputs.shape
        torch.testing.assert_close(reference(inputs)[:-1], reference(inputs[:-1]))


@drawn
@given(
    st.sampled_from([("RNN", nn.RNN, 1), ("LSTM", nn.LSTM, 4), ("GRU", nn.GRU, 3)]), st.integers(1, 8), st.integers(1, 20_000)
)
def test_trained_references_have_about_the_parameters_asked_for(
    kind: tuple[str, type[nn.RNN | nn.LSTM | nn.GRU], int], columns: int, budget: int
) -> None:
    """No other hidden size comes nearer, all parameters train, and from 19 units on the number is within 5 %."""
    name, layer, gates = kind

    def off(units: int) -> int:
        with torch.device("meta"):
            return abs(parameters(layer(columns, units)) + parameters(nn.Linear(units, columns)) - budget)

    task = loaded(noise(10, columns), 2)
    reference = task.references(budget)[name]()
    units = nearest_units(gates, columns, columns, budget)

    assert abs(parameters(reference) - budget) == off(units)
    assert off(units) <= min(off(units + 1), off(max(units - 1, 1)))
    assert all(p.requires_grad for p in reference.parameters())
    assert units < 19 or off(units) <= 0.05 * budget


def test_a_reference_is_the_same_from_the_same_seed() -> None:
    """A factory draws from the global generator and keeps no state: the same seed gives the same weights."""
    make = loaded(noise(20, 2), 3).references(100)["GRU"]
    drawn_twice = []
    for _ in range(2):
        with Seed((1,)).as_global():
            drawn_twice.append(make())

    assert all(map(torch.equal, *(module.parameters() for module in drawn_twice)))
    assert drawn_twice[0] is not drawn_twice[1]
