"""How a part is called where people read."""

from __future__ import annotations

from typing import Any

import attrs

from nasframe.part import Part


def label(part: Part) -> str:
    """Its name, and those of its options that are not the default: "separable kernel=5 expansion=1"."""
    kind: Any = type(part)
    values = ((f, getattr(part, f.name)) for f in attrs.fields(kind))
    return " ".join([part.name, *(f"{f.name}={_written(v)}" for f, v in values if v != f.default)])


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) and value else str(value)
