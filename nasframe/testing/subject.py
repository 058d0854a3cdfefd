"""A part with everything that laws need to try it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import Backbone, Operation, Part, Strategy, Task
from nasframe.plugins import Plugin, Plugins
from nasframe.testing.examples import Examples, Habitat, Model, Waiver
from nasframe.testing.law import NoCases


@attrs.frozen(eq=False)
class Subject:
    """A part with everything that laws need to try it.

    Args:
        cls: the class of the part.
        plugin: the plugin that has it.
        parts: a strategy of such parts; None if they have options without defaults and the plugin has no examples of them.
        default: the options that are tried with their default only, because the plugin has no examples of the part.
        habitats: those of the plugin, and then those of all others.
        models: strategies of models: those of the plugin, and then those of all others.
        operations: a strategy for each operation of the plugin.
        other_operations: a strategy for each operation of the other plugins.
        sources: the sources of a task (see `Examples`).
        waivers: the waivers of the part.
        plugins: the plugins among which the part is found by its name.
        registered: whether the plugin was among them before.
    """

    cls: type[Part]
    plugin: Plugin
    parts: SearchStrategy[Any] | None
    default: tuple[str, ...]
    habitats: tuple[Habitat, ...]
    models: tuple[SearchStrategy[Model], ...]
    operations: tuple[SearchStrategy[Any], ...]
    other_operations: tuple[SearchStrategy[Any], ...]
    sources: Callable[[Path], tuple[Task, Task]] | None
    waivers: tuple[Waiver, ...]
    plugins: Plugins
    registered: bool

    def __str__(self) -> str:
        return f"{self.cls.kind} {self.cls.name!r}"

    def command(self, law: str, case: str) -> str:
        """Return the command or call that tries a law on the part again, on the given case if there is one."""
        if self.registered:
            return f"nasframe check {self.cls.name} --law {law}" + (f" --replay {case}" if case else "")
        return f"check({self.cls.__name__}, laws=[{law!r}]" + (f", replay={case!r}" if case else "") + ", ...)"

    def searches(self, operations: tuple[Operation, ...] = ()) -> SearchStrategy[Strategy]:
        """Return searches in any habitat; for a backbone, searches in its habitats with this class."""
        # a part may be combined with any backbone; a backbone brings its habitats
        if not issubclass(self.cls, Backbone):
            return st.one_of([habitat.strategies(operations) for habitat in self.habitats])
        habitats = [h for h in self.habitats if h.backbone.name == self.cls.name]
        return st.one_of([habitat.strategies(operations) for habitat in habitats]).map(self._with_class)

    def _with_class(self, strategy: Strategy) -> Strategy:
        fields: Any = attrs.fields(type(strategy.backbone))  # type: ignore[arg-type]
        cls: Any = self.cls
        return attrs.evolve(strategy, backbone=cls(**{f.name: getattr(strategy.backbone, f.name) for f in fields}))


def subject(cls: type[Part], plugin: Plugin, plugins: Plugins, examples: Examples | None = None) -> Subject:
    """Return the subject of a part.

    Args:
        cls: the class of the part.
        plugin: the plugin that has it, which need not be among the others.
        plugins: all plugins.
        examples: by default those of the plugin.
    """
    registered = plugin in plugins.found
    if not registered:
        plugins = Plugins((*plugins.found, plugin))
    # may raise whatever the plugin's code raises; the caller reports it
    given = examples or plugin.examples() or Examples()
    # A part is tried together with parts of other plugins, too: a pruner on every backbone that is installed.
    others = {other: _examples_of(other) for other in plugins.found if other != plugin}
    return Subject(
        cls,
        plugin,
        parts=_parts(cls, given),
        default=() if cls in given.parts else tuple(f.name for f in attrs.fields(cls)),  # type: ignore[arg-type]
        habitats=(*given.habitats, *(habitat for theirs in others.values() for habitat in theirs.habitats)),
        models=(*given.models, *(models for theirs in others.values() for models in theirs.models)),
        operations=tuple(_operations((*plugin.parts, *given.parts), given)),
        other_operations=tuple(parts for other, theirs in others.items() for parts in _operations(other.parts, theirs)),
        sources=given.sources.get(cls) if issubclass(cls, Task) else None,
        waivers=tuple(w for w in given.waivers if w.part is cls),
        plugins=plugins,
        registered=registered,
    )


def _examples_of(other: Plugin) -> Examples:
    with contextlib.suppress(Exception):  # the check of that plugin reports the error
        return other.examples() or Examples()
    return Examples()


def _operations(parts: Iterable[type[Part]], examples: Examples) -> Iterator[SearchStrategy[Any]]:
    for part in dict.fromkeys(parts):
        if issubclass(part, Operation) and (drawn := _parts(part, examples)) is not None:
            yield drawn


def _parts(cls: type[Part], examples: Examples) -> SearchStrategy[Any] | None:
    fields: Any = attrs.fields(cls)  # type: ignore[arg-type]
    if cls not in examples.parts and any(f.default is attrs.NOTHING for f in fields):
        return None
    return examples.parts.get(cls, st.builds(cls)).map(_hashable)


def _hashable(part: Part) -> Part:
    try:
        hash(part)
    except TypeError as error:
        raise NoCases(
            f"it cannot be hashed ({error}): decorate the class with @attrs.frozen, not @attrs.define, and let its fields hold tuples, "
            "not lists"
        ) from error
    return part
