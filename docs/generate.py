"""Write the reference pages from docstrings: `make docs` puts reference.md, laws.md and parts.md into docs/generated/.

The pages are not committed, so that they cannot become outdated.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

import nasframe
from nasframe.plugins import HOOKS, KINDS, Hooks
from nasframe.testing import assertions, check, examples, fakes, histories, report, strategies, trained
from nasframe.testing.law import laws_of

FOLDER = Path(__file__).parent / "generated"

#: the modules of nasframe.testing that plugin authors use
KIT: tuple[ModuleType, ...] = (check, report, examples, strategies, trained, assertions, fakes, histories)


@attrs.frozen
class Plain:
    """An annotation that is shown as it is written in the code."""

    text: str

    def __repr__(self) -> str:
        return self.text


def signature(what: Callable[..., Any]) -> str:
    """Return the signature of a function or a class, without `self` and without quotes around annotations."""
    if inspect.isclass(what) and issubclass(what, Exception):
        return ""
    found = inspect.signature(what)
    parameters = [
        p.replace(annotation=Plain(p.annotation)) if isinstance(p.annotation, str) else p
        for name, p in found.parameters.items()
        if name not in ("self", "cls")
    ]
    given = found.return_annotation
    returns = found.empty if inspect.isclass(what) else Plain(given) if isinstance(given, str) else given
    text = str(found.replace(parameters=parameters, return_annotation=returns)).replace("= NOTHING", "= ...")
    return re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", text.replace("hypothesis.strategies.", ""))


def members(interface: type) -> dict[str, Any]:
    """Return the public members of an interface by name; the value is None for a field without a default."""
    declared = dict.fromkeys(n for n in inspect.get_annotations(interface) if n not in ("kind", "name"))
    named = {n: v for n, v in vars(interface).items() if not n.startswith("_") and n not in ("kind", "name")}
    return declared | named


def required(interface: type, name: str) -> bool:
    """Return whether an implementation must define the member."""
    return name in interface.__abstractmethods__ or name not in vars(interface)  # type: ignore[attr-defined]


def description(interface: type, name: str, value: Any) -> str:
    """Return the docstring of a member, or the `#:` comment above a field."""
    if inspect.isfunction(value):
        return inspect.getdoc(value) or ""
    lines = inspect.getsource(interface).splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
    comment: list[str] = []
    while lines[place - 1].lstrip().startswith("#:"):
        place -= 1
        comment.insert(0, lines[place].lstrip(" #:"))
    return " ".join(comment)


def member(interface: type, name: str, value: Any) -> Iterator[str]:
    """Yield the lines about a member of an interface."""
    shown = f"{name}{signature(value)}" if inspect.isfunction(value) else f"{name}: {inspect.get_annotations(interface)[name]}"
    if not inspect.isfunction(value) and name in vars(interface):
        shown += f" = {value!r}"
    yield from entry(
        f"{'Required' if required(interface, name) else 'Optional'}: `{shown}`", description(interface, name, value)
    )


def markdown(text: str) -> Iterator[str]:
    """Yield the lines of a Google-style docstring as Markdown: its arguments become a list."""
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Example|Examples):", line):
            yield f"{line.replace('Args', 'Arguments')}\n"
        else:
            yield re.sub(r"^    (\w+(?:, \w+)*): ", r"- `\1`: ", line).replace("        ", "  ", 1)


def entry(head: str, text: str) -> Iterator[str]:
    """Yield an item of a list and, indented, what follows it."""
    yield f"- {head}\n"
    yield from textwrap.indent("\n".join(markdown(text)), "  ").splitlines()
    yield ""


def documented(name: str, value: Any) -> Iterator[str]:
    """Yield the entry of a function or class and of the methods that a user calls."""
    yield from entry(f"`{name}{signature(value)}`", inspect.getdoc(value) or "")
    if inspect.isclass(value):
        for method, attribute in vars(value).items():
            function = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
            if not method.startswith("_") and inspect.isfunction(function) and method != "forward":
                called = method if isinstance(attribute, property) else f"{method}{signature(function)}"
                summary = (inspect.getdoc(function) or "").split("\n\n")[0]
                yield f"  - `{called}`: {' '.join(summary.split())}"
        yield ""


def public(module: ModuleType) -> dict[str, Any]:
    """Return the public functions and classes that a module defines."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    }


