"""The examples in docstrings run, and give what they show; each function that users call has one."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import nasframe
from nasframe import options
from nasframe.plugins import HOOKS

ROOT = Path(__file__).parent.parent
#: the packages of the shipped plugins
PLUGINS = [path.parent for path in sorted((ROOT / "plugins").glob("*/__init__.py"))]


def modules() -> list[str]:
    """Return the names of all modules of the core and of the shipped plugins."""
    folders = [ROOT / "nasframe", *PLUGINS]
    paths = [path.relative_to(folder.parent) for folder in folders for path in folder.rglob("*.py")]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


@functools.cache
def docstrings() -> list[doctest.DocTest]:
    """Return the docstrings of all modules that have examples."""
    finder, names = doctest.DocTestFinder(), {"nasframe": nasframe}
    found = [test for name in modules() for test in finder.find(importlib.import_module(name), extraglobs=names)]
    return [test for test in found if test.examples]


def imported(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each import from nasframe or a shipped plugin in the Python blocks of a page."""
    packages = {"nasframe", *(folder.name for folder in PLUGINS)}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in packages:
                yield from ((str(node.module), alias.name) for alias in node.names)


def called() -> set[str]:
    """Return the names of the functions that users and authors of plugins call.

    They are offered by nasframe or a shipped plugin, declare options, or are imported in the docs.
    """
    names = {
        (module, name)
        for module in ("nasframe", *(p.name for p in PLUGINS))
        for name in importlib.import_module(module).__all__
    }
    names |= {(options.__name__, name) for name in vars(options) if not name.startswith("_")}
    names |= {each for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) for each in imported(page)}
    values = [getattr(importlib.import_module(module), name) for module, name in names if name not in HOOKS]
    # a function that caches its results, or that hypothesis has changed, is a function, too
    return {f"{value.__module__}.{value.__name__}" for value in values if inspect.isroutine(inspect.unwrap(value))}


def test_examples_in_docstrings(short_series: None) -> None:
    """Each example of a docstring prints what the docstring says."""
    runner = doctest.DocTestRunner()
    for test in docstrings():
        runner.run(test)

    assert runner.failures == 0


def test_functions_have_examples() -> None:
    """Each function that users and authors of plugins call has an example, and no example is skipped."""
    assert called() - {test.name for test in docstrings()} == set()
    assert [test.name for test in docstrings() for example in test.examples if doctest.SKIP in example.options] == []
