"""Options of parts: attrs fields that validate their values.

A part declares its options with `number`, `flag`, `choice` and `nested`, so that a strategy file with a wrong value is refused with a
clear message.

Example:
    >>> import attrs
    >>> @attrs.frozen
    ... class Halving:
    ...     factor: int = number(3, low=2, whole=True)
    ...     order: str = choice("validation", "training", default="validation")
    >>> Halving(factor=1)
    Traceback (most recent call last):
    ValueError: factor is 1; it must be a whole number of at least 2
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import attrs

#: the key in the metadata of a field under which `nested` keeps the kind
KIND = "nasframe.kind"
#: the key under which `nested` keeps whether a number may be in the place of the part
NUMBER = "nasframe.number"


def nested(kind: str | type, *, or_number: bool = False, **options: Any) -> Any:
    """Return a field that holds a part, or a tuple of parts.

    Args:
        kind: the kind of the parts, for example "operation", or a frozen attrs class, of which the field holds a value.
        or_number: whether a number may be in the place of a part.
        **options: further arguments of `attrs.field`, such as `default` and `validator`.

    Example:
        >>> import attrs
        >>> from nasframe_recurrent import Tanh
        >>> @attrs.frozen
        ... class Residual:
        ...     inner: nasframe.Operation = nested("operation", default=Tanh())
        >>> nasframe.installed().make(Residual, {"inner": "sigmoid"})
        Residual(inner=Sigmoid())
    """
    # In the metadata and not in the annotation, which may be a text: the reading of strategies and the flags look here.
    return attrs.field(metadata={KIND: kind, NUMBER: or_number}, **options)


def number(
    default: Any = attrs.NOTHING,
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    optional: bool = False,
    kw_only: bool = False,
) -> Any:
    """Return a field that holds a finite number.

    Args:
        default: the default; without one the option is required.
        low: the least value.
        high: the largest value.
        whole: whether the number must be an integer.
        optional: whether None is allowed.
        kw_only: whether the field is given by its name only.

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
        # The abstract kinds, which numbers of numpy have as well. The kind is tested before the bounds, because a text has no
        # order.
        kind = numbers.Integral if whole else numbers.Real
        # True is an integer of Python, and no number of a strategy
        if isinstance(value, bool) or not isinstance(value, kind) or not _is_finite(value, whole) or not within(value):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {wanted}")

    return attrs.field(default=default, validator=check, kw_only=kw_only)


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
        # The type and not the truth: the text "false" would count as true.
        if not isinstance(value, bool):
            raise ValueError(f"{attribute.name} is {value!r}; it must be true or false")

    return attrs.field(default=default, validator=check)


def choice(*allowed: str, default: Any = attrs.NOTHING, kw_only: bool = False) -> Any:
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
        # A tuple and not a set: the message keeps the order, and a list from a file cannot be looked up in a set.
        if value not in allowed:
            raise ValueError(f"{attribute.name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")

    return attrs.field(default=default, validator=check, kw_only=kw_only)
