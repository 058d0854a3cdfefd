"""Models: networks whose inputs and outputs are in the units of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import safetensors.torch
import torch
from convolutional import PLUGINS, image_strategy, small
from nasframe_forecasting import Forecasting
from nasframe_images import Images
from nasframe_recurrent import TwoToOne
from torch import Tensor, nn
from toy import toy_strategy

from nasframe import Data, Network, Search, Seed, build, load_model, save_model
from nasframe.errors import DataError, RunError
from nasframe.network.model import Model, Scale, Signature
from nasframe.run.folder import Folder

CPU = torch.device("cpu")


def even(network: Network) -> dict[str, Tensor]:
    """Return the softmax of the alphas of each site, as DARTS computes mixing weights."""
    return {address: alpha.detach().softmax(0) for address, alpha in network.alphas.items()}


class Mixed(nn.Module):
    """A network with even mixing weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the class scores at equal mixing weights."""
        return self.network(inputs, even(self.network))


def test_images_are_taken_in_as_they_are(tmp_path: Path) -> None:
    """In uint8, and the scores are those of the normalised images."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (24, 8, 8), dtype=np.uint8), np.arange(24, dtype=np.uint8) % 2
    np.savez(tmp_path / "images.npz", x_train=x[:16], y_train=y[:16], x_test=x[16:], y_test=y[16:])
    data = Images(npz=str(tmp_path / "images.npz")).load(CPU, torch.float64)
    network = build(small().initial(data.sizes, 1), Seed((0,))).double().eval()
    inputs, _ = data.test.batch(torch.arange(8))
    model = Model(Mixed(network), data.inputs, data.outputs)  # type: ignore[arg-type]

    torch.testing.assert_close(model(torch.tensor(x[16:, None])), network(inputs, even(network)), rtol=0, atol=1e-13)


def series(path: Path, level: float = 50.0, **options: Any) -> tuple[Data, Tensor]:
    """The data of a noisy series of two columns, loaded in float32, and its rows."""
    rows = level + torch.randn(60, 2, generator=Seed(("rows",)).generator(), dtype=torch.float64).cumsum(0)
    path.write_text("a,b\n" + "\n".join(f"{a!r},{b!r}" for a, b in rows.tolist()))
    return Forecasting(csv=str(path), window=3, **options).load(CPU, torch.float32), rows


def gru(data: Data) -> Model:
    """A model of an untrained network in float32."""
    with Seed((0,)).as_global():
        network = data.references(100)["GRU"]()
    return Model(network, data.inputs, data.outputs, data.signature).eval()  # type: ignore[arg-type]


LEVELS = pytest.mark.parametrize("level", [0.0, 1e5, 1e9])
SCALING = pytest.mark.parametrize("scaling", ["training", "window"])


@LEVELS
@SCALING
def test_a_model_is_as_good_as_its_summary_says(tmp_path: Path, level: float, scaling: str) -> None:
    """The error of its forecasts of raw rows, in standard deviations of the training rows, is that of the task's metric."""
    data, rows = series(tmp_path / "rows.csv", level, scaling=scaling)
    model = gru(data)
    windows = rows[45:].unfold(0, 4, 1).permute(2, 0, 1)
    forecast = model(windows[:-1])[-1]
    error = ((forecast - windows[-1]) / rows[:36].std(0, correction=0)).square().mean().item()

    assert forecast.dtype == torch.float64
    assert forecast.unique().numel() == forecast.numel()
    assert error == pytest.approx(data.measure(model.network, data.test)[1]["mse"], rel=1e-5)


