"""The same numbers in other places of memory: what is computed must not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def transposed(x: Tensor) -> Tensor:
    """The same numbers, with the axes the other way round in memory."""
    back = tuple(reversed(range(x.dim())))
    return x.permute(back).contiguous().permute(back)


def strided(x: Tensor) -> Tensor:
    """The same numbers, with others between them."""
    return torch.stack([x, x + 1], -1)[..., 0]


def channels_last(x: Tensor) -> Tensor:
    """The same numbers; of images, those of a pixel side by side."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


LAYOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "transposed": transposed,
    "every other entry of a larger tensor": strided,
    "channels last": channels_last,
}
