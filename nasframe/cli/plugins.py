"""`nasframe plugins`: what is installed, and what a part has for options."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import click

from nasframe.cli.reproduce import show
from nasframe.interfaces.part import Part, describe, label
from nasframe.plugins import Plugin, Plugins


@click.command("plugins")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_plugins(load: Any, /, names: Sequence[str], as_json: bool) -> None:
    """List what is registered: kind, name, plugin, distribution, version; and what was not loaded, and why.

    Of a part called NAME, or of each part of a plugin or a distribution, also what it is and its options with their defaults.
    """
    plugins: Plugins = load()
    if not names:
        rows = [_row(part, plugin) for plugin in plugins.found for part in plugin.entries]
        click.echo(json.dumps(rows, indent=1)) if as_json else show(rows)
        return
    rows = [_row(part, plugin) | _told(part) for name in names for part, plugin in plugins.called(name)]
    click.echo(json.dumps(rows, indent=1) if as_json else "\n".join(line for row in rows for line in _lines(row)))


def _row(part: type[Part] | None, plugin: Plugin) -> dict[str, Any]:
    return {
        "kind": part and part.kind,
        "name": part and part.name,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": f"not loaded: {plugin.problem}" if plugin.problem else "loaded",
    }


def _told(part: Any) -> dict[str, Any]:
    """What a part is, and its options by name, each with its default in words."""
    if part is None:
        return {"says": "", "options": {}}
    return {"says": inspect.getdoc(part) or "", "options": {f.name: _default(f.default) for f in attrs.fields(part)}}


def _default(value: Any) -> str:
    """A default as it would be written, or as it is called."""
    if value is attrs.NOTHING:
        return "must be given"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return "depends on the others" if value.takes_self else _default(value.factory())
    if value is None:
        return "left out"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    if isinstance(value, Part):
        return label(value)
    return value if isinstance(value, str) else json.dumps(describe(value))


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    """A part for people."""
    origin = f"{row['plugin']} ({row['distribution']} {row['version']})"
    yield f"{row['kind']} {row['name']}, of {origin}" if row["kind"] else f"{origin}, {row['state']}"
    yield ""
    if row["says"]:
        yield textwrap.indent(row["says"], "    ")
        yield ""
    width = max(map(len, row["options"]), default=0)
    for name, default in row["options"].items():
        yield f"    {name:<{width}}  {default}"
    yield "" if row["options"] else "    No options.\n"
