"""What a stranger reads who checks a plugin with one fault."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from broken import IMAGES, installer

from nasframe.plugins import discover
from nasframe.testing.check import QUICK, check

FOLDER = Path(__file__).parent / "broken"
#: each plugin, and the law that reports its fault; None if it is reported before any law is tried
FAULTS = {
    "claim_too_strong": "morphism.exact",
    "contract_newer": None,
    "contract_older": None,
    "dead_gradient": "operation.gradient",
    "import_error": None,
    "looks_ahead": "criterion.history",
    "name_clash": None,
    "no_claim": "morphism.claim",
    "signature_operation": "part.signature",
    "signature_pruner": "part.signature",
    "writes_weights": "pruner.pure",
}
#: laws whose cases take their time, so that no smaller one is looked for, of which the text shows nothing
SLOW_CASES = ("morphism.exact",)


def settled(text: str, folder: Path) -> str:
    """A text without what depends on the machine, the versions and the cases that were drawn."""
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"(nasframe \d[\w.]*)", "nasframe VERSION", text)
    text = re.sub(r"--replay \S+", "--replay CASE", text)
    text = re.sub(r"(case: +\w+).*", r"\1 ...", text)
    text = re.sub(r"(parent's are in ).*", r"\1NAMES", text)
    return re.sub(r"\d\.\d+(e-\d+)?(?= is allowed|;)", "NUMBER", text)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_read(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is the text in the file beside the plugin."""
    installer(tmp_path, monkeypatch)(fault, (FOLDER / f"{fault}.py").read_text())
    law = FAULTS[fault]
    profile = attrs.evolve(QUICK, shrinking=0.0) if law in SLOW_CASES else QUICK
    report = check(fault, profile=profile, laws=law and [law], plugins=discover(IMAGES))

    assert not report.ok
    assert settled(report.text(), tmp_path) + "\n" == (FOLDER / f"{fault}.txt").read_text()


def test_every_broken_plugin_is_checked() -> None:
    """Each has a text, and nothing else lies about."""
    names = {path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".txt")} - {"__init__.py"}

    assert names == {f"{fault}{suffix}" for fault in FAULTS for suffix in (".py", ".txt")}
