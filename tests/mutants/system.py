"""Mutants: a fault in a shipped part or in the core, and the law that must detect it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from nasframe import Part
from nasframe.plugins import KINDS as INTERFACES, Plugins
from nasframe.testing.check import QUICK, Profile, tried, tries
from nasframe.testing.strategies import clear_caches
from nasframe.testing.subject import Subject, subject

#: the cases of a check that authors of parts run; what kills a mutant is not shown, so it is not shrunk
CHECK = attrs.evolve(QUICK, shrinking=0.0)
#: more cases, as the first one that kills a mutant ends the trial
PROFILE = attrs.evolve(CHECK, cases=25)
#: "part" means the laws of parts of every kind
KINDS = ("part", *INTERFACES)

Spoil = Callable[[Subject, pytest.MonkeyPatch], Subject]


@attrs.frozen
class Mutant:
    """A fault of a part or of the core, and the law that must detect it.

    Args:
        law: the id of the law that must detect the fault.
        of: the kind and the name of the shipped part that has the fault, or that meets it in the core.
        fault: the fault in words.
        name: the name of the function that makes it.
        spoil: returns the part with the fault, or changes the core.
        core: whether it changes the core.
    """

    law: str
    of: tuple[str, str]
    fault: str
    name: str
    spoil: Spoil
    core: bool = False

    def __str__(self) -> str:
        return f"{self.law}-{self.name}"

    @contextlib.contextmanager
    def subject(self, plugins: Plugins) -> Iterator[Subject]:
        """Make the fault, and yield the part that has or meets it."""
        cls = plugins.get(*self.of)
        plugin = next(p for p in plugins.found if cls in p.parts)
        if self.core:
            clear_caches()
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch may warn of what is faulty
            yield self.spoil(subject(cls, plugin, plugins), patch)
        if self.core:
            clear_caches()

    def killers(self, plugins: Plugins, laws: list[str] | None = None, profile: Profile = PROFILE) -> list[str]:
        """Return the ids of the laws that detect the fault, of all laws or of these."""
        with self.subject(plugins) as spoilt:
            return [law.id for of, law in tries([spoilt], laws) if tried(of, law, profile).status == "failed"]


def mutant(law: str, kind: str, name: str) -> Callable[[Callable[[Subject], Subject]], Mutant]:
    """Make a mutant of a function that returns the part with the fault; its docstring is the fault in words."""

    def made(spoil: Callable[[Subject], Subject]) -> Mutant:
        return Mutant(law, (kind, name), _words(spoil), spoil.__name__, lambda of, patch: spoil(of))

    return made


def core_mutant(law: str, kind: str, name: str) -> Callable[[Callable[[pytest.MonkeyPatch], None]], Mutant]:
    """Make a mutant of a function that changes the core, in which a part without a fault is tried."""

    def made(spoil: Callable[[pytest.MonkeyPatch], None]) -> Mutant:
        return Mutant(law, (kind, name), _words(spoil), spoil.__name__, lambda of, patch: (spoil(patch), of)[1], True)

    return made


def _words(function: Callable[..., Any]) -> str:
    return " ".join(inspect.cleandoc(function.__doc__ or "").split())


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
    try:
        module = importlib.import_module(f"mutants.{kind}")
    except ModuleNotFoundError:  # a kind without laws
        return ()
    return tuple(value for value in vars(module).values() if isinstance(value, Mutant))
