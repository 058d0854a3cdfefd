"""A part: a frozen description with a name, from which something is built. Everything that a plugin registers is one."""

from __future__ import annotations

import math
import numbers
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs

KIND = "nasframe.kind"


class Part(ABC):
    """What a plugin registers: a frozen attrs class with a `name`, whose fields are its options.

    An interface (Operation, Morphism, ...) fixes `kind`; a concrete part fixes `name`. Two parts of one kind and one
    name cannot be registered together. Fields hold numbers, strings, booleans, None, tuples of these, or other parts.
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    #: MAY: by option, the options that it replaces: they are dropped from a strategy whose file says them when a flag sets it
    replaces: ClassVar[Mapping[str, tuple[str, ...]]] = {}


def nested(kind: str | type, **options: Any) -> Any:
    """A field that holds a part of `kind`, or a tuple of such parts; or a value of a frozen attrs class."""
    return attrs.field(metadata={KIND: kind}, **options)


def number(
    default: Any = attrs.NOTHING,
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    optional: bool = False,
) -> Any:
    """A field that holds a finite number with low <= value <= high, whole if asked, or None where it is optional."""
    wanted = "a whole number" if whole else "a number"
    if low is not None:
        wanted += f" of at least {low}"
    if high is not None:
        wanted += f"{' and' if low is not None else ' of'} at most {high}"
    if optional:
        wanted += ", or left out"

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        kind = numbers.Integral if whole else numbers.Real
        if (
            isinstance(value, bool)
            or not isinstance(value, kind)
            or not math.isfinite(value)
            or not (float("-inf") if low is None else low) <= float(value) <= (float("inf") if high is None else high)
        ):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return attrs.field(default=default, validator=check)


def flag(default: bool) -> Any:
    """A field that holds true or false."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{attribute.name} is {value!r}; it must be true or false")

    return attrs.field(default=default, validator=check)


def choice(*allowed: str, default: Any = attrs.NOTHING) -> Any:
    """A field that holds one of the allowed strings."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")

    return attrs.field(default=default, validator=check)


def to_plain(value: Any) -> Any:
    """The JSON form of a part: its name and its fields, parts inside it likewise; fields that are None are left out."""
    if attrs.has(type(value)):
        name = {"name": value.name} if isinstance(value, Part) else {}
        fields = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return name | {k: to_plain(v) for k, v in fields.items() if v is not None}
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    return value


def from_plain(value: Any, make: Callable[[Any, Any], Any], kind: str | type | None) -> Any:
    """The inverse of `to_plain` for one field's value: lists become tuples, descriptions of `kind` become parts."""
    if isinstance(value, list | tuple):
        return tuple(from_plain(v, make, kind) for v in value)
    if kind is not None and not attrs.has(type(value)):
        return make(kind, value)
    return value


def short_name(part: Part) -> str:
    """Its name, and those of its options that are not the default: "separable kernel=5 expansion=1"."""
    kind: Any = type(part)
    values = ((f, getattr(part, f.name)) for f in attrs.fields(kind))
    return " ".join([part.name, *(f"{f.name}={_written(v)}" for f, v in values if v != f.default)])


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) and value else str(value)
