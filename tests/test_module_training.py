"""The comparison of arms after a growth in training (docs/measurements/module_training.py): it measures what it says."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SPEC = importlib.util.spec_from_file_location(
    "module_training", Path(__file__).parents[1] / "docs" / "measurements" / "module_training.py"
)
assert SPEC is not None
assert SPEC.loader is not None
training = sys.modules["module_training"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(training)

REAL = os.environ.get("NASFRAME_DATA", "")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The records of a quick run."""
    path = tmp_path_factory.mktemp("training") / "results.jsonl"
    training.main(["--quick", "--tasks", "MLP", "--results", str(path)])
    return training.Records.read(path)


def test_the_first_loss_after_a_growth_is_that_without_growth(records: Any) -> None:
    """Before the first update, the grown model has the training loss of the small one, up to rounding."""
    grown = [r for r in records.results.values() if r.growth.startswith("units") and r.losses]
    assert len(grown) == sum(len(g.arms) for g in training.TASKS[2].growths.values())
    for (row,) in (training.differences(records, [r]) for r in grown):
        assert abs(row[0]) < 1e-5
        assert any(abs(d) > 1e-5 for d in row[1:])


def test_a_reset_optimiser_is_a_rebuilt_one(records: Any) -> None:
    """The losses after a reset are those with a new optimiser, bit for bit, and not those with carried moments."""
    for growth in ("units, skew 0.2",):
        reset, rebuilt, carried = (records.results["MLP", 0, growth, arm].losses for arm in ("reset", "rebuilt", "carried"))
        assert reset == rebuilt != carried


def test_what_was_measured_is_not_measured_again(records: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A second run adds nothing to the file, and prints the tables and draws the picture from it."""
    before = records.path.read_text()
    training.main(["--quick", "--tasks", "MLP", "--results", str(records.path), "--pictures", str(tmp_path)])
    assert records.path.read_text() == before
    assert "bit for bit, in 1 of 1 runs" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["growth-in-training-MLP.png"]


def test_copies_with_equal_shares_remain_equal_and_others_part() -> None:
    """After ten steps of Adam copies with equal shares are equal up to rounding, and those with uneven shares differ."""
    found = {}
    for skew in (0.0, 0.2):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
        x, y = torch.randn(20, 6).double(), torch.randint(3, (20,))
        changes = [training.wider({"0": 8}, skew=skew)[0](model, x)]
        optimiser = torch.optim.Adam(changes[0].model.parameters())
        assert training.apart(changes, changes[0].model) == 0
        training.train(changes[0].model, optimiser, training.TASKS[0], [(x, y)] * 10, training.Arm("carried"))
        found[skew] = training.apart(changes, changes[0].model)
    assert found[0.0] < 1e-10
    assert found[0.2] > 1e-3


def test_the_outgoing_weights_alone_learn_faster_after_a_growth() -> None:
    """With equal copies, carried moments and half the rate of Adam for outgoing weights, the grown model learns as the small one.

    With one rate for all weights it does not, because a sum over two copies moves twice as far.
    """
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)]
    small = torch.nn.Sequential(*layers).double()
    task, x = training.TASKS[0], torch.randn(40, 20, 6).double()
    batches = [(part, torch.randint(3, (20,))) for part in x]
    optimiser = torch.optim.Adam(small.parameters(), eps=1e-30)
    training.train(small, optimiser, task, batches[:20], training.CARRIED)

    losses = {}
    for name in ("small", "grown", "slowed"):
        model, its = copy.deepcopy((small, optimiser))
        if name != "small":
            changes = []
            for grow in training.wider({"0": 8, "2": 8}):
                changes.append(grow(model, x[0]))
                model = changes[-1].model
                changes[-1].follow(its)
            if name == "slowed":
                training.slow_down(its, training.outgoing(changes), 0.5)
        losses[name] = training.train(model, its, task, batches[20:], training.CARRIED)
    assert losses["slowed"] == pytest.approx(losses["small"], abs=1e-10)
    assert losses["grown"] != pytest.approx(losses["small"], abs=1e-4)


@pytest.mark.skipif(not REAL, reason="NASFRAME_DATA does not name the folder of the real data")
@pytest.mark.parametrize(
    ("load", "classes", "examples"), [(training.images, 10, (1000, 2000)), (training.text, 65, (300, 300))]
)
def test_the_real_data_have_three_splits(load: Any, classes: int, examples: tuple[int, int]) -> None:
    """The real data have their classes, and validation and test splits of the stated sizes without a common example."""
    data = load(REAL, 4)
    assert data.classes == classes
    # a piece of text at the end may be missing, because pieces are evenly distributed
    assert all(n - 5 <= len(s[0]) <= n for s, n in zip((data.validation, data.test), examples, strict=True))
    first, second = ({x.numpy().tobytes() for x in split[0]} for split in (data.validation, data.test))
    assert not first & second