@SCALING
def test_a_network_that_repeats_its_inputs_repeats_the_rows(tmp_path: Path, scaling: str) -> None:
    """Scaling and scaling back are each other's inverse, in the units of the data."""
    data, rows = series(tmp_path / "rows.csv", scaling=scaling)
    raw = rows[:12].unfold(0, 3, 1).permute(2, 0, 1)
    inputs, _ = data.train.batch(torch.arange(10))

    assert data.inputs is not None
    torch.testing.assert_close(data.inputs(raw).float(), inputs, rtol=0, atol=1e-6)
    torch.testing.assert_close(Model(nn.Identity(), data.inputs, data.outputs)(raw), raw, rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_scales_stay_in_float64(tmp_path: Path) -> None:
    """A model in half precision still knows a level of 1e9, and outputs are in the wider of the dtypes of inputs and network."""
    data, rows = series(tmp_path / "rows.csv", 1e9)
    model = gru(data)
    assert {scale.mean.dtype for scale in (model.inputs, model.half().inputs, model.float().inputs) if scale} == {torch.float64}
    window = rows[:3, None]

    assert (model(window) - 1e9).abs().max() < 100
    for dtype, expected in ((torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)):
        assert model((window - 1e9).to(dtype)).dtype == expected
    assert model(window.long()).dtype == torch.float64, "whole numbers at a level of 1e9, too"
    assert model.double()(window.float()).dtype == torch.float64


REFUSED = {
    "the input has shape (5, 3, 2), but the model expects a tensor of numbers of shape (time=3, batch, columns=2: a, b); permute or "
    "slice its axes": lambda rows: rows[:15].reshape(5, 3, 2),
    "the input has shape (3, 2), but": lambda rows: rows[:3],
    "the input has shape (3, 1, 1), but": lambda rows: rows[:3, None, :1],
    "the input is of type ndarray, but the model expects a tensor of numbers of shape (time=3, batch, columns=2: a, b); write "
    "torch.as_tensor(x)": lambda rows: rows[:3, None].numpy(),
    "the input is of type list, but": lambda rows: rows.tolist(),
    "the input has dtype torch.complex128, but": lambda rows: rows[:3, None] * 1j,
    "the input has dtype torch.bool, but": lambda rows: rows[:3, None] > 0,
}


@pytest.mark.parametrize("message", REFUSED)
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, message: str) -> None:
    """The error gives the shape that is expected; batch before time is refused where the shape shows it."""
    data, rows = series(tmp_path / "rows.csv")
    with pytest.raises(DataError) as refused:
        gru(data)(REFUSED[message](rows))

    assert str(refused.value).startswith(message)


@SCALING
def test_a_forecast_goes_on_from_its_forecasts(tmp_path: Path, scaling: str) -> None:
    """Each step is the model's output for the last window of rows and earlier forecasts; earlier rows have no influence."""
    data, rows = series(tmp_path / "rows.csv", scaling=scaling)
    model = gru(data)
    forecast = model.forecast(rows, 5)
    for step in range(5):
        known = torch.cat([rows, forecast[:step]])[-3:]
        torch.testing.assert_close(forecast[step], model(known[:, None])[-1, 0], rtol=0, atol=1e-12)

    assert forecast.shape == (5, 2)
    assert not forecast.requires_grad
    assert torch.equal(model.forecast(rows[-3:], 5), forecast)
    several = torch.stack([rows, rows.flip(0)], 1)
    torch.testing.assert_close(model.forecast(several, 5)[:, 0], forecast)
    torch.testing.assert_close(model.forecast(several, 5)[:, 1], model.forecast(rows.flip(0), 5))
    assert model.forecast(rows.float(), 1).dtype == torch.float32


