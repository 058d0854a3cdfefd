"""Plugins are found by their entry point; one that is broken is named with its reason, and the rest goes on."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest
import torch

from nasframe import Strategy
from nasframe.errors import PluginError, StrategyError, StructureError, UnknownNameError
from nasframe.plugins import Plugins, discover, installed
from nasframe.run.folder import Folder
from nasframe.structure.structure import Structure

OPERATION = """
    from typing import ClassVar
    import attrs, nasframe
    from torch import nn

    @attrs.frozen
    class Minus(nasframe.Operation):
        name: ClassVar[str] = "minus"
        arity: ClassVar[int] = 2
        times: int = nasframe.options.number(1, low=1, whole=True)
        def build(self, *, inputs, hidden):
            return nn.Bilinear(inputs, hidden, hidden)

"""
HOOK = """
    @nasframe.hookimpl
    def nasframe_parts():
        return [Minus]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution of one module, as a package manager would."""
    # loads what is really installed: what a test installs must not be remembered by the process
    installed()
    monkeypatch.syspath_prepend(str(tmp_path))

    def do(module: str, source: str, distribution: str = "stranger", version: str = "1.2") -> None:
        first, _, rest = source.partition("\n")
        (tmp_path / f"{module}.py").write_text(f"{first.lstrip()}\n{textwrap.dedent(rest)}")
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[nasframe]\n{module} = {module}\n")

    return do


def process_settings() -> tuple:
    """What a plugin must leave as it is."""
    return torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads(), os.getcwd()


def problem(plugins: Plugins, name: str | None = None) -> str:
    """Why that plugin was not loaded, or what else is wrong; all others are loaded."""
    (sentence,) = plugins.problems()
    assert [p.name for p in plugins.found if p.problem] == ([] if name is None else [name])
    assert "two_to_one" in plugins.names("backbone")
    return sentence


def test_a_strangers_plugin_is_used_like_a_shipped_one(install) -> None:
    """Its part is registered under its name, with the distribution and version it comes from."""
    install("stranger_ok", OPERATION + HOOK)
    plugins = discover()

    assert "minus" in plugins.names("operation")
    assert plugins.make("operation", {"name": "minus", "times": 2}).times == 2
    assert "stranger_ok (stranger 1.2)" in [str(p) for p in plugins.found]


BROKEN = {
    "misspelt": (
        OPERATION + HOOK.replace("nasframe_parts", "nasframe_part"),
        "unknown hook 'nasframe_part' in plugin",
        "The hooks of this version are nasframe_parts, nasframe_contract, nasframe_examples, without arguments: rename or update the hook",
    ),
    "outdated": (
        OPERATION + HOOK.replace("nasframe_parts()", "nasframe_parts(registry)"),
        "Argument(s) {'registry'} are declared in the hookimpl but can not be found in the hookspec",
        "rename or update the hook",
    ),
    "no_hook": (OPERATION, "it implements no hook; write a function nasframe_parts, marked with nasframe.hookimpl"),
    "import_error": ("import a_module_that_is_nowhere", "its import failed with ModuleNotFoundError: No module named"),
    "syntax_error": ("def (:", "its import failed with SyntaxError"),
    "hook_raises": (OPERATION + HOOK.replace("[Minus]", "1 / 0"), "its hook failed with ZeroDivisionError: division by zero"),
    "not_a_list": (OPERATION + HOOK.replace("[Minus]", "3"), "its hook failed with TypeError"),
    "no_part": (OPERATION + HOOK.replace("[Minus]", "[int]"), "<class 'int'> is not a part: it must be a class with one of"),
    "no_name": (OPERATION.replace('name: ClassVar[str] = "minus"', "pass") + HOOK, "Minus has no name: give it `name:"),
    "no_build": (
        OPERATION.replace("def build", "def built") + HOOK,
        "Minus does not define build, which its interface requires",
    ),
    "no_attrs": (
        OPERATION.replace("@attrs.frozen", "") + HOOK,
        "Minus is not an attrs class: decorate it with @attrs.frozen",
    ),
    "exits": ("import sys; sys.exit(2)", "its import failed with SystemExit: 2"),
    "exits_in_its_hook": (
        OPERATION + HOOK.replace("return [Minus]", "raise SystemExit(3)"),
        "its hook failed with SystemExit: 3",
    ),
    "raises_what_is_no_exception": ("class Odd(BaseException): ...\nraise Odd('odd')", "its import failed with Odd: odd"),
    "other_dtype": (
        "import torch; torch.set_default_dtype(torch.float64)" + OPERATION + HOOK,
        "its import changes torch's default dtype from torch.float32 to torch.float64: a plugin must leave the process as it is",
    ),
    "other_device": (
        "import torch; torch.set_default_device('meta')" + OPERATION + HOOK,
        "its import changes torch's default device from cpu to meta",
    ),
    "no_gradients": (
        "import torch; torch.set_grad_enabled(False)" + OPERATION + HOOK,
        "its import changes whether torch records gradients from True to False",
    ),
    "more_threads": (
        "import torch; torch.set_num_threads(2)" + OPERATION + HOOK,
        "its import changes torch's number of threads",
    ),
    "other_folder": ("import os; os.chdir('/')" + OPERATION + HOOK, "its import changes the working directory from /"),
    "other_dtype_and_failed": (
        "import torch; torch.set_default_dtype(torch.float64); 1 / 0",
        "its import failed with ZeroDivisionError: division by zero",
    ),
    "twice": (
        OPERATION + HOOK.replace("[Minus]", "[Minus, Minus]"),
        "registers two parts of one kind and name: operation 'minus'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_named_and_the_rest_goes_on(install, fault: str) -> None:
    """The sentence names plugin, distribution, version and the fault."""
    source, *expected = BROKEN[fault]
    install(f"stranger_{fault}", source)
    before = process_settings()
    sentence = problem(discover(), f"stranger_{fault}")

    assert process_settings() == before, "what a plugin that is left out has changed is changed back"

    assert sentence.startswith(f"plugin stranger_{fault} (stranger 1.2) was not loaded: ")
    for text in expected:
        assert text in sentence


def test_what_a_plugin_prints(install, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes to the standard error, wherever the plugin prints, so that a command's JSON stays whole."""
    install("stranger_talks", "print('import')" + OPERATION + HOOK.replace("return", "print('hook'); return"))
    assert "minus" in discover().names("operation")
    printed = capsys.readouterr()

    assert printed.out == ""
    assert printed.err == "import\nhook\n"


