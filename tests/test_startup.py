"""What is imported before anything is asked of nasframe: neither torch nor a plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nasframe.cli.main import cli

#: whatever takes long to import
HEAVY = {
    "torch",
    "numpy",
    "matplotlib",
    "sklearn",
    "nasframe.plugins",
    "nasframe.interfaces",
    "nasframe_forecasting",
    "hypothesis",
}
HELP = [["--version"], ["--help"], *([name, "--help"] for name in cli.commands)]

CALLED = """
import sys
from nasframe.cli.main import main
for arguments in {arguments}:
    sys.argv = ["nasframe", *arguments]
    main()
print(sorted({heavy} & sys.modules.keys()))
"""


def python(code: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def fastest(code: str, times: int = 3) -> float:
    """Return the least processor time of several runs: unlike the time on the clock, it hardly depends on the machine's load."""

    def once() -> float:
        before = os.times()
        assert python(code).returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(times))


def test_help_imports_nothing_heavy() -> None:
    """The version and the help of every command need neither torch nor a plugin."""
    done = python(CALLED.format(arguments=HELP, heavy=HEAVY))

    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert done.stdout.count("Usage: ") == len(HELP) - 1


def test_help_answers_at_once() -> None:
    """It takes below half a second of processor time."""
    assert fastest(CALLED.format(arguments=[["search", "--help"]], heavy=HEAVY)) < 0.5


def test_importing_nasframe_imports_nothing_heavy() -> None:
    """A public name is imported when it is used for the first time."""
    done = python(f"import sys, nasframe; print(sorted({HEAVY} & sys.modules.keys())); nasframe.NasframeError")

    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_run_of_pytest_pays_next_to_nothing(tmp_path: Path) -> None:
    """Where nasframe is installed and nothing is checked, pytest loads its plugin and nothing else of it."""
    heavy = HEAVY - {"numpy", "hypothesis"}  # other plugins of pytest import these
    hook = f"import sys\ndef pytest_configure(config): print(sorted({heavy} & sys.modules.keys()))\n"
    (tmp_path / "conftest.py").write_text(hook)
    (tmp_path / "test_one.py").write_text(
        "import sys\ndef test_one(): assert 'nasframe.testing.pytest_plugin' in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "[]"

    timed = (
        "import pytest, time; t = time.process_time(); import nasframe.testing.pytest_plugin; print(time.process_time() - t)"
    )
    assert min(float(python(timed).stdout) for _ in range(3)) < 0.2


@pytest.mark.parametrize("name", [name for name in cli.commands if name != "check"])
def test_the_help_names_no_part(name: str) -> None:
    """The flags of the core are those of every strategy, so that a plugin can be left out or added."""
    from nasframe import installed

    parts = {part.name for plugin in installed().found for part in plugin.parts if "_" in part.name}
    text = python(CALLED.format(arguments=[[name, "--help"]], heavy=HEAVY)).stdout

    assert {part for part in parts if part in text} == set()
