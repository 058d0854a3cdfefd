"""The laws of parts of every kind."""

from __future__ import annotations

import contextlib
import inspect
import json
import random
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe.interfaces.part import short_name, to_plain
from nasframe.plugins import KINDS, interface_of
from nasframe.testing.cases import Case
from nasframe.testing.compare import differences, require
from nasframe.testing.law import law, module
from nasframe.testing.subject import Subject


@attrs.frozen(eq=False, kw_only=True)
class Repeated(Case):
    """A case of a part of a kind that has no laws; the number makes a case of a part without options new."""

    number: int


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the cases for a part of a kind that has no laws."""
    assert subject.parts is not None
    return st.builds(Repeated, subject=st.just(subject), part=subject.parts, number=st.integers(0, 2**16), data=st.data())


def exercise(case: Case) -> dict[str, Any]:
    """Return the description of a part of a kind that has no laws."""
    return {"the description": to_plain(case.part)}


@law("part.signature", "a method has other arguments than that of the interface, or has them in another order")
def signature(case: Case) -> None:
    """Every method can be called as the interface calls it."""
    cls = type(case.part)
    interface = KINDS[interface_of(cls)]
    for name, method in vars(interface).items():
        # Annotations are left out, because a stranger's class need not have any.
        if inspect.isfunction(method) and not name.startswith("_"):
            wanted, found = _without_types(method), _without_types(getattr(cls, name))
            needed = _needed(wanted, found)
            require(needed == found, f"{name}{found} cannot be called as the interface calls it: write {name}{needed}")


def _without_types(method: Any) -> inspect.Signature:
    signature = inspect.signature(method)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=signature.empty)


def _needed(wanted: inspect.Signature, found: inspect.Signature) -> inspect.Signature:
    """Return the signature itself if it can be called like the wanted one, and else what to write in its place."""
    if any(p.kind is p.VAR_KEYWORD for p in wanted.parameters.values()):  # it is called by keyword only
        first, *rest = found.parameters.values()
        keywords = [p.replace(kind=p.KEYWORD_ONLY) if p.kind is p.POSITIONAL_OR_KEYWORD else p for p in rest]
        return found.replace(parameters=[first, *keywords])
    try:
        bound = found.bind(*(n for n, p in wanted.parameters.items() if p.kind is not p.VAR_POSITIONAL))
    except TypeError:
        return wanted
    swapped = any(given != name and name in wanted.parameters for name, given in bound.arguments.items())
    return wanted if swapped else found


@law("part.described", "a field holds a list, a dictionary or an object, or a part without being declared with nasframe.nested")
def described(case: Case) -> str | None:
    """A part that is made of the JSON description of another one is equal to it."""
    text = json.dumps(to_plain(case.part), allow_nan=False)
    known = case.part.name in case.subject.plugins.names(case.part.kind)
    again = case.subject.plugins.make(case.part.kind, json.loads(text)) if known else case.part
    require(again == case.part, f"{text} makes {again!r}, which is not {case.part!r}")
    require(hash(again) == hash(case.part), f"{again!r} and its equal do not have the same hash")
    require(short_name(again) == short_name(case.part), f"{again!r} and its equal do not have the same short name")
    if case.subject.default:
        return f"but only the defaults of {', '.join(case.subject.default)} were tried: add other values to the examples of the plugin"
    return None


@law("part.frozen", "the class is decorated with @attrs.define, or defines __setattr__; @attrs.frozen is right")
def frozen(case: Case) -> None:
    """The options of a part cannot be set after it is made."""
    for field in (f.name for f in attrs.fields(type(case.part))):
        try:
            setattr(case.part, field, getattr(case.part, field))
        except attrs.exceptions.FrozenInstanceError:
            continue
        require(False, f"{field} could be set")


@law("part.repeatable", "it draws from an unseeded generator, iterates over a set, or keeps something from call to call")
def repeatable(case: Case) -> None:
    """Everything that the interface requires of a part has the same result, to the bit, when it is called again."""
    exercise = module(interface_of(type(case.part))).exercise
    # Each kind has an `exercise`, which calls every member of its interface and returns all results.
    different = differences(exercise(case), exercise(case))
    require(not different, f"called twice, {', '.join(different)} differ")


@law("part.globals", "it seeds or draws from a global generator, or sets torch's defaults")
def globals_(case: Case) -> None:
    """A part leaves the process as it is: global generators, default dtype, threads, and whether gradients are on."""
    with _watched() as changed:
        module(interface_of(type(case.part))).exercise(case)
    require(not changed, f"{', '.join(changed)} changed")


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    changed: list[str] = []
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.random(), np.random.random(), torch.rand(1)  # noqa: S311 - so that seeding them as before is a change
        before = _process()
        yield changed
        after = _process()
    random.setstate(kept[0])
    np.random.set_state(kept[1])
    changed += differences(before, after)


def _process() -> dict[str, Any]:
    return {
        "torch's global generator": torch.get_rng_state(),
        "numpy's global generator": [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()],
        "Python's global generator": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "whether gradients are on": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
    }
