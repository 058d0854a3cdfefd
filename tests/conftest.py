"""One thread and the same examples everywhere."""

import gc
import gzip
import shlex
from typing import Any

import forked
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

torch.set_num_threads(1)

# An example may be a network that trains for a while: few of them, by no clock, and as drawn, for they are small, and to
# shrink one is to train hundreds.
settings.register_profile(
    "laws",
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("full", settings.get_profile("laws"), max_examples=25)
settings.load_profile("laws")


def pytest_collection_finish() -> None:
    """Collect garbage less often, and never among what was imported: it would take a tenth of the time of the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands draw nothing, which takes most of the time of a small run."""
    for name in ("_draw", "_draw_predictions"):
        monkeypatch.setattr(f"nasframe.cli.runs.{name}", lambda *given: None)


@pytest.fixture
def short_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shipped series have 400 rows in a quick run."""
    from full import FULL
    from nasframe_forecasting import task

    def first_rows(name: str) -> bytes:
        lines = gzip.decompress(shipped(name)).splitlines(keepends=True)
        return gzip.compress(b"".join(lines[:401]))

    shipped = task.shipped
    if not FULL:
        monkeypatch.setattr(task, "shipped", first_rows)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Let the processes of pytest-xdist be copies of one that has imported torch, which makes the copies that tests need, too."""
    for spec in specs:
        spec.python = shlex.join(forked.command())
