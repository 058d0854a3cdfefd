"""The pictures of a task that is not shipped, at the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch
from nasframe_recurrent import TwoToOne
from nasframe_sampling import Finals, SuccessiveHalving
from toy import PLUGINS

from nasframe import Data, Strategy
from nasframe.cli.runs import run
from nasframe.network.model import Model
from nasframe.plugins import Plugin, Plugins
from nasframe.run.folder import Folder
from nasframe.testing.fakes import Noise, Scripted


@attrs.frozen
class Drawn(Noise):
    """A task of a third party, without references, units or names, which draws what a model predicts."""

    name: ClassVar[str] = "drawn"

    def load(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Return the data of noise, with three pictures, of which the second cannot be drawn."""
        data = super().load(device, dtype)

        def draw(model: Model, path: Path) -> None:
            outputs = model(data.test.batch(torch.arange(2))[0])
            if path.name == "broken.txt":
                raise IndexError("no test example 9")
            path.write_text(str(outputs.tolist()))

        return attrs.evolve(data, pictures=dict.fromkeys(("first.txt", "broken.txt", "last.txt"), draw))


FOUND = Plugins((*PLUGINS.found, Plugin("strangers", "tests", "0", (Drawn,))))


def test_a_run_draws_the_pictures_of_a_task_of_a_third_party(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default recipe draws them of the network that it hands over; one that cannot be drawn is named and costs nothing else."""
    strategy = attrs.evolve(
        Strategy.named("default"),
        task=Drawn((("inputs", 3), ("outputs", 2)), (4, -1, 3), (4, -1, 2)),
        backbone=TwoToOne(hidden=2),
        criterion=Scripted(epochs=1, growths=0),
        plan=Finals(epochs=1, architect=SuccessiveHalving(3, suggested=1, updates=1)).steps(),
        seeds=1,
    )
    folder = Folder.create(tmp_path / "run", strategy, FOUND)
    run(folder, folder.search, None, workers=1)
    written, said = {path.name for path in folder.path.iterdir()}, " ".join(capsys.readouterr().out.split())

    assert {"cell.png", "learning.png", "mixing.png", "trials.png", "distribution.png", "summary.md"} <= written
    assert {path for path in written if path.endswith(".txt")} == {"first.txt", "last.txt"}
    assert "broken.txt is not drawn, because the task 'drawn' fails to: IndexError('no test example 9')" in said
