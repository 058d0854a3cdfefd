"""The examples in docstrings run, and give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import nasframe

ROOT = Path(__file__).parent.parent


def modules() -> list[str]:
    """Return the names of all modules of the core and of the shipped plugins."""
    folders = [ROOT / "nasframe", *(p.parent for p in (ROOT / "plugins").glob("*/__init__.py"))]
    paths = [path.relative_to(folder.parent) for folder in folders for path in folder.rglob("*.py")]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_examples_in_docstrings() -> None:
    """Each example of a docstring prints what the docstring says."""
    names = {"nasframe": nasframe}
    tried = failed = 0
    for name in modules():
        result = doctest.testmod(importlib.import_module(name), extraglobs=names)
        tried, failed = tried + result.attempted, failed + result.failed

    assert failed == 0
    assert tried > 10