def test_an_interrupted_import(install) -> None:
    """Ctrl-C while a plugin is imported is the user's, not the plugin's."""
    install("stranger_slow", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        discover()


def test_two_modules_with_one_name(install, tmp_path: Path) -> None:
    """Two distributions whose modules have one name: the second is named and left out, and the first works."""
    install("stranger_shared", OPERATION + HOOK)
    other = tmp_path / "zebra-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: zebra\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[nasframe]\nzebra_operations = stranger_shared\n")
    plugins = discover()

    assert problem(plugins, "zebra_operations") == (
        "plugin zebra_operations (zebra 2.0) was not loaded: it imports the module 'stranger_shared', which stranger:stranger_shared "
        "has registered: rename the module of one of them"
    )
    assert plugins.make("operation", "minus").times == 1
    (first,) = (plugin for plugin in plugins.found if plugin.name == "stranger_shared")
    assert first.examples() is None


def test_two_plugins_with_one_name(install, tmp_path: Path) -> None:
    """A name that two plugins give is reported, and refused when it is used; leaving one out mends it. Other names can be
    used. A search whose strategy could not be read again is not begun.
    """
    clash = OPERATION.replace('"minus"', '"tanh"') + HOOK
    install("stranger_clash", clash)
    plugins = discover()

    clash = (
        r"operation 'tanh' is registered by nasframe_recurrent \(nasframe .*\) and by stranger_clash \(stranger 1\.2\); rename the "
        r"one that is yours, or leave one out: nasframe --without nasframe_recurrent \.\.\. \(NASFRAME_WITHOUT=nasframe_recurrent\), or "
    )
    with pytest.raises(PluginError, match=clash):
        plugins.make("operation", "tanh")
    assert re.match(clash, problem(plugins))
    with pytest.raises(PluginError, match=clash):
        Folder.create(tmp_path / "run", Strategy.named("two-to-one-grow-stage"), plugins)
    assert not (tmp_path / "run").exists()
    assert plugins.make("operation", "relu").name == "relu"
    assert discover(["stranger_clash"]).make("operation", "tanh").name == "tanh"
    assert not [*discover(["stranger_clash"]).problems()]


