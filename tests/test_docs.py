"""The docs say what the code does: examples run, signatures and laws are those of the code, the tutorial is the tested package."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from full import FULL

import nasframe
from nasframe.cli.flags import strategy_values
from nasframe.cli.main import cli
from nasframe.plugins import HOOKS, KINDS
from nasframe.records import Record
from nasframe.testing.check import QUICK, check
from nasframe.testing.law import laws_of

ROOT = Path(__file__).parent.parent
DOCS, STRANGER = ROOT / "docs", ROOT / "tests" / "stranger"
PACKAGE = [STRANGER / "pyproject.toml", *sorted((STRANGER / "stranger_cells").glob("*.py"))]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_functions_of_each_equation_exist() -> None:
    """Each row of the page on Jie & Gao (2021) names functions that can be imported, and each equation occurs."""
    page = (DOCS / "jie-gao-2021.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|") and "---" not in line]
    for where, _, code in (row for row in rows if row[0] != "paper"):
        names = re.findall(r"`([\w.]+)`", code)
        assert names, where
        for name in names:
            found = pkgutil.resolve_name(name.rpartition(".")[0])
            fields = {f.name for f in attrs.fields(found)} if attrs.has(found) else set()
            assert hasattr(found, name.rpartition(".")[2]) or name.rpartition(".")[2] in fields, name
    numbered = [row[0].partition(", Table")[0] for row in rows if row[0].startswith("Eq")]
    spans = [span for text in numbered for span in re.findall(r"(\d+)(?: to (\d+))?", text)]
    assert {n for a, b in spans for n in range(int(a), int(b or a) + 1)} == {*range(1, 29)}


def test_the_tests_of_the_ledger_exist() -> None:
    """Each row about a paper and its code names a test that holds what nasframe does."""
    page = (DOCS / "ledger.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|") and "---" not in line]
    for row in (row for row in rows if row[0] != "paper and place"):
        file, _, name = row[-1].strip("`").partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), row[0]


def test_every_record_is_listed() -> None:
    """The page on Python has a row for each class of records, with its kind."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", (DOCS / "python.md").read_text(), re.MULTILINE)

    assert {*rows} == {(cls.__name__, cls.kind) for cls in Record.__subclasses__()}


@pytest.fixture(scope="session")
def generate() -> Any:
    """Return the module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_member_of_an_interface_is_documented(generate: Any) -> None:
    """A method has a docstring, a field a comment that begins with `#:`."""
    missing = [
        f"{interface.__name__}.{name}"
        for interface in KINDS.values()
        for name, value in generate.members(interface).items()
        if not generate.description(interface, name, value)
    ]

    assert missing == []


def test_every_public_name_is_documented(generate: Any) -> None:
    """The public functions and classes of nasframe and of its kit have docstrings."""
    names = {name: getattr(nasframe, name) for name in nasframe.__all__}
    for module in generate.KIT:
        names |= {f"{module.__name__}.{name}": value for name, value in generate.public(module).items()}

    assert [name for name, value in names.items() if callable(value) and not value.__doc__] == []


def test_every_law_is_documented() -> None:
    """A law says what holds, in a sentence, and what the most likely cause of a failure is."""
    laws = {law.id: law for kind in ("part", *KINDS) for law in laws_of(kind)}

    assert [id for id, law in laws.items() if not law.statement.endswith(".") or not law.hint] == []


def test_the_reference_is_complete(generate: Any) -> None:
    """It has a section for each interface, with every member, and an entry for each hook and each public name."""
    text = generate.page("reference.md")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    for interface in KINDS.values():
        shown = re.findall(r"^- (?:Required|Optional): `(\w+)", sections[interface.__name__], re.MULTILINE)
        assert shown == [*generate.members(interface)]
    assert re.findall(r"^- `(\w+)", sections["Hooks"], re.MULTILINE) == [*HOOKS]
    values = {name: getattr(nasframe, name) for name in nasframe.__all__}
    assert {name for name, value in values.items() if inspect.isclass(value) or inspect.isfunction(value)} <= {*sections} | {
        *re.findall(r"^- `(\w+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", ["laws.md", "parts.md"])
def test_other_pages_are_built(generate: Any, page: str) -> None:
    """The page has a section for each kind or plugin."""
    assert generate.page(page).count("\n## ") > 5


def test_the_tutorial_is_the_package() -> None:
    """Each block of the tutorial is in the file that its first line names, and every line of the package in a block."""
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


def test_composing_in_python(capsys: pytest.CaptureFixture[str], short_series: None) -> None:
    """The blocks run one after the other, end in an architecture, and print the text below the last one."""
    names: dict[str, Any] = {}
    for code in blocks("composing.md", "python"):
        exec(compile(code, "composing.md", "exec"), names)  # noqa: S102 - the docs are ours

    assert names["network"].structure.decided
    assert capsys.readouterr().out == "".join(blocks("composing.md", "output"))


def test_growing(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks run one after the other, and print the text below them."""
    names: dict[str, Any] = {}
    for code in blocks("growing.md", "python"):
        exec(compile(code, "growing.md", "exec"), names)  # noqa: S102 - the docs are ours

    assert capsys.readouterr().out == "".join(blocks("growing.md", "output"))


