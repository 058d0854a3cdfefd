"""Comparing values and tensors: what laws and assertions are written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: the two modes of a module, and what its `train` is called with
MODES = {"evaluation": False, "training": True}


class FormError(AssertionError):
    """A failure whose message says the cause, so that a report does not guess at a likely one."""


def require_form(condition: bool, message: str) -> None:
    """Raise a FormError with the message, which says what is wrong and what is right, unless the condition holds."""
    if not condition:
        raise FormError(message)


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_at_most(what: str, measured: float, allowed: float) -> None:
    """Raise an AssertionError unless `measured <= allowed`; NaN is never allowed."""
    # A comparison with NaN is false, so that NaN is refused.
    require(measured <= allowed, f"{what} is {measured:.4g}; at most {allowed:.4g} is allowed")


def largest(value: Tensor) -> float:
    """Return the largest absolute value of a tensor, 0 if it is empty."""
    return float(value.detach().abs().max()) if value.numel() else 0.0


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal to the bit, with the tensors, lists and dictionaries in them. NaN equals NaN."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        # torch.equal says that NaN differs from NaN
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
    if isinstance(a, dict) and isinstance(b, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    # only NaN differs from itself
    return bool(a == b) or (a != a and b != b)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ, or that only one of the two mappings has."""
    names = dict.fromkeys((*before, *after))
    return [n for n in names if n not in before or n not in after or not same(before[n], after[n])]


def transposed(x: Tensor) -> Tensor:
    """Return a tensor of the same values whose axes lie in memory in reverse order."""
    back = tuple(reversed(range(x.dim())))
    return x.permute(back).contiguous().permute(back)


def strided(x: Tensor) -> Tensor:
    """Return a tensor of the same values that lie in memory with other values between them."""
    return torch.stack([x, x + 1], -1)[..., 0]


def channels_last(x: Tensor) -> Tensor:
    """Return a tensor of the same values; images have the format channels last."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


#: functions that return the same values in another memory layout, by what to call the layout in a message
# Layouts in which code fails that calls view(), or that reads memory in a fixed order.
LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "every other entry of a larger tensor": strided,
    "channels last": channels_last,
}


def undeclared(member: str, progress: str, error: Exception) -> str:
    """Return a message about a part whose member fails where the progress of the phase is not known."""
    return (
        f"in a phase without a length, where {progress} is None, {member} raises {type(error).__name__}: {error}. A part that needs "
        "the progress must say so: write `needs_progress: ClassVar[bool] = True` in its class"
    )


def require_like(what: str, found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raise an AssertionError unless there are finite tensors with these names, shapes and dtypes."""
    require(found.keys() == like.keys(), f"{what} has the names {[*found]}; they must be {[*like]}")
    for name, value in found.items():
        kinds = [(tuple(t.shape), t.dtype) for t in (value, like[name])]
        require(kinds[0] == kinds[1], f"{what} has the shape and dtype {kinds[0]} at {name}; they must be {kinds[1]}")
        require(bool(value.isfinite().all()), f"{what} is {value.tolist()} at {name}")
