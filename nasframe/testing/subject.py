"""A registered part with all that the laws try it on."""

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
from nasframe.testing.examples import Examples, Habitat, Waiver
from nasframe.testing.law import NoCases


@attrs.frozen(eq=False)
class Subject:
    """A part as the laws see it.

    Args:
        plugin: that gave it.
        parts: what stands for it, with other options each time; None where nobody said what can.
        default: the options of which the default alone is tried, as no examples are given.
        habitats: of every plugin, this one's first.
        operations: of this plugin, for each what stands for it: a morphism may be about them.
        others: the operations of the other plugins, likewise.
        sources: as in Examples, of this part.
        waivers: of this part.
        plugins: among which the part is found by its name.
        registered: whether it is among them already.
    """

    cls: type[Part]
    plugin: Plugin
    parts: SearchStrategy[Any] | None
    default: tuple[str, ...]
    habitats: tuple[Habitat, ...]
    operations: tuple[SearchStrategy[Any], ...]
    others: tuple[SearchStrategy[Any], ...]
    sources: Callable[[Path], tuple[Task, Task]] | None
    waivers: tuple[Waiver, ...]
    plugins: Plugins
    registered: bool

    def __str__(self) -> str:
        return f"{self.cls.kind} {self.cls.name!r}"

    def again(self, law: str, case: str) -> str:
        """What tries a law on it again, on that case if there is one."""
        if self.registered:
            return f"nasframe check {self.cls.name} --law {law}" + (f" --replay {case}" if case else "")
        return f"check({self.cls.__name__}, laws=[{law!r}]" + (f", replay={case!r}" if case else "") + ", ...)"

    def searches(self, operations: tuple[Operation, ...] = ()) -> SearchStrategy[Strategy]:
        """Searches in any habitat; of a backbone, in its own, with this very class."""
        if not issubclass(self.cls, Backbone):
            return st.one_of([habitat.strategies(operations) for habitat in self.habitats])
        own = [habitat.strategies(operations) for habitat in self.habitats if habitat.backbone.name == self.cls.name]
        return st.one_of(own).map(self._of_class)

    def _of_class(self, strategy: Strategy) -> Strategy:
        options: Any = attrs.fields(type(strategy.backbone))  # type: ignore[arg-type]
        cls: Any = self.cls
        return attrs.evolve(strategy, backbone=cls(**{f.name: getattr(strategy.backbone, f.name) for f in options}))


def subject(cls: type[Part], plugin: Plugin, plugins: Plugins, examples: Examples | None = None) -> Subject:
    """A part of a plugin, which may not be among the others yet."""
    registered = plugin in plugins.found
    if not registered:
        plugins = Plugins((*plugins.found, plugin))
    own = examples or plugin.examples() or Examples()
    lent = {other: _lent(other) for other in plugins.found if other != plugin}
    habitats = (*own.habitats, *(habitat for theirs in lent.values() for habitat in theirs.habitats))
    waivers = tuple(w for w in own.waivers if w.part is cls)
    sources = own.sources.get(cls) if issubclass(cls, Task) else None
    operations = tuple(_operations((*plugin.parts, *own.parts), own))
    others = tuple(parts for other, theirs in lent.items() for parts in _operations(other.parts, theirs))
    default = () if cls in own.parts else tuple(f.name for f in attrs.fields(cls))  # type: ignore[arg-type]
    return Subject(cls, plugin, _parts(cls, own), default, habitats, operations, others, sources, waivers, plugins, registered)


def _lent(other: Plugin) -> Examples:
    """What another plugin gives to try parts in: nothing if its hook fails, which its own check tells."""
    with contextlib.suppress(Exception):
        return other.examples() or Examples()
    return Examples()


def _operations(parts: Iterable[type[Part]], examples: Examples) -> Iterator[SearchStrategy[Any]]:
    """For each operation among these parts what stands for it."""
    for part in dict.fromkeys(parts):
        if issubclass(part, Operation) and (drawn := _parts(part, examples)) is not None:
            yield drawn


def _parts(cls: type[Part], examples: Examples) -> SearchStrategy[Any] | None:
    options: Any = attrs.fields(cls)  # type: ignore[arg-type]
    if cls not in examples.parts and any(f.default is attrs.NOTHING for f in options):
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
