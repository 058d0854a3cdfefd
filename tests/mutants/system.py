"""Mutants: shipped parts with one fault each, and the law that must detect it."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import attrs

from nasframe import Part
from nasframe.plugins import KINDS as INTERFACES, Plugins
from nasframe.testing.check import QUICK, tried, tries
from nasframe.testing.subject import Subject, subject

#: a case that kills a mutant is not shown to anybody, so it is not shrunk
PROFILE = attrs.evolve(QUICK, shrinking=0.0)
#: "part" stands for the laws of parts of every kind
KINDS = ("part", *INTERFACES)


@attrs.frozen
class Mutant:
    """A shipped part with a fault.

    Args:
        law: the id of the law that must detect the fault.
        of: the kind and the name of the shipped part.
        fault: the fault in words.
        spoil: returns the part with the fault.
    """

    law: str
    of: tuple[str, str]
    fault: str
    spoil: Callable[[Subject], Subject]

    def __str__(self) -> str:
        return f"{self.law}-{self.spoil.__name__}"

    def subject(self, plugins: Plugins) -> Subject:
        """Return the part with the fault."""
        cls = plugins.get(*self.of)
        plugin = next(p for p in plugins.found if cls in p.parts)
        return self.spoil(subject(cls, plugin, plugins))

    def is_killed_by(self, law: str, plugins: Plugins) -> bool:
        """Return whether a law detects the fault."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch may warn of what is faulty
            ((of, one),) = tries([self.subject(plugins)], [law])
            return tried(of, one, PROFILE).status == "failed"

    def killers(self, plugins: Plugins) -> list[str]:
        """Return the ids of all laws that detect the fault."""
        return [law.id for _, law in tries([self.subject(plugins)]) if self.is_killed_by(law.id, plugins)]


def mutant(law: str, kind: str, name: str) -> Callable[[Callable[[Subject], Subject]], Mutant]:
    """Make a mutant of a function that returns the spoilt part; its docstring is the fault in words."""

    def made(spoil: Callable[[Subject], Subject]) -> Mutant:
        return Mutant(law, (kind, name), " ".join(inspect.cleandoc(spoil.__doc__ or "").split()), spoil)

    return made


def overriding(of: Subject, **members: Any) -> Subject:
    """Return the same part with some members of its class replaced."""
    honest: Any = of.cls
    cls: type[Part] = type(honest.__name__, (honest,), members)
    fields = [f.name for f in attrs.fields(honest)]
    parts = None if of.parts is None else of.parts.map(lambda part: cls(**{f: getattr(part, f) for f in fields}))
    plugin = attrs.evolve(of.plugin, parts=tuple(cls if part is honest else part for part in of.plugin.parts))
    plugins = Plugins(tuple(plugin if other == of.plugin else other for other in of.plugins.found))
    return attrs.evolve(of, cls=cls, parts=parts, plugin=plugin, plugins=plugins)


def mutants_of(kind: str) -> tuple[Mutant, ...]:
    """Return the mutants for the laws of a kind of part, in the order of the file."""
    module = importlib.import_module(f"mutants.{kind}")
    return tuple(value for value in vars(module).values() if isinstance(value, Mutant))
