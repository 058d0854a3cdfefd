"""`nasframe plugins`: list what is installed, and describe parts and their options."""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nasframe.cli.tables import show
from nasframe.errors import NasframeError

if TYPE_CHECKING:
    from nasframe.interfaces.part import Part
    from nasframe.plugins import Plugin, Plugins


@click.command("plugins")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the distribution and version of each plugin.")
@click.pass_obj
def list_plugins(load: Any, /, names: Sequence[str], as_json: bool) -> None:
    """List the registered parts with a description of each, and the plugins that were not loaded, with the reason.

    With NAMEs of parts, plugins or distributions, print the whole description of each part and its options with their defaults;
    of a strategy, its file.
    """
    plugins: Plugins = load()
    if not names:
        rows = [_row(part, plugin) for plugin in plugins.found for part in plugin.entries]
        if as_json:
            click.echo(json.dumps(rows, indent=1))
            return
        show([{key: row[key] for key in ("kind", "name", "plugin", "description")} for row in rows if row["kind"]])
        for problem in plugins.problems():
            click.echo(f"warning: {problem}", err=True)
        return
    rows = [_row(part, plugin) | _details(part, plugins) for name in names for part, plugin in plugins.called(name)]
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(line for row in rows for line in _lines(row)))


def _row(part: type[Part] | None, plugin: Plugin) -> dict[str, Any]:
    return {
        # A plugin that was not loaded has one row, without a part.
        "kind": part and part.kind,
        "name": part and part.name,
        "description": part and _documentation(part).partition("\n")[0],
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": f"not loaded: {plugin.problem}" if plugin.problem else "loaded",
    }


def _documentation(part: type[Part]) -> str:
    return inspect.getdoc(part) or ""


def _details(part: Any, plugins: Plugins) -> dict[str, Any]:
    """Return a part's documentation, its options by name, each with its default in words, and what they mean.

    A strategy has no options, but the text of its file.
    """
    import attrs

    from nasframe.interfaces.recipe import Recipe

    if part is None:
        return {"import": "", "documentation": "", "options": {}}
    details = {
        "import": _import(part),
        "documentation": _documentation(part),
        "options": {f.name: _default(f.default) for f in attrs.fields(part)},
        # The meaning of an option is what the docstring says under Args. A class may inherit options, so that its bases are
        # read, too; the nearest one wins.
        "meanings": {name: text for cls in reversed(part.__mro__) for name, text in _arguments(cls.__doc__ or "").items()},
    }
    return details | ({"toml": _toml(part.name, plugins)} if issubclass(part, Recipe) else {})


def _import(part: type[Part]) -> str:
    """Return the line that imports the class, from the package if it has the class, and else from the module."""
    package = part.__module__.partition(".")[0]
    exported = getattr(sys.modules.get(package), part.__name__, None) is part
    return f"from {package if exported else part.__module__} import {part.__qualname__}"


def _arguments(documentation: str) -> dict[str, str]:
    """Return what a docstring in the style of Google says about each argument; an option may be that of a base class."""
    _, _, section = inspect.cleandoc(documentation).partition("\nArgs:\n")
    # The section ends at the first line that is not indented, such as "Example:".
    section = textwrap.dedent(re.split(r"\n(?=\S)", section, maxsplit=1)[0])
    # An entry goes on as long as the lines are indented further, or empty.
    entries = re.findall(r"^(\w+): (.*(?:\n[ \n].*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _toml(name: str, plugins: Plugins) -> str:
    """Return the file of a registered strategy, or why there is none: a part of it may belong to a plugin that is left out."""
    from nasframe.search.strategy import Strategy

    try:
        return Strategy.named(name, plugins).to_toml()
    except NasframeError as error:
        return f"# {error}\n"


def _default(value: Any) -> str:
    """Return a default as it would be written in a strategy, or what it depends on."""
    import attrs

    from nasframe.interfaces.part import Part, short_name, to_plain

    if value is attrs.NOTHING:
        return "must be given"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        # Without an instance, a default that is computed from other options cannot be shown.
        return "depends on the others" if value.takes_self else _default(value.factory())
    if value is None:
        return "left out"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    if isinstance(value, Part):
        return short_name(value)
    return value if isinstance(value, str) else json.dumps(to_plain(value))


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a part's description."""
    origin = f"{row['plugin']} ({row['distribution']} {row['version']})"
    yield f"{row['kind']} {row['name']}, of {origin}" if row["kind"] else f"{origin}, {row['state']}"
    yield ""
    if row["import"]:
        yield f"    {row['import']}"
        yield ""
    # the arguments are described with the options below
    if text := re.sub(r"^Args:\n(?:[ \n].*\n?)*", "", row["documentation"], flags=re.MULTILINE).strip():
        yield textwrap.indent(text, "    ")
        yield ""
    width = max(map(len, row["options"]), default=0)
    for name, default in row["options"].items():
        yield f"    {name:<{width}}  {default}"
        if name in row["meanings"]:
            yield textwrap.indent(textwrap.fill(row["meanings"][name], 110), "        ")
    if "toml" in row:
        yield textwrap.indent(row["toml"], "    ")
    yield "" if row["options"] or "toml" in row else "    No options.\n"