def test_an_unknown_name_suggests_the_nearest(install) -> None:
    """A misspelt name is answered with the nearest ones, or with all, and with the plugins that were not loaded."""
    install("stranger_broken", "import a_module_that_is_nowhere")
    plugins = discover()

    with pytest.raises(UnknownNameError, match=r"there is no backbone 'two_to_on'; did you mean 'two_to_one'\?"):
        plugins.get("backbone", "two_to_on")
    with pytest.raises(
        UnknownNameError,
        match=r"there is no pruner 'xyz'; there are: [a-z_, ]*perturbation, strongest, [a-z_, ]*threshold; plugin stranger_broken",
    ):
        plugins.get("pruner", "xyz")
    with pytest.raises(
        UnknownNameError, match=r"no operation 'relu:a=1'; the options of .* are written as a table: \{name='relu', \.\.\.\}"
    ):
        plugins.make("operation", "relu:a=1")
    with pytest.raises(UnknownNameError, match=r"is called 'minus'; .*; plugin stranger_broken .* was not loaded: its import"):
        plugins.called("minus")


def test_leaving_out_what_is_not_there() -> None:
    """A misspelt plugin to leave out is an error, so that it is not used after all."""
    with pytest.raises(PluginError, match="cannot leave out nasframe_prunning: no such plugin; there are: nasframe_bilevel"):
        discover(["nasframe_prunning"])


def test_a_structure_without_its_plugin(install) -> None:
    """A structure whose operation is no longer installed says which, and where to look."""
    install("stranger_gone", OPERATION + HOOK)
    plugins = discover()
    backbone = plugins.make("backbone", {"name": "two_to_one", "operations": ["minus", "sum"]})
    text = backbone.initial({"inputs": 1, "outputs": 1}, 1).to_json()
    assert Structure.from_json(text, plugins.make).to_json() == text

    with pytest.raises(StructureError, match=r"cannot be rebuilt here: there is no operation 'minus'.*`nasframe plugins`"):
        Structure.from_json(text, discover(["stranger_gone"]).make)


@pytest.mark.parametrize("description", [3, None, ["tanh"], {}, {"name": 4}])
def test_what_describes_no_part(description: object) -> None:
    """Anything but a name or a table with a name is refused."""
    with pytest.raises(StrategyError, match="does not describe a operation; write its name, or a table with `name`"):
        discover().make("operation", description)


def test_examples_are_found_by_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without the hook has the examples that its submodule `examples` returns; a module without one has none."""
    installed()  # as in `install`
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "stranger-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[nasframe]\nstranger_package = stranger_package\nstranger_file = stranger_file\n")
    (tmp_path / "stranger_package").mkdir()
    (tmp_path / "stranger_package" / "__init__.py").write_text(textwrap.dedent(OPERATION + HOOK))
    (tmp_path / "stranger_package" / "examples.py").write_text("def examples():\n    return 'these'\n")
    (tmp_path / "stranger_file.py").write_text(textwrap.dedent(OPERATION + HOOK).replace("minus", "other"))
    plugins = {plugin.name: plugin for plugin in discover().found}

    assert plugins["stranger_package"].examples() == "these"
    assert plugins["stranger_file"].examples() is None
