"""The README and the pages under docs/ show code and commands that run."""

from __future__ import annotations

import gzip
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from convolutional import image_strategy, small
from nasframe_forecasting.series import shipped
from nasframe_recurrent import Darts, IdentityEdge, Sum, TwoToOne
from toy import toy_strategy

from nasframe import NasframeError, Seed, Strategy, installed
from nasframe.cli.flags import strategy_values
from nasframe.cli.main import cli
from nasframe.testing import assertions
from nasframe.testing.trained import TrainedNetwork

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"


def blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run(code: str, page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a block and return its names."""
    names = {} if names is None else names
    exec(compile(code, page.name, "exec"), names)  # noqa: S102 - the pages are ours
    return names


def commands(page: Path, name: str) -> list[list[str]]:
    """Return the arguments of each `nasframe NAME` in a page."""
    lines = [line.removeprefix("$ ").removeprefix(".venv/bin/") for line in page.read_text().splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"nasframe {name}")]


def test_the_search_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short_series: None
) -> None:
    """The first example searches, compares, saves a model and forecasts with it."""
    monkeypatch.chdir(tmp_path)
    names = run(blocks(README)[0].replace("MaxUpdates(500)", "MaxUpdates(20)"), README)
    printed = capsys.readouterr().out

    assert names["model"].network.structure.decided
    assert names["model"].forecast(names["rows"], steps=2).shape == (2, 4)
    assert "random architecture" in printed
    assert "precipitation" in printed


def test_the_operation_of_the_glossary(capsys: pytest.CaptureFixture[str]) -> None:
    """The operation keeps every law, and a network that contains it trains."""
    page = DOCS / "glossary.md"
    (code,) = blocks(page)
    names = run(code.replace("check(SoftsignOperation)", "check(SoftsignOperation, laws=['operation.shape'])"), page)

    assert "1 passed" in capsys.readouterr().out
    TrainedNetwork.of(toy_strategy(backbone=names["backbone"]), 5)


def test_the_operations_of_the_plugins_page() -> None:
    """The operation on a node has a fast form, and the one on images halves a resolution and keeps its fast form true."""
    minimal, dense, _ = (run(code, DOCS / "plugins.md") for code in blocks(DOCS / "plugins.md"))
    recurrent = TrainedNetwork.of(toy_strategy(backbone=TwoToOne(hidden=3, operations=(Sum(), minimal["MinimalGate"]()))), 5)
    convolution = dense["Convolution"]()

    assert recurrent.network.slow_parts() == []
    assertions.assert_fast_form(recurrent)
    assert convolution.build(channels=2, stride=2, affine=True)(torch.ones(1, 2, 5, 4)).shape == (1, 2, 3, 2)
    assertions.assert_fast_form(TrainedNetwork.of(image_strategy(backbone=small(operations=(convolution,))), 2))


def test_the_morphism_of_the_plugins_page() -> None:
    """The morphism replaces a candidate by the identity, which keeps the mixing weight."""
    made = run(blocks(DOCS / "plugins.md")[2], DOCS / "plugins.md")["ToIdentity"](IdentityEdge())
    parent = TrainedNetwork.of(toy_strategy(backbone=Darts(hidden=3)), 5)
    (request, *_) = (proposal.request for proposal in parent.proposals(made))
    child = parent.after(made.edit(parent.network.structure, request, {}, Seed((0,))))

    assert child.mixing().keys() == parent.mixing().keys()
    assert all(torch.equal(child.mixing()[address], weights) for address, weights in parent.mixing().items())


@pytest.mark.parametrize("page", ["python.md", "images.md", "runs.md", "checking.md", "modules.md", "operators.md"])
def test_the_blocks_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of the page run one after the other, with a file of the shipped series beside them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weather.csv").write_bytes(gzip.decompress(shipped("seattle_weather")))
    names: dict[str, Any] = {}
    for code in blocks(DOCS / page):
        run(code, DOCS / page, names)

    assert names


@pytest.mark.parametrize("page", [README, *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_the_commands_are_understood(page: Path) -> None:
    """Every `nasframe` command of the page has flags that exist; a search makes a strategy."""
    for name, command in cli.commands.items():
        for arguments in commands(page, name):
            flags = command.make_context(name, arguments).params
            given = flags.get("strategy")
            if name != "search" or (given is not None and given not in installed().names("strategy")):
                continue
            if {"minimal_gate", "feed_forward"} & {*re.findall(r"\w+", shlex.join(arguments))}:
                continue  # a part of a page
            try:
                strategy = Strategy.from_dict(strategy_values(flags, installed()))
            except NasframeError as error:
                pytest.fail(f"{shlex.join(arguments)}: {error}")
            assert isinstance(strategy, Strategy)


def test_terms_of_the_glossary_exist() -> None:
    """Every link to the glossary leads to one of its headings."""
    headings = re.findall(r"^### (.+)$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(",", "").replace(" ", "-") for heading in headings}
    used = {
        anchor for page in (README, *DOCS.rglob("*.md")) for anchor in re.findall(r"glossary\.md#([\w-]+)", page.read_text())
    }

    assert len(anchors) == len(headings)
    assert used <= anchors
