"""Parts: the frozen descriptions, with a name and options, that plugins register."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs


class Part(ABC):
    """Base class of all parts: frozen attrs classes with a `name`, whose fields are the options of the part.

    An interface (`Operation`, `Morphism`, ...) sets `kind`, and a part sets `name`, which is unique among the parts of its kind.
    Fields hold numbers, strings, booleans, None, tuples of these, or other parts. Declare them with the functions of
    `nasframe.options`, which validate the value, so that a strategy file with a wrong value is refused with a clear message.

    Example:
        >>> from nasframe.options import number
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
    # What is a part already stays as it is, such as the steps of a named plan (`Strategy.from_dict`).
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