def test_ask_and_tell(short_series: None) -> None:
    """The architect of the page fulfils the laws, and its search ends."""
    names: dict[str, Any] = {"__name__": "ask_tell_page"}
    for code in blocks("ask-tell.md", "python"):
        exec(compile(code, "ask-tell.md", "exec"), names)  # noqa: S102 - the docs are ours
    report = check(names["HillClimbing"])

    assert report.ok, report.text()


def test_measuring(short_series: None) -> None:
    """The blocks run one after the other, and the pruner of the page keeps one candidate of each site."""
    names: dict[str, Any] = {}
    for code in blocks("measuring.md", "python"):
        exec(compile(code, "measuring.md", "exec"), names)  # noqa: S102 - the docs are ours

    structure = names["trained"].network.structure
    assert {a: len(s.candidates) - 1 for a, s in structure.sites()} == {a: len(ids) for a, ids in names["removed"].items()}
    assert len(names["evidence"]) == sum(len(s.candidates) for _, s in structure.sites())
    vectors = [torch.ones_like(alpha) for alpha in names["trained"].network.alphas.values()]
    products, _ = names["trained"].measured(lambda context: names["product"](context, vectors))
    assert all(bool(p.isfinite().all()) for p in products)


def test_relaxations() -> None:
    """The blocks run one after the other, and the parts of the page fulfil the laws of which a case is quickly tried."""
    names: dict[str, Any] = {"__name__": "relaxations_page"}
    for code in blocks("relaxations.md", "python"):
        exec(compile(code, "relaxations.md", "exec"), names)  # noqa: S102 - the docs are ours
    profile = attrs.evolve(QUICK, cases=2 if FULL else 1, least=1, shrinking=0.0)
    for part in ("RandomSubset", "Scaled"):
        report = check(names[part], profile=profile, laws=[f"relaxation.{law}" for law in ("mixing", "inverse", "follows")])
        assert report.ok, report.text()
    report = check(names["Entropy"], profile=profile)
    assert report.ok, report.text()


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
    """Every link to a file leads to one; the pages in docs/generated are built by `make docs`."""
    links = re.findall(r"\]\(([^)#:]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))

    assert [link for link in links if not (page.parent / link).exists() and "generated/" not in link] == []


class TestMutants:
    """Faults that the laws above must see."""

    def test_a_member_without_words(self, generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interface has a method without a docstring."""
        monkeypatch.setattr(nasframe.Pruner, "order", lambda self: (), raising=False)

        with pytest.raises(AssertionError, match="order"):
            test_every_member_of_an_interface_is_documented(generate)

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
