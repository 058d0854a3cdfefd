"""What a run hands over when its search may collapse."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from nasframe_papers.quality.strategies import strategies
from series_files import text

from nasframe import Search, Strategy
from nasframe.records import Changed, Evaluated
from nasframe.search.changes import harmful
from nasframe.search.compare import FOUND, INHERITED, RANDOM
from nasframe.search.loop import Loop


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two sensors with a daily cycle, on two scales."""
    hours = torch.arange(400, dtype=torch.float64)
    cycle, drift = torch.sin(hours * (2 * math.pi / 24)), torch.sin(hours * (2 * math.pi / 171))
    path = tmp_path_factory.mktemp("sensors") / "sensors.csv"
    path.write_bytes(text(torch.stack((10 + 4 * cycle + drift, 250 - 90 * cycle.roll(3) + 20 * drift), 1)))
    return path


@pytest.mark.parametrize("name", ["mixing 1e-2", "darts_pt fixed"])
def test_no_network_of_the_run_is_better_than_the_one_it_hands_over(name: str, sensors: Path) -> None:
    """It is the best of those of the search space by validation loss, and what else a harmful pruning could have kept was measured."""
    shared = {
        **Strategy.named("default").to_dict(),
        "task": {"name": "forecasting", "csv": str(sensors), "window": 8},
        # `sum` cannot forget: alone at each node it makes a cell that cannot forecast
        "backbone": {"name": "two_to_one", "hidden": 4, "operations": ["tanh", "sum"]},
        "growth": [],
        "nodes": 2,
        "optimiser": {"learning_rate": 3e-2, "epochs": 4},
        "criterion": {"name": "epochs", "epochs": 4},
        "seeds": 1,
    }
    search = Search(Strategy.from_dict({**shared, **strategies(epochs=4, cells=2, updates=8, nodes=2)[name]}))
    search.run()
    rows = {row.name: row for row in search.compare() if isinstance(row, Evaluated)}
    losses = [loss for name in (INHERITED, FOUND, RANDOM) if (loss := rows[name].valid) is not None]

    assert losses[0] > min(losses)  # the tuned cell is not the best one, so that another one must be handed over
    assert Loop(search.strategy, search.data).trainer.measure(search.network)[0] == min(losses)
    changes = [record for record in search.state.lineage if isinstance(record, Changed)]
    harmed = [change for change in changes if harmful(change.valid_before, change.valid_after)]
    assert harmed
    for change in harmed:
        assert change.alternatives
        assert all(one.valid is not None for one in change.alternatives)
