"""The core imports no plugin, a plugin only what it may, and any plugin can be left out."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import forked
import pytest
from full import FULL

import nasframe

ROOT = Path(__file__).parent.parent
#: beside the names of `nasframe` itself, the modules whose names a plugin may use
FOLDERS = ("interfaces", "structure", "network", "change", "modules", "pictures", "testing")
MODULES = {
    "nasframe",
    "nasframe.errors",
    "nasframe.options",
    "nasframe.records",
    "nasframe.search.evaluate",
    "nasframe.search.gain",
    "nasframe.search.plan",
    "nasframe.search.pool",
    "nasframe.search.bilevel",
    "nasframe.search.random_architecture",
}
#: files in tests/ with parts of third parties
THIRD_PARTIES = (
    "batch_sizes.py",
    "controller.py",
    "halving.py",
    "inheriting.py",
    "offspring.py",
    "proportional.py",
    "splitters.py",
    "steepest.py",
    "twins.py",
)
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").exists())
#: those that are blocked one by one
SOME = PLUGINS if FULL else PLUGINS[::4]


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every (module, name) that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def test_the_core_imports_no_plugin() -> None:
    """No file of the core names a plugin in an import."""
    found = [(p, m) for p in (ROOT / "nasframe").rglob("*.py") for m, _ in imports(p) if m.split(".")[0] in PLUGINS]

    assert found == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_imports_public_names_only(plugin: str) -> None:
    """A shipped plugin uses what a stranger's can: the public names of nasframe and of its pictures, and the modules of the plugin."""
    for path in (ROOT / "plugins" / plugin).rglob("*.py"):
        for module, name in imports(path):
            if module.split(".")[0] == "nasframe":
                assert module in MODULES or module.split(".")[1] in FOLDERS, f"{path} imports {module}"
                assert name is None or not name.startswith("_"), f"{path} imports {name}, which is not public"
            assert module.split(".")[0] not in set(PLUGINS) - {plugin}, f"{path} imports {module}"


@pytest.mark.parametrize("file", THIRD_PARTIES)
def test_a_part_of_a_third_party_is_short_and_imports_public_names_only(file: str) -> None:
    """The parts in tests/ use what any plugin may use, and none of them is longer than 80 lines."""
    path = ROOT / "tests" / file
    for module, name in imports(path):
        if module.split(".")[0] == "nasframe" and module != "nasframe.plugins":  # a registration without an entry point
            assert module in MODULES or module.split(".")[1] in FOLDERS, f"{path} imports {module}"
            assert name is None or not name.startswith("_"), f"{path} imports {name}, which is not public"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 80, f"{node.name} in {path}"


def graph() -> dict[str, set[str]]:
    """Return the modules of nasframe that each of its modules imports, also for annotations and within functions."""
    paths = {str(p.relative_to(ROOT).with_suffix("")).replace(os.sep, "."): p for p in (ROOT / "nasframe").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    return {
        name: {m for module, member in imports(path) for m in (module, f"{module}.{member}") if m in modules}
        - {name, "nasframe"}
        for name, path in modules.items()
    }


def test_imports_have_no_circle() -> None:
    """The modules of the core import each other in one direction."""
    graphlib.TopologicalSorter(graph()).prepare()


def test_public_names_exist() -> None:
    """Every name in `nasframe.__all__` can be imported, and there are few enough to be read at a glance."""
    assert all(hasattr(nasframe, name) for name in nasframe.__all__)
    assert len(nasframe.__all__) <= 60


def test_every_shipped_plugin_is_found_by_its_entry_point() -> None:
    """What lies under plugins/ is what the entry points name, one each."""
    assert set(PLUGINS) <= {point.name for point in entry_points(group="nasframe")}


@pytest.mark.parametrize("blocked", [*([plugin] for plugin in SOME), PLUGINS], ids=[*SOME, "all"])
def test_a_search_without(blocked: list[str]) -> None:
    """With any one shipped plugin blocked, or all of them, the others search to the end; what is blocked is named with its reason."""
    command = forked.command(str(ROOT / "tests" / "blocked.py"), ",".join(blocked))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "error"}, check=False)
    assert done.returncode == 0, done.stderr

    grown = 0 if "nasframe_growing" in blocked else 1
    assert done.stdout.startswith(f"without {','.join(blocked)} stage {grown}\n")
    assert done.stdout.count("was not loaded") == len(blocked)
    for plugin in blocked:
        assert f"plugin {plugin} (nasframe" in done.stdout
        assert f"was not loaded: its import failed with ImportError: {plugin} is blocked" in done.stdout
