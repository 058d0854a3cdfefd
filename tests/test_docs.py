"""The docs say what the code does: examples run, signatures and laws are those of the code, the tutorial is the tested package."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import nasframe
from nasframe.cli.flags import strategy_values
from nasframe.cli.main import cli
from nasframe.plugins import HOOKS, KINDS
from nasframe.testing.mutant import mutants_of

ROOT = Path(__file__).parent.parent
DOCS, STRANGER = ROOT / "docs", ROOT / "tests" / "stranger"
PACKAGE = [STRANGER / "pyproject.toml", *sorted((STRANGER / "stranger_cells").glob("*.py"))]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def generate() -> Any:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["reference.md", "laws.md"])
def test_what_is_written_is_up_to_date(generate: Any, page: str) -> None:
    """The page is what the code makes of itself now; if not, `python docs/generate.py` writes it anew."""
    assert (DOCS / page).read_text() == generate.page(page)


def told(section: str) -> dict[str, tuple[str, str]]:
    """The members that a section of the reference tells, by name: how each is marked, and what follows its name."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", (DOCS / "reference.md").read_text(), re.DOTALL | re.MULTILINE)
    return {name: (mark, rest) for mark, name, rest in re.findall(r"^- (MUST|MAY|GIVEN) `(\w+)(.*)`$", text, re.MULTILINE)}


@pytest.mark.parametrize("interface", KINDS.values(), ids=lambda i: i.__name__)
def test_the_reference_has_every_member(interface: Any) -> None:
    """Every public member of an interface is told, and nothing else; what MUST be there is what it cannot be made without, and
    arguments are told by their names, in their order.
    """
    found = told(interface.__name__)
    public = {n for n in (*vars(interface), *interface.__annotations__) if not n.startswith("_") and n not in ("kind", "name")}
    assert found.keys() == public

    for name, (mark, rest) in found.items():
        bare = name not in vars(interface)
        assert (mark == "MUST") == (bare or name in interface.__abstractmethods__), name
        if inspect.isfunction(getattr(interface, name, None)):
            own = [*inspect.signature(getattr(interface, name)).parameters][1:]
            places = [re.search(rf"[(*, ]{argument}\b", rest) for argument in own]
            assert all(places), name
            assert [p.start() for p in places if p] == sorted(p.start() for p in places if p), name


def test_the_reference_has_every_hook() -> None:
    """Every hook is told, and nothing else."""
    assert told("Hooks").keys() == set(HOOKS)


def test_the_tutorial_is_the_package() -> None:
    """Each block of the tutorial stands in the file that its first line names, and every line of the package in a block."""
    shown: dict[str, set[str]] = {}
    for language in ("python", "toml"):
        for block in blocks("tutorial.md", language):
            name, code = block.split("\n", 1)
            path = name.removeprefix("# ")
            assert code.strip("\n") in (STRANGER / path).read_text(), path
            shown.setdefault(path, set()).update(code.splitlines())

    for file in PACKAGE:
        lines = set(filter(None, file.read_text().splitlines()))
        assert lines - shown[str(file.relative_to(STRANGER))] == set(), file


def test_composing_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks run one after the other, end in an architecture, and print what stands below the last."""
    names: dict[str, Any] = {}
    for code in blocks("composing.md", "python"):
        exec(compile(code, "composing.md", "exec"), names)  # noqa: S102 - the docs are ours

    assert names["network"].structure.decided
    assert capsys.readouterr().out == "".join(blocks("composing.md", "output"))


def test_composing_in_three_forms() -> None:
    """The file and the flags make the strategy that Python makes; the flags leave to the defaults what they do not say."""
    first = blocks("composing.md", "python")[0].replace("network = nasframe.Search(strategy).run()", "")
    names: dict[str, Any] = {}
    exec(compile(first, "composing.md", "exec"), names)  # noqa: S102 - the docs are ours
    strategy = names["strategy"]
    (toml,) = blocks("composing.md", "toml")
    (line,) = re.findall(r"^\$ nasframe search (.*)$", (DOCS / "composing.md").read_text(), re.MULTILINE)
    flags = cli.commands["search"].make_context("search", shlex.split(line)).params
    typed = nasframe.Strategy.from_dict(strategy_values(flags, nasframe.installed()))

    assert nasframe.Strategy.from_toml(toml) == strategy
    assert typed == strategy


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), *ROOT.glob("*.md")], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file leads to one."""
    links = re.findall(r"\]\(([^)#:]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))

    assert [link for link in links if not (page.parent / link).exists()] == []


class TestMutants:
    """Faults that the laws above must see."""

    def test_a_signature_that_has_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interface asks for an argument more than the reference tells."""
        monkeypatch.setattr(nasframe.Pruner, "remove", lambda self, structure, weights, keep: {})

        with pytest.raises(AssertionError, match="remove"):
            test_the_reference_has_every_member(nasframe.Pruner)

    def test_a_member_that_is_new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interface has a member of which the reference does not tell."""
        monkeypatch.setattr(nasframe.Pruner, "order", lambda self: (), raising=False)

        with pytest.raises(AssertionError, match="order"):
            test_the_reference_has_every_member(nasframe.Pruner)

    @pytest.mark.parametrize("spoilt", [lambda text: f"{text}# more\n", lambda text: text.replace("arity", "inputs")])
    def test_a_package_that_has_changed(self, spoilt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file has a line that is not in the tutorial, or a line of the tutorial has changed."""
        shutil.copytree(STRANGER, tmp_path / "stranger")
        file = tmp_path / "stranger" / "stranger_cells" / "operations.py"
        file.write_text(spoilt(file.read_text()))
        monkeypatch.setitem(globals(), "STRANGER", tmp_path / "stranger")
        monkeypatch.setitem(globals(), "PACKAGE", [file])

        with pytest.raises(AssertionError, match=r"operations\.py"):
            test_the_tutorial_is_the_package()


def test_the_mutants_are_those_that_there_are() -> None:
    """In the table of the laws each mutant has a row, in their order, and is seen by the law that must see it."""
    rows = [line.strip("| ").split(" | ") for line in (DOCS / "mutants.md").read_text().splitlines() if line.startswith("| ")][
        2:
    ]
    mutants = [one for kind in ("part", *KINDS) for one in mutants_of(kind)]

    assert [row[:3] for row in rows] == [[one.law, one.fault, " ".join(one.of)] for one in mutants]
    assert all(law in killed.split(", ") for law, _, _, killed in rows)
    assert {law for law, _, _, killed in rows if killed == law} == {one.law for one in mutants}
