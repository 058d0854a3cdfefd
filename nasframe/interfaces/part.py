"""Parts: the frozen descriptions, with a name and options, that plugins register."""

from __future__ import annotations

import math
import numbers
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs

#: the key in the metadata of a field under which `nested` keeps the kind
KIND = "nasframe.kind"
#: the key under which `nested` keeps whether a number may be in the place of the part
NUMBER = "nasframe.number"


class Part(ABC):
    """Base class of all parts: frozen attrs classes with a `name`, whose fields are the options of the part.

    An interface (`Operation`, `Morphism`, ...) sets `kind`, and a part sets `name`, which is unique among the parts of its kind.
    Fields hold numbers, strings, booleans, None, tuples of these, or other parts. Declare them with `number`, `flag`,
    `choice` and `nested`, which validate the value, so that a strategy file with a wrong value is refused with a clear message.

    Example:
        >>> @attrs.frozen
        ... class Patience(Part):
        ...     name: ClassVar[str] = "patience"
        ...     epochs: int = number(5, low=1, whole=True)
        >>> short_name(Patience()), short_name(Patience(epochs=8))
        ('patience', 'patience epochs=8')
        >>> Patience(epochs=0)
        Traceback (most recent call last):
        ValueError: epochs is 0; it must be a whole number of at least 1
    """

    kind: ClassVar[str]
    name: ClassVar[str]

    #: optional: for an option, the options that it replaces. If a flag sets it, those are dropped from the strategy file.
    replaces: ClassVar[Mapping[str, tuple[str, ...]]] = {}


def nested(kind: str | type, *, or_number: bool = False, **options: Any) -> Any:
    """Return a field that holds a part, or a tuple of parts.

    Args:
        kind: the kind of the parts, for example "operation", or a frozen attrs class, of which the field holds a value.
        or_number: whether a number may be in the place of a part.
        **options: further arguments of `attrs.field`, such as `default` and `validator`.

    Example:
        A criterion that consists of others::

            parts: tuple[GrowthCriterion, ...] = nested("criterion")
    """
    return attrs.field(metadata={KIND: kind, NUMBER: or_number}, **options)


def number(
    default: Any = attrs.NOTHING,
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    optional: bool = False,
) -> Any:
    """Return a field that holds a finite number.

    Args:
        default: the default; without one the option is required.
        low: the least value.
        high: the largest value.
        whole: whether the number must be an integer.
        optional: whether None is allowed.

    Example:
        >>> import attrs
        >>> @attrs.frozen
        ... class Layer:
        ...     width: int = number(8, low=1, whole=True)
        >>> Layer(16)
        Layer(width=16)
        >>> Layer(0)
        Traceback (most recent call last):
        ValueError: width is 0; it must be a whole number of at least 1
    """
    wanted = "a whole number" if whole else "a number"
    if low is not None:
        wanted += f" of at least {low}"
    if high is not None:
        wanted += f"{' and' if low is not None else ' of'} at most {high}"
    if optional:
        wanted += ", or left out"

    def within(value: Any) -> bool:
        return (low is None or value >= low) and (high is None or value <= high)

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        kind = numbers.Integral if whole else numbers.Real
        # True is an integer of Python, and no number of a strategy
        if isinstance(value, bool) or not isinstance(value, kind) or not _is_finite(value, whole) or not within(value):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return attrs.field(default=default, validator=check)


def _is_finite(value: Any, whole: bool) -> bool:
    try:
        # an integer of Python has no largest value, but a number is used as a float
        return whole or math.isfinite(float(value))
    except OverflowError:
        return False


def flag(default: bool) -> Any:
    """Return a field that holds true or false.

    Example:
        >>> import attrs
        >>> @attrs.frozen
        ... class Layer:
        ...     bias: bool = flag(True)
        >>> Layer(bias=False)
        Layer(bias=False)
    """

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"{attribute.name} is {value!r}; it must be true or false")

    return attrs.field(default=default, validator=check)


def choice(*allowed: str, default: Any = attrs.NOTHING) -> Any:
    """Return a field that holds one of the allowed strings.

    Example:
        >>> import attrs
        >>> @attrs.frozen
        ... class Layer:
        ...     form: str = choice("noise", "gate", default="noise")
        >>> Layer("gate")
        Layer(form='gate')
    """

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")

    return attrs.field(default=default, validator=check)


def to_plain(value: Any) -> Any:
    """Return the JSON form of a part: a dictionary with its name and its fields, without those that are None.

    Parts inside it have the same form, and tuples become lists.
    """
    # None is left out: TOML has no value for it, and it is the default wherever it is allowed.
    if attrs.has(type(value)):
        # A value that is no part, such as an optimiser, is known by the field that holds it, and has no name.
        name = {"name": value.name} if isinstance(value, Part) else {}
        fields = {f.name: getattr(value, f.name) for f in attrs.fields(type(value))}
        return name | {k: to_plain(v) for k, v in fields.items() if v is not None}
    if isinstance(value, tuple):
        return [to_plain(v) for v in value]
    return value


def from_plain(value: Any, make: Callable[[Any, Any], Any], kind: str | type | None) -> Any:
    """Return the value of a field with this JSON form: lists become tuples, and descriptions become parts.

    Args:
        value: the JSON form.
        make: a function from (kind, description) to the part, such as `nasframe.installed().make`.
        kind: the kind of the parts in the field; None if it holds no parts.
    """
    # Not every list is one of parts: the numbers of a tuple pass through.
    if isinstance(value, list | tuple):
        return tuple(from_plain(v, make, kind) for v in value)
    if kind is not None and not attrs.has(type(value)):
        return make(kind, value)
    return value


def short_name(part: Part) -> str:
    """Return the name of a part and the options that differ from their default, for example "separable kernel=5"."""

    def written(value: Any) -> str:
        if isinstance(value, Part):
            return short_name(value)
        return ",".join(map(written, value)) if isinstance(value, tuple) and value else str(value)

    kind: Any = type(part)
    values = ((f, getattr(part, f.name)) for f in attrs.fields(kind))
    return " ".join([part.name, *(f"{f.name}={written(v)}" for f, v in values if v != f.default)])
