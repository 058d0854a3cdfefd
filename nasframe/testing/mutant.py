"""A mutant: a shipped part with one fault, which a law must see."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from nasframe import Part
from nasframe.plugins import KINDS as INTERFACES, Plugins
from nasframe.testing.check import QUICK, Profile, tried, tries
from nasframe.testing.law import laws_of
from nasframe.testing.subject import Subject, subject

#: nobody reads the cases that kill a mutant: none smaller is looked for
PROFILE = attrs.evolve(QUICK, shrinking=0.0)
#: the kinds of part that have laws and mutants of their own; "part": those of all kinds
KINDS = ("part", *INTERFACES)


@attrs.frozen
class Mutant:
    """A fault.

    Args:
        law: the id of the law that must see it.
        of: kind and name of the shipped part that has it.
        fault: what is wrong, in words.
        spoilt: from the part as it is to the part with the fault.
    """

    law: str
    of: tuple[str, str]
    fault: str
    spoilt: Callable[[Subject], Subject]

    def subject(self, plugins: Plugins) -> Subject:
        """The part with the fault."""
        cls = plugins.get(*self.of)
        plugin = next(p for p in plugins.found if cls in p.parts)
        return self.spoilt(subject(cls, plugin, plugins))


def mutant(law: str, kind: str, name: str) -> Callable[[Callable[[Subject], Subject]], Mutant]:
    """Makes a mutant of a function: its docstring is the fault."""

    def made(spoilt: Callable[[Subject], Subject]) -> Mutant:
        return Mutant(law, (kind, name), " ".join(inspect.cleandoc(spoilt.__doc__ or "").split()), spoilt)

    return made


def overriding(of: Subject, **members: Any) -> Subject:
    """The same part with some members of its class replaced."""
    honest: Any = of.cls
    cls: type[Part] = type(honest.__name__, (honest,), members)
    fields = [f.name for f in attrs.fields(honest)]
    parts = None if of.parts is None else of.parts.map(lambda part: cls(**{f: getattr(part, f) for f in fields}))
    plugin = attrs.evolve(of.plugin, parts=tuple(cls if part is honest else part for part in of.plugin.parts))
    plugins = Plugins(tuple(plugin if other == of.plugin else other for other in of.plugins.found))
    return attrs.evolve(of, cls=cls, parts=parts, plugin=plugin, plugins=plugins)


def mutants_of(kind: str) -> tuple[Mutant, ...]:
    """The mutants that the laws of a kind must see, in the order in which they stand."""
    module = importlib.import_module(f"nasframe.testing.mutants.{kind}")
    return tuple(v for v in vars(module).values() if isinstance(v, Mutant))


def killers(one: Mutant, plugins: Plugins, profile: Profile = PROFILE) -> tuple[str, ...]:
    """The laws that see the fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is faulty may well make torch warn
        return tuple(law.id for of, law in tries([one.subject(plugins)]) if tried(of, law, profile).status == "failed")


@attrs.frozen
class Examined:
    """A mutant, and the laws that see its fault."""

    mutant: Mutant
    killed_by: tuple[str, ...]

    @property
    def survives(self) -> bool:
        """Whether the law that must see the fault does not."""
        return self.mutant.law not in self.killed_by

    @property
    def alone(self) -> bool:
        """Whether the law that must see the fault sees it, and no other."""
        return self.killed_by == (self.mutant.law,)


def exam(plugins: Plugins, kinds: Sequence[str] = KINDS, profile: Profile = PROFILE) -> Iterator[Examined]:
    """Every mutant of these kinds against every law that concerns it."""
    for kind in kinds:
        yield from (Examined(one, killers(one, plugins, profile)) for one in mutants_of(kind))


def faults(found: Sequence[Examined], kinds: Sequence[str] = KINDS) -> Iterator[str]:
    """What is wrong with the laws of these kinds, a sentence each: a survivor, and a law that alone sees nothing."""
    for one in found:
        if one.survives:
            yield f"{one.mutant.law} does not see: {one.mutant.fault}"
    alone = {one.mutant.law for one in found if one.alone}
    for law in (law for kind in kinds for law in laws_of(kind) if law.kind == kind and law.id not in alone):
        yield f"{law.id} sees nothing that no other law sees: give it a mutant of its own, or merge it with another"
