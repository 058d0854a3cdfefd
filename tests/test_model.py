"""What is taken away: a network in the units of its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from convolutional import PLUGINS, image_strategy, small
from nasframe_forecasting import Forecasting
from nasframe_images import Images
from nasframe_recurrent import TwoToOne
from torch import Tensor, nn
from toy import toy_strategy

from nasframe import Model, Network, Scale, Search, Seed, build, load_model, save_model
from nasframe.errors import RunError
from nasframe.run.folder import Folder

CPU = torch.device("cpu")


def even(network: Network) -> dict[str, Tensor]:
    """The weights of DARTS's rule."""
    return {address: alpha.detach().softmax(0) for address, alpha in network.alphas.items()}


class Mixed(nn.Module):
    """A network with even mixing weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of the classes."""
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


def test_rows_are_forecast_in_their_own_units(tmp_path: Path) -> None:
    """A network that forecasts the last standardised row forecasts the last row."""
    rows = 50 + 10 * torch.randn(40, 2, generator=Seed(("rows",)).generator(), dtype=torch.float64)
    (tmp_path / "rows.csv").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in rows.tolist()))
    data = Forecasting(csv=str(tmp_path / "rows.csv"), window=3).load(CPU, torch.float64)
    inputs, _ = data.test.batch(torch.arange(4))
    raw = torch.stack([rows[29 + i : 32 + i] for i in range(4)], 1)

    assert data.inputs is not None
    torch.testing.assert_close(data.inputs(raw), inputs, rtol=0, atol=1e-13)
    torch.testing.assert_close(Model(torch.nn.Identity(), data.inputs, data.outputs)(raw), raw, rtol=0, atol=1e-13)


def finished(scaled: bool) -> Search:
    """A search that is not over: what it has is taken away all the same."""
    search = Search(toy_strategy(backbone=TwoToOne(hidden=3)))
    columns = search.data.sizes["inputs"]
    scale = Scale(torch.arange(1.0, columns + 1), torch.full((columns,), 2.0)).double() if scaled else None
    search.data = attrs.evolve(search.data, inputs=scale, outputs=scale)
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
    own, made = model.state_dict(), loaded.state_dict()
    assert own.keys() == made.keys()
    assert all(torch.equal(own[name], made[name]) and own[name].dtype == made[name].dtype for name in own)
    assert (loaded.inputs is None) == (search.data.inputs is None)


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
