"""Plugins with one fault each, what a stranger reads of it, and how a plugin is installed into a temporary folder."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

#: installs a module as a distribution: (module, source, distribution, version)
Install = Callable[..., None]
#: plugins whose backbones take long to train, and are not needed
IMAGES = ["nasframe_convolutional", "nasframe_images"]


def installer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs into a folder that is imported from, as a package manager would."""
    monkeypatch.syspath_prepend(str(folder))

    def install(module: str, source: str, distribution: str = "stranger", version: str = "1.2") -> None:
        monkeypatch.delitem(sys.modules, module, raising=False)  # of another test
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
        info = folder / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[nasframe]\n{module} = {module}\n")

    return install


#: a plugin without a fault, which prints
SOUND = """
from typing import ClassVar

import attrs
import nasframe

@attrs.frozen
class Calm(nasframe.GrowthCriterion):
    name: ClassVar[str] = "calm"

    def decide(self, state, history, proposals):
        print("it is calm")
        return state, nasframe.Decision()

@nasframe.hookimpl
def nasframe_parts():
    return [Calm]
"""
#: the same with a decision that is none
UNSOUND = SOUND.replace("Decision()", "Decision('sleep')")
#: a hook that waives what it breaks
WAIVING = """
@nasframe.hookimpl
def nasframe_examples():
    from nasframe.testing.examples import Examples, Waiver

    return Examples(waivers=(Waiver(Calm, "criterion.legal", "it is tired", "2.0"),))
"""
