"""A module with a second path beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nasframe.errors import DataError


class Parallel(nn.ModuleList):
    """A module and a path beside it, whose outputs are added or concatenated.

    The module has the name "0" and the path the name "1".

    Args:
        module: the module.
        path: the path.
        axis: the axis along which the outputs are concatenated, negative, as `torch.cat` counts it; None to add them.

    Example:
        >>> Parallel(nn.Identity(), nn.ReLU())(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
        >>> Parallel(nn.Identity(), nn.ReLU(), axis=-1)(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  2.,  0.,  2.])
    """

    def __init__(self, module: nn.Module, path: nn.Module, axis: int | None = None) -> None:
        super().__init__([module, path])
        self.axis = axis

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sum or the concatenation of the outputs.

        Args:
            input: what both receive.
            *args: what only the module receives.
            **kwargs: what only the module receives.

        Raises:
            DataError: if the outputs have different shapes, and are added.
        """
        module, path = self
        first, second = module(input, *args, **kwargs), path(input)
        # a sum would broadcast: a path beside a global pooling, added on images of one pixel, would not shrink larger ones
        if self.axis is None and first.shape != second.shape:
            raise DataError(
                f"for an input of shape {tuple(input.shape)} the module returns the shape {tuple(first.shape)} and the path beside it "
                f"{tuple(second.shape)}, which cannot be added; the path was made for inputs whose size the module keeps"
            )
        joined: Tensor = first + second if self.axis is None else torch.cat([first, second], self.axis)
        return joined

    def extra_repr(self) -> str:
        """Return how the outputs are joined."""
        return "" if self.axis is None else f"axis={self.axis}"
