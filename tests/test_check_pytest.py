"""The conformance kit in pytest: a test for each law of each part, without a test file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 - the first step of training imports it, and it cannot be imported twice
from broken import SOUND, UNSOUND, WAIVING, Install, installer

from nasframe.testing import pytest_plugin
from nasframe.testing.laws import criterion, pruner  # noqa: F401 - what an inner run imports first is gone after it

pytest_plugins = ["pytester"]
Pytester = pytest.Pytester


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    return installer(tmp_path, monkeypatch)


def test_each_law_is_a_test(install: Install, pytester: Pytester) -> None:
    """What a law finds is what its test comes to; the tests beside it run, too; -k chooses; no warning is given."""
    install("sound", SOUND)
    pytester.makepyfile("def test_legal(): pass")
    done = pytester.runpytest_inprocess("--nasframe", "calm", "-W", "error", "-rs", "-v", "-k", "legal or cooldown or frozen")

    done.assert_outcomes(passed=3, skipped=1, deselected=done.parseoutcomes()["deselected"])
    done.stdout.fnmatch_lines(
        [
            "*collected * items / * deselected / 4 selected",
            "test_each_law_is_a_test.py::test_legal PASSED*",
            "nasframe::calm::part.frozen PASSED*",
            "nasframe::calm::criterion.legal PASSED*",
            "nasframe::calm::criterion.cooldown SKIPPED*",
            "SKIPPED [[]1]*cooldown*",
        ]
    )


def test_what_is_broken_is_read_in_words(install: Install, pytester: Pytester) -> None:
    """A law that is broken fails by the kit's own words: no traceback."""
    install("unsound", UNSOUND)
    done = pytester.runpytest_inprocess("--nasframe", "unsound", "-k", "legal")

    done.assert_outcomes(failed=1, deselected=done.parseoutcomes()["deselected"])
    done.stdout.fnmatch_lines(
        ["criterion.legal FAILED for criterion 'calm' of unsound (stranger 1.2)", "  try again: *--replay *"]
    )
    done.stdout.no_fnmatch_line("*Error*")
    done.stdout.no_fnmatch_line("*.py:*")


def test_what_is_waived_is_expected_to_fail(install: Install, pytester: Pytester) -> None:
    """A law that a plugin waives is reported as an expected failure, with the reason of the waiver."""
    install("waived", UNSOUND + WAIVING)
    done = pytester.runpytest_inprocess("--nasframe", "waived", "-k", "legal", "-rx")

    done.assert_outcomes(xfailed=1, deselected=done.parseoutcomes()["deselected"])
    done.stdout.fnmatch_lines(["XFAIL nasframe::calm::criterion.legal*it is tired (until version 2.0)"])


def test_names_in_the_settings(install: Install, pytester: Pytester) -> None:
    """A list `nasframe` names what is checked; a plugin that was not loaded fails with its reason; --nasframe-full tries more."""
    install("sound", SOUND)
    install("unloaded", "import a_module_that_is_nowhere", "other")
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nnasframe = ["sound", "unloaded"]')
    done = pytester.runpytest_inprocess("--nasframe-full", "-k", "legal or usable")

    done.assert_outcomes(passed=1, failed=1, deselected=done.parseoutcomes()["deselected"])
    done.stdout.fnmatch_lines(["*its import failed with ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"])


def test_an_unknown_name(pytester: Pytester) -> None:
    """It is refused before anything runs."""
    done = pytester.runpytest_inprocess("--nasframe", "no_such_part")

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["ERROR: no distribution, plugin or part is called 'no_such_part'; *"])


@pytest.mark.parametrize("order", ["Calm, Call", "Call, Calm"])
def test_every_process_collects_the_same(order: str, install: Install, pytester: Pytester) -> None:
    """pytest-xdist needs the same tests in the same order from each process, where a plugin may return its parts as a set.

    The laws of a part follow each other in a scope, so that one process trains the networks that they share.
    """
    other = "\nCall = attrs.make_class('Call', {}, bases=(Calm,), frozen=True)\nCall.name = 'call'\n"
    install("sound", SOUND.replace("[Calm]", f"[{order}]") + other)
    done = pytester.runpytest_inprocess("--nasframe", "sound", "--collect-only", "-q", "-k", "frozen or described")

    wanted = [f"nasframe::{part}::part.{law}" for part in ("call", "calm") for law in ("described", "frozen")]
    assert [line for line in done.outlines if "::" in line] == wanted


def test_parts_of_one_name_are_told_apart(install: Install, pytester: Pytester) -> None:
    """By plugin and kind, where the name alone would not do."""
    quiet = """
@attrs.frozen
class Quiet(nasframe.Pruner):
    name: ClassVar[str] = "calm"

    def remove(self, structure, weights):
        return {}
"""
    install("sound", SOUND.replace("[Calm]", "[Calm, Quiet]") + quiet)
    done = pytester.runpytest_inprocess("--nasframe", "sound", "--collect-only", "-q", "-k", "frozen or legal")

    done.stdout.fnmatch_lines(
        [
            "nasframe::sound-criterion-calm::part.frozen",
            "nasframe::sound-criterion-calm::criterion.legal",
            "nasframe::sound-pruner-calm::part.frozen",
        ]
    )


def test_a_run_without_checks_pays_nothing() -> None:
    """The module itself imports neither torch nor the kit."""
    code = f"import runpy, sys; runpy.run_path({pytest_plugin.__file__!r}); print({{'torch', 'nasframe'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