def reference() -> Iterator[str]:
    """Yield the page of all interfaces, hooks and public names."""
    yield from (
        "# Reference",
        "",
        "First the interfaces that a plugin implements, then the other public names. The [tutorial](../tutorial.md) writes a plugin from",
        "beginning to end; [laws.md](laws.md) lists what `nasframe check` verifies.",
        "",
        "## Part",
        "",
        *markdown(inspect.getdoc(nasframe.Part) or ""),
        "",
    )
    for kind, interface in KINDS.items():
        yield from (f"## {interface.__name__}", "", f"Kind `{kind}`.", "", *markdown(inspect.getdoc(interface) or ""), "")
        for name, value in members(interface).items():
            yield from member(interface, name, value)
    yield from ("## Hooks", "", "Functions of the plugin's module, marked with `@nasframe.hookimpl`.", "")
    for name in HOOKS:
        hook = getattr(Hooks, name)
        yield from entry(f"`{name}{signature(hook)}`", inspect.getdoc(hook) or "")
    modules: dict[str, dict[str, Any]] = {}
    for name in dir(nasframe):
        value = getattr(nasframe, name)
        if value not in KINDS.values() and (inspect.isclass(value) or inspect.isfunction(value)):
            modules.setdefault(value.__module__, {})[name] = value
    yield from ("## Other public names", "", "All of them can be imported from `nasframe`.", "")
    for module, values in modules.items():
        yield from (f"### {module}", "", *markdown(inspect.getdoc(importlib.import_module(module)) or ""), "")
        for name, value in values.items():
            yield from documented(name, value)
    yield from ("## The conformance kit", "", 'Install it with `pip install ".[testing]"` in the checkout.', "")
    for kit in KIT:
        yield from (f"### {kit.__name__}", "", *markdown(inspect.getdoc(kit) or ""), "")
        for name, value in public(kit).items():
            yield from documented(name, value)


def laws() -> Iterator[str]:
    """Yield the page of all laws, by kind of part."""
    yield from (
        "# Laws",
        "",
        "`nasframe check` tries these laws on a part: those of every part and those of its kind. A law is tried on small drawn cases, most",
        "of them networks that have trained. `nasframe check NAME --law ID` tries one law alone. A plugin can waive a law that it is known",
        "to break, with a reason and the version until which the waiver holds (`Waiver` in [reference.md](reference.md)).",
        "",
    )
    for kind in ("part", *KINDS):
        chosen = [law for law in laws_of(kind) if law.kind == kind]
        if chosen:
            yield from (f"## {kind}", "")
        for law in chosen:
            yield from entry(f"`{law.id}`", f"{law.statement}\n\nThe most likely cause of a failure: {law.hint}.")


def parts() -> Iterator[str]:
    """Yield the page of all shipped parts, by plugin."""
    yield from ("# Shipped parts", "", "A part is imported from the package of its plugin.", "")
    for plugin in nasframe.installed().found:
        if plugin.distribution == "nasframe":
            yield from (f"## {plugin.name}", "", *markdown(inspect.getdoc(importlib.import_module(plugin.name)) or ""), "")
            for part in plugin.parts:
                yield from entry(f"{part.kind} `{part.name}`: `{part.__name__}{signature(part)}`", inspect.getdoc(part) or "")


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {"reference.md": reference, "laws.md": laws, "parts.md": parts}


def page(name: str) -> str:
    """Return the text of a page."""
    text = "\n".join(line.rstrip() for line in "\n".join(PAGES[name]()).splitlines())
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in PAGES:
        (FOLDER / name).write_text(page(name), encoding="utf-8")
        print(FOLDER / name)
