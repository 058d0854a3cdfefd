"""Writes docs/reference.md, docs/laws.md and docs/parts.md, of what docstrings and laws say: `python docs/generate.py`."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

import nasframe
from nasframe.plugins import HOOKS, KINDS, Hooks
from nasframe.testing import aged, check, examples, fakes, histories, laws, layouts, report, strategies
from nasframe.testing.law import laws_of

FOLDER = Path(__file__).parent
MADE = "<!-- Written by docs/generate.py: change what the code says, and run it again. -->"

#: what the interfaces take and give
VALUES: Mapping[str, tuple[str, ...]] = {
    "Options of a part": ("number", "choice", "flag", "nested", "operations_validator", "describe", "label"),
    "What an operation tells": ("Pointwise", "Term", "Bound"),
    "What stands where": (
        "Structure",
        "Cell",
        "Node",
        "Site",
        "Candidate",
        "GrownStructure",
        "initial_mixing",
        "add_node",
        "all_but_strongest",
    ),
    "Networks": ("Network",),
    "Modules of a backbone": ("MixedOperation", "Gate", "Axis", "produces", "consumes", "AuxiliaryOutputs"),
    "Changes": ("Proposal", "Change", "Claim", "Take", "Set", "build", "replacement", "Replacement", "candidate_at", "site_at"),
    "Decisions and descent": ("Decision", "Bilevel", "Optimiser", "Seed"),
    "Data": ("Data", "Split", "Scale"),
    "Searches": ("Strategy", "Search", "Stepped", "EpochEnded", "StageEnded", "Changed", "Finished"),
    "What there is to take away": ("Model", "save_model", "load_model"),
}
#: what the kit offers to authors
KIT: Mapping[str, tuple[Any, ...]] = {
    "To check a part": (check.check, check.Profile, report.Report, report.Outcome),
    "To tell what it is checked on": (examples.Examples, examples.Habitat, examples.Waiver),
    "To draw searches": tuple(getattr(strategies, n) for n in ("searches", "sizes", "seeds", "optimisers", "aged")),
    "Parts that a law does not care about": tuple(
        getattr(fakes, n) for n in ("Noise", "Descent", "Endless", "Scripted", "Keep", "Chain", "Kept", "Turned")
    ),
    "Other things to draw": (histories.histories, strategies.removals, strategies.spoilt),
    "The same numbers elsewhere in memory": (layouts.transposed, layouts.strided, layouts.channels_last),
    "A network that has trained": (aged.Aged,),
    "Laws to call by hand": tuple(
        getattr(laws, n)
        for n in ("transaction", "exact", "fast", "blind", "bounded", "tight", "alive", "undisturbed", "masked")
    ),
}


@attrs.frozen
class Plain:
    """An annotation as it stands in the code."""

    text: str

    def __repr__(self) -> str:
        return self.text


def signature(what: Callable[..., Any]) -> str:
    """The signature of a function or a class, without quotes around annotations."""
    found = inspect.signature(what)
    own = [
        p.replace(annotation=Plain(p.annotation)) if isinstance(p.annotation, str) else p
        for name, p in found.parameters.items()
        if name not in ("self", "cls")
    ]
    given = found.return_annotation
    returns = found.empty if inspect.isclass(what) else Plain(given) if isinstance(given, str) else given
    text = str(found.replace(parameters=own, return_annotation=returns)).replace("= NOTHING", "= ...")
    return re.sub(r"ForwardRef\('([^']*)'[^)]*\)", r"\1", text.replace("hypothesis.strategies.", ""))


def members(interface: type) -> dict[str, Any]:
    """The public members of an interface by name; of one that has no value, None."""
    declared = dict.fromkeys(n for n in inspect.get_annotations(interface) if n not in ("kind", "name"))
    named = {n: v for n, v in vars(interface).items() if not n.startswith("_") and n not in ("kind", "name")}
    return declared | named


def mark(interface: type, name: str, value: Any) -> str:
    """MUST: an implementation has it. MAY: it may. GIVEN: it is there already."""
    if name in interface.__abstractmethods__ or name not in vars(interface):  # type: ignore[attr-defined]
        return "MUST"
    if inspect.isfunction(value):
        return "MAY" if (value.__doc__ or "").startswith("MAY") else "GIVEN"
    return "MAY"


def shown(interface: type, name: str, value: Any) -> str:
    """A member as it is written."""
    if inspect.isfunction(value):
        return f"{name}{signature(value)}"
    annotation = inspect.get_annotations(interface)[name]
    return f"{name}: {annotation}" + (f" = {value!r}" if name in vars(interface) else "")


def said(interface: type, name: str, value: Any) -> str:
    """What is said of a member: by its docstring, or by the comment above it."""
    if inspect.isfunction(value):
        return inspect.getdoc(value) or ""
    lines = inspect.getsource(interface).splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
    comment = []
    while lines[place - 1].lstrip().startswith("#:"):
        place -= 1
        comment.insert(0, lines[place].lstrip(" #:"))
    return " ".join(comment)


def words(text: str) -> Iterator[str]:
    """A docstring as Markdown: its arguments are a list."""
    # a letter alone is a symbol, but for an article
    text = re.sub(r"^([a-z]{2,}|a(?= [a-z]{2})) ", lambda word: word[0].capitalize(), text.removeprefix("MAY: "))
    for line in text.splitlines():
        if line in ("Args:", "Returns:"):
            yield f"{line.replace('Args', 'Arguments')}\n"
        else:
            yield re.sub(r"^    (\w+(?:, \w+)*): ", r"- `\1`: ", line).replace("        ", "  ", 1)


def entry(head: str, text: str) -> Iterator[str]:
    """An item of a list, with what is said of it."""
    yield f"- {head}\n"
    yield from textwrap.indent("\n".join(words(text)), "  ").splitlines()
    yield ""


def methods(value: Any) -> dict[str, str]:
    """What can be done with a value, each as it is called, with the first sentence of what is said of it."""
    if not inspect.isclass(value):
        return {}
    found = {}
    for name, member in vars(value).items():
        own = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not name.startswith("_") and inspect.isfunction(own) and name != "forward":
            called = name if isinstance(member, property) else f"{name}{signature(own)}"
            found[called] = " ".join((inspect.getdoc(own) or "").split("\n\n")[0].split())
    return found


def reference() -> Iterator[str]:
    """Every interface, every hook, what they take and give, and what the kit offers."""
    yield from (MADE, "", "# Reference", "")
    yield from (
        "What an implementation MUST have, what it MAY have (it is used where it is there), and what is GIVEN to it. How parts are",
        "made of this: [tutorial.md](tutorial.md). What they are held to: [laws.md](laws.md).",
        "",
        "## Part",
        "",
        *words(inspect.getdoc(nasframe.Part) or ""),
        "",
    )
    yield from entry("MUST `name: ClassVar[str]`", "By which it is called, in strategies and on the command line.")
    for kind, interface in KINDS.items():
        yield from (f"## {interface.__name__}", "", f"Kind `{kind}`.", "", *words(inspect.getdoc(interface) or ""), "")
        for name, value in members(interface).items():
            head = f"{mark(interface, name, value)} `{shown(interface, name, value)}`"
            yield from entry(head, said(interface, name, value))
    yield from ("## Hooks", "", "Functions of the plugin's module, marked with `@nasframe.hookimpl`.", "")
    for name in HOOKS:
        hook = getattr(Hooks, name)
        head = "MAY" if "MAY" in hook.__doc__ else "MUST"
        yield from entry(f"{head} `{name}{signature(hook)}`", inspect.getdoc(hook) or "")
    yield from ("## What the interfaces take and give", "", "All of it is in `nasframe`.", "")
    for title, names in VALUES.items():
        yield from (f"### {title}", "")
        for name in names:
            value = getattr(nasframe, name)
            yield from entry(f"`{name}{signature(value)}`", inspect.getdoc(value) or "")
            for method, promise in methods(value).items():
                yield f"  - `{method}`: {promise}"
            yield ""
    yield from ("## The kit", "", 'In `nasframe.testing`, for which there is `pip install "nasframe[testing]"`.', "")
    for title, offered in KIT.items():
        yield from (f"### {title}", "")
        for value in offered:
            module = value.__module__.removeprefix("nasframe.")
            yield from entry(f"`{module}.{value.__name__}{signature(value)}`", inspect.getdoc(value) or "")


def lawbook() -> Iterator[str]:
    """What each law says, by kind."""
    yield from (MADE, "", "# The laws", "")
    yield from (
        "What `nasframe check` holds a part to: the laws of every part, and those of its kind. A law is tried on drawn cases: small,",
        "down to a single unit, on networks that have trained. It passes; or it is inapplicable, where the part claims nothing that it is",
        "about; or it fails, with what was measured and what is allowed; or it is inconclusive, where too few cases were to the point.",
        "`nasframe check NAME --law ID` tries one alone. A known failure is waived with a reason and a version (`Waiver` in",
        "[reference.md](reference.md)). Each law sees faults that no other law sees: `nasframe mutants` holds it to that.",
        "",
    )
    for kind in ("part", *KINDS):
        own = [law for law in laws_of(kind) if law.kind == kind]
        yield from (f"## {kind}", "")
        for law in own:
            yield from entry(f"`{law.id}`", f"{law.says}\n\nWhere it does not hold, most likely: {law.likely}.")


def shipped() -> Iterator[str]:
    """Every part that is shipped, by plugin and kind, with what its docstring says of its options."""
    yield from (MADE, "", "# The parts that are shipped", "")
    yield from (
        "By the plugin that gives them, which is the package to import them from. What each computes, is built with and has for options is",
        "what its docstring says.",
        "",
    )
    plugins = [p for p in nasframe.installed().found if p.distribution == "nasframe"]
    for plugin in plugins:
        yield from (f"## {plugin.name}", "", *words(inspect.getdoc(importlib.import_module(plugin.name)) or ""), "")
        for part in plugin.parts:
            yield from entry(f"{part.kind} `{part.name}`: `{part.__name__}{signature(part)}`", inspect.getdoc(part) or "")


#: what is written, by file
PAGES: Mapping[str, Callable[[], Iterator[str]]] = {"reference.md": reference, "laws.md": lawbook, "parts.md": shipped}


def page(name: str) -> str:
    """The text of a page."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in "\n".join(PAGES[name]()).splitlines())).strip() + "\n"


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / name).write_text(page(name), encoding="utf-8")
