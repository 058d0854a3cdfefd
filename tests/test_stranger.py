"""A distribution that nobody here knows of is installed, checked and searched with as those that are shipped are."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from full import FULL

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "tests" / "stranger"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()

PARTS = {
    ("operation", "gated_step"),
    ("operation", "bottleneck"),
    ("morphism", "widen"),
    ("pruner", "near_strongest"),
    ("criterion", "uphill"),
    ("architect", "sparse"),
    ("relaxation", "sparsemax"),
    ("backbone", "feed_forward"),
}

#: runs searches by the strategies on its standard input, resumes each from its midst, and prints what was found
SEARCHES = """
import itertools, json, sys
import torch
from nasframe import Search, Strategy, installed
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.saved import saved, revived
from nasframe.testing.compare import same
from nasframe.testing.fakes import Noise

plugins = Plugins((*installed().found, Plugin("fakes", "tests", "0", (Noise,))))
for values in json.load(sys.stdin):
    strategy = Strategy.from_dict(values, plugins)
    search = Search(strategy)
    events = iter(search)
    for _ in itertools.islice(events, 7):
        pass
    midst = saved(search.state)
    for _ in events:
        pass
    resumed = Search(strategy, state=revived(*midst, strategy, plugins))
    resumed.run()
    (text, tensors), (again, others) = saved(search.state), saved(resumed.state)
    changes = [record.by.split()[0] for record in search.state.lineage[1:]]
    resumed = text == again and same(tensors, others)
    print(json.dumps({"changes": changes, "same": resumed, "decided": search.network.structure.decided}))
"""

NASFRAME = ("-c", "from nasframe.cli.main import main; main()")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a separate environment `venv`, where the stranger's distribution is installed beside nasframe."""
    folder = tmp_path_factory.mktemp("stranger")
    bin = folder / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    here = sysconfig.get_path("purelib")
    (packages / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    # a copy, so that what a build leaves behind is not left here
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", bin / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-build-isolation", folder / "source"], check=True)
    (bin / "nasframe").write_text(f"#!{bin / 'python'}\nfrom nasframe.cli.main import main\nmain()\n")
    (bin / "nasframe").chmod(0o755)
    return folder


