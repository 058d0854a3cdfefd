"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from convolutional import image_strategy, small
from nasframe_recurrent import Sum, TwoToOne
from toy import toy_strategy

from nasframe import Strategy, installed
from nasframe.cli.flags import strategy_values
from nasframe.cli.main import cli
from nasframe.testing import assertions
from nasframe.testing.trained import TrainedNetwork

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_search(capsys) -> None:
    """The first example prints the events and ends with an architecture that predicts."""
    names: dict = {}
    exec(compile(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0], "README.md", "exec"), names)  # noqa: S102 - the README is ours
    inputs, _ = names["search"].data.test.batch(slice(0, 3))

    assert names["model"].network.structure.decided
    assert names["model"](inputs).shape == (10, 3, 4)
    assert "Changed(" in capsys.readouterr().out


def test_the_operation(capsys) -> None:
    """The operation of the README rides the fast form beside shipped ones, and the check that the README shows is green."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    for wanted in ("class MinimalGate", "check(MinimalGate)"):
        (code,) = [code for code in blocks if wanted in code]
        exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - the README is ours
    parent = TrainedNetwork.of(toy_strategy(backbone=TwoToOne(hidden=3, operations=(Sum(), names["MinimalGate"]()))), 5)

    assert parent.network.slow_parts() == []
    assert names["report"].ok
    assert "passed" in capsys.readouterr().out


def test_the_operation_on_images() -> None:
    """The operation of the README halves a resolution, and the fast form of a cell with it is true."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Convolution" in code]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - the README is ours
    operation = names["Convolution"]()
    parent = TrainedNetwork.of(image_strategy(backbone=small(operations=(operation,))), 2)

    assert operation.build(channels=2, stride=2, affine=True)(torch.ones(1, 2, 5, 4)).shape == (1, 2, 3, 2)
    assertions.assert_fast_form(parent)


def test_the_commands_are_understood() -> None:
    """Every `nasframe search` of the README has flags that exist and makes a strategy that can be."""
    lines = [line for line in README.splitlines() if line.startswith("nasframe search") and "--strategy" not in line]
    assert len(lines) >= 2
    for line in lines:
        _, name, *arguments = shlex.split(line)
        flags = cli.commands[name].make_context(name, arguments).params
        strategy = Strategy.from_dict(strategy_values(flags, installed()))

        assert isinstance(strategy, Strategy)
