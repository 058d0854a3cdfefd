"""The laws of every part, whatever its kind."""

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

from nasframe.interfaces.part import short_name, to_plain
from nasframe.plugins import KINDS
from nasframe.testing.assertions import demand
from nasframe.testing.case import Case, same
from nasframe.testing.law import contract as contract_of, law


@law("part.signature", "a method takes other arguments than its interface's, or in another order")
def signature(case: Case) -> None:
    """Every method of the interface can be called as the interface's own."""
    cls = type(case.part)
    interface = KINDS[cls.kind]
    for name, method in vars(interface).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            asked, own = _bare(method), _bare(getattr(cls, name))
            wanted = _wanted(asked, own)
            demand("signature", wanted == own, f"{name}{own} cannot be called as the interface asks: write {name}{wanted}")


def _bare(method: Any) -> inspect.Signature:
    """The signature without types."""
    signature = inspect.signature(method)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=signature.empty)


def _wanted(asked: inspect.Signature, own: inspect.Signature) -> inspect.Signature:
    """The function's own signature if it can be called as the one that is asked for; else what to write in its place."""
    if any(p.kind is p.VAR_KEYWORD for p in asked.parameters.values()):  # called by keyword, with what the caller has
        first, *rest = own.parameters.values()
        given = [p.replace(kind=p.KEYWORD_ONLY) if p.kind is p.POSITIONAL_OR_KEYWORD else p for p in rest]
        return own.replace(parameters=[first, *given])
    try:
        bound = own.bind(*(n for n, p in asked.parameters.items() if p.kind is not p.VAR_POSITIONAL))
    except TypeError:
        return asked
    swapped = any(given != name and name in asked.parameters for name, given in bound.arguments.items())
    return asked if swapped else own


@law("part.described", "a field holds a list, a dictionary or an object, or a part without being declared with nasframe.nested")
def described(case: Case) -> str | None:
    """A part and its JSON are the same: the one that is made of its description is equal to it, and has its label."""
    text = json.dumps(to_plain(case.part), allow_nan=False)
    again = case.subject.plugins.make(case.part.kind, json.loads(text)) if _known(case) else case.part
    demand("described", again == case.part, f"{text} makes {again!r}, which is not {case.part!r}")
    demand("described", hash(again) == hash(case.part), f"{again!r} and its equal have not the same hash")
    demand("described", short_name(again) == short_name(case.part), f"{again!r} and its equal have not the same label")
    if case.subject.default:
        return (
            f"but of {', '.join(case.subject.default)} the default alone was tried: let the examples of the plugin draw others"
        )
    return None


def _known(case: Case) -> bool:
    return case.part.name in case.subject.plugins.names(case.part.kind)


@law("part.frozen", "the class is decorated with @attrs.define, or defines __setattr__; @attrs.frozen is right")
def frozen(case: Case) -> None:
    """No option of a part can be set once it is made."""
    for field in (f.name for f in attrs.fields(type(case.part))):
        try:
            setattr(case.part, field, getattr(case.part, field))
        except attrs.exceptions.FrozenInstanceError:
            continue
        demand("frozen", False, f"{field} could be set")


@law(
    "part.repeatable",
    "it draws from a generator of its own that nobody seeded, iterates over a set, or keeps something from call to call",
)
def repeatable(case: Case) -> None:
    """Whatever the interface asks of a part comes out the same, to the bit, when it is asked again."""
    exercise = contract_of(case.part.kind).exercise
    first, again = exercise(case), exercise(case)
    different = [name for name in first if not same(first[name], again[name])]
    demand("repeatable", not different, f"asked twice, {', '.join(different)} came out differently")


@law("part.globals", "it seeds or draws from a global generator, or sets torch's defaults")
def globals_(case: Case) -> None:
    """A part leaves the process as it finds it: global generators, default dtype, threads, whether gradients are on."""
    with _watched() as changed:
        contract_of(case.part.kind).exercise(case)
    demand("globals", not changed, f"{', '.join(changed)} changed")


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    changed: list[str] = []
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.random(), np.random.random(), torch.rand(1)  # noqa: S311 - so that to seed them alike is to change them
        before = _process()
        yield changed
        after = _process()
    random.setstate(kept[0])
    np.random.set_state(kept[1])
    changed += [name for name in before if not same(before[name], after[name])]


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