@pytest.fixture
def stranger(environment: Path) -> Run:
    """Runs python with arguments where the stranger's distribution is found, beside nasframe."""
    packages = sysconfig.get_path("purelib", vars={"base": str(environment / "venv")})
    path = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str, input: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            forked.command(*arguments),
            cwd=environment,
            env=os.environ | {"PYTHONPATH": path} | variables,
            input=input,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """Return the standard output of a command that succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(environment: Path, stranger: Run) -> None:
    """In its environment, its parts are listed with its name and version, and nothing was left out."""
    done = stranger(*NASFRAME, "plugins", "--json")
    if FULL:  # with the program of the environment
        command = [environment / "venv" / "bin" / "nasframe", "plugins", "--json"]
        done = subprocess.run(command, cwd=environment, capture_output=True, text=True, check=False)
    rows = json.loads(printed(done))
    found = [row for row in rows if row["distribution"] == "stranger-cells"]

    assert {(row["kind"], row["name"]) for row in found} == PARTS
    version = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["version"]
    assert {(row["plugin"], row["version"], row["state"]) for row in found} == {("stranger_cells", version, "loaded")}
    assert {row["state"] for row in rows} == {"loaded"}


def test_it_keeps_the_contract(stranger: Run) -> None:
    """`nasframe check` finds nothing that is bad about any of its parts, and needs no waiver."""
    done = stranger(*NASFRAME, "check", "stranger-cells", "--json")
    report = json.loads(done.stdout)

    assert {tuple(law["part"].replace("'", "").split()) for law in report["outcomes"]} == PARTS
    assert [law for law in report["outcomes"] if law["status"] not in ("passed", "inapplicable")] == []
    assert report["ok"]
    assert done.returncode == 0


FLAT = {"name": "noise", "sizes": [["inputs", 3], ["outputs", 2]], "inputs": [-1, 3], "outputs": [-1, 2]}
SERIES = FLAT | {"inputs": [4, -1, 3], "outputs": [4, -1, 2]}
TWO_TO_ONE = {"name": "two_to_one", "hidden": 2, "operations": ["sum", "gated_step"]}
DARTS = {"name": "darts_recurrent", "hidden": 2, "operations": ["identity_edge", "bottleneck", "zero_edge"]}
ENDING = [{"name": "epochs", "epochs": 1}, {"name": "uphill", "last": 2}]
SHIPPED = {
    "architect": "first_order",
    "criterion": {"name": "any_of", "parts": ENDING},
    "pruner": "strongest",
    "batch": 3,
    "dtype": "float64",
}
#: by what is tried: of a strategy what differs, and the part that must have changed the network
TOGETHER = {
    "its two-input operation under a shipped architect": ({"task": SERIES, "backbone": TWO_TO_ONE, "growth": ["node"]}, "node"),
    "its one-input operation and its morphism": (
        {"task": SERIES, "backbone": DARTS, "growth": ["widen"], "architect": "exact_second_order"},
        "widen",
    ),
    "its architect and pruner on a shipped backbone": (
        {
            "task": SERIES,
            "backbone": {"name": "darts_recurrent", "hidden": 2},
            "architect": "sparse",
            "pruner": "near_strongest",
        },
        "near_strongest",
    ),
    "its criterion with a shipped one": (
        {
            "task": SERIES,
            "backbone": {"name": "two_to_one", "hidden": 2},
            "growth": [{"name": "node", "form": "gate"}],
            "criterion": {"name": "any_of", "parts": [{"name": "uphill", "epochs": 1}, {"name": "max_updates", "updates": 12}]},
        },
        "strongest",
    ),
    "its backbone with shipped growth and pruner": (
        {"task": FLAT, "backbone": "feed_forward", "growth": ["node"], "plan": "stage"},
        "node",
    ),
    "its backbone with shipped operations": (
        {
            "task": SERIES,
            "backbone": {"name": "feed_forward", "operations": ["tanh_edge", "identity_edge"]},
            "growth": ["node"],
        },
        "node",
    ),
    "every part of the package": (
        {"task": FLAT, "backbone": "feed_forward", "growth": ["widen"], "architect": "sparse", "pruner": "near_strongest"},
        "widen",
    ),
}


def test_its_parts_go_with_others(stranger: Run) -> None:
    """Searches by its parts and shipped ones come to an architecture, and to the same bytes when they are resumed."""
    strategies = [SHIPPED | changes for changes, _ in TOGETHER.values()]
    lines = printed(stranger("-c", SEARCHES, input=json.dumps(strategies), PYTHONWARNINGS="error")).splitlines()

    for (what, (_, part)), line in zip(TOGETHER.items(), lines, strict=True):
        found = json.loads(line)
        assert found["decided"], what
        assert found["same"], what
        assert part in found["changes"], what


def test_it_can_be_left_out(stranger: Run) -> None:
    """NASFRAME_WITHOUT leaves it out, and all else stays."""
    rows = json.loads(printed(stranger(*NASFRAME, "plugins", "--json", NASFRAME_WITHOUT="stranger_cells")))

    assert "stranger-cells" not in {row["distribution"] for row in rows}
    assert "two_to_one" in {row["name"] for row in rows}


def test_the_tutorials_search(stranger: Run) -> None:
    """The search of the tutorial succeeds and grows after each stage but the last; its other commands are tried above."""
    typed = re.findall(r"^\$ (nasframe .*)$", TUTORIAL, re.MULTILINE)
    (search,) = [command for command in typed if not command.startswith(("nasframe check", "nasframe plugins"))]

    assert "grew 2 times" in printed(stranger(*NASFRAME, *shlex.split(search)[1:]))
