"""A module with a second path beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Parallel(nn.ModuleList):
    """A module and a path beside it, with the sum of their outputs.

    The module has the name "0" and the path the name "1".

    Example:
        >>> import torch
        >>> Parallel([nn.Identity(), nn.ReLU()])(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sum of the outputs.

        Args:
            input: what both receive.
            *args: what only the module receives.
            **kwargs: what only the module receives.
        """
        module, path = self
        added: Tensor = module(input, *args, **kwargs) + path(input)
        return added