FORECASTS: dict[str, Callable[[Model, Tensor], object]] = {
    "rows has shape (2, 2); a forecast needs at least 3 rows, the latest last, of shape (time, columns) or (time, batch, columns), "
    "where an input is (time=3, batch, columns=2: a, b)": lambda model, rows: model.forecast(rows[:2], 1),
    "rows has shape (60, 1);": lambda model, rows: model.forecast(rows[:, :1], 1),
    "rows has shape (2, 30, 2);": lambda model, rows: model.forecast(rows.reshape(2, 30, 2), 1),
    "the input is of type ndarray, but": lambda model, rows: model.forecast(rows.numpy(), 1),  # type: ignore[arg-type]
    "row -2 of rows, counted from the end, has a value in column 'b' that is not a finite number; a forecast is computed from the "
    "last 3 rows": lambda model, rows: model.forecast(
        rows.index_put((torch.tensor(58), torch.tensor(1)), torch.tensor(torch.nan).double()), 1
    ),
    "steps is 0; it must be a whole number of at least 1": lambda model, rows: model.forecast(rows, 0),
    "steps is 1.5;": lambda model, rows: model.forecast(rows, 1.5),  # type: ignore[arg-type]
    "this model does not forecast rows of a time series": lambda model, rows: Model(model.network).forecast(rows, 1),
}


@pytest.mark.parametrize("message", FORECASTS)
def test_a_forecast_that_cannot_be_made_is_refused(tmp_path: Path, message: str) -> None:
    """The error says what rows and steps must be."""
    data, rows = series(tmp_path / "rows.csv")
    with pytest.raises(DataError) as refused:
        FORECASTS[message](gru(data), rows)

    assert str(refused.value).startswith(message)


def finished(scaled: bool) -> Search:
    """A search that is not over; its model can be saved all the same."""
    search = Search(toy_strategy(backbone=TwoToOne(hidden=3)))
    columns = search.data.sizes["inputs"]
    scale = Scale(torch.arange(1.0, columns + 1), torch.full((columns,), 2.0), window=True) if scaled else None
    signature = Signature(("time", "batch", "columns"), (4, None, columns), ("a", "b")) if scaled else None
    search.data = attrs.evolve(search.data, inputs=scale, outputs=scale, signature=signature)
    return search


def of_images() -> Search:
    """A search whose network has buffers that are whole numbers."""
    return Search(image_strategy())


@pytest.mark.parametrize(
    "search", [lambda: finished(True), lambda: finished(False), of_images], ids=["scaled", "plain", "images"]
)
def test_a_model_goes_through_a_folder(tmp_path: Path, search: Callable[[], Search]) -> None:
    """What is loaded is what was written, tensor by tensor, in its dtype, mode and structure, scaled or not."""
    search = search()
    save_model(search.model, tmp_path / "some" / "where")
    loaded, model = load_model(tmp_path / "some" / "where", PLUGINS), search.model

    assert loaded.network.structure == model.network.structure
    assert not any(module.training for module in loaded.modules())
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert (loaded.inputs is None) == (search.data.inputs is None)
    assert loaded.signature == search.data.signature
    assert [scale and scale.window for scale in (loaded.inputs, loaded.outputs)] == [
        scale and scale.window for scale in (model.inputs, model.outputs)
    ]


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """A folder of a run that is not over, one that is no run's, and one whose weights are damaged."""
    search = finished(True)
    folder = Folder.create(tmp_path / "run", search.strategy, PLUGINS)
    with pytest.raises(RunError, match=r"the run in .*run is not over; bring it to its end: nasframe resume .*run"):
        load_model(folder.path, PLUGINS)
    with pytest.raises(RunError, match="give a file that a run wrote when it was over"):
        load_model(tmp_path, PLUGINS)
    save_model(search.model, folder.path)
    weights = folder.path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"the weights or scales of .* cannot be read"):
        load_model(folder.path, PLUGINS)
    save_model(search.model, folder.path)
    for description in (
        b"{",
        b'{"window": []}',
        b'{"window": [], "signature": {"axis": [1]}}',
        b'{"window": 1, "signature": 1}',
    ):
        tensors = {"inputs.mean": torch.zeros(2), "inputs.std": torch.ones(2)}
        content = safetensors.torch.save(tensors, {"description": description.decode()})
        (folder.path / "scales.safetensors").write_bytes(content)
        with pytest.raises(RunError, match=r"the weights or scales of .* cannot be read"):
            load_model(folder.path, PLUGINS)
