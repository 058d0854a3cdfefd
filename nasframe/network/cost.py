"""The cost of a module, computed from shapes only."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import attrs
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@attrs.frozen
class Cost:
    """The cost of a module.

    Attributes:
        parameters: the number of parameters.
        flops: the floating-point operations of one call in evaluation mode: two for each multiply-add of a convolution or a matrix
            product. Nothing else is counted.
    """

    parameters: int
    flops: int


def cost(module: nn.Module, *shapes: Sequence[int]) -> Cost:
    """Return the cost of calling a module. The module is neither called nor modified.

    Args:
        module: the module.
        *shapes: the shapes of its inputs.

    Example:
        >>> cost(nn.Linear(3, 2), (5, 3))
        Cost(parameters=8, flops=60)
    """
    # Tensors on the device "meta" have shapes and no values. A copy, because moving a module to another device modifies it;
    # in evaluation mode, so that no running statistics are updated.
    weightless = copy.deepcopy(module).to("meta", torch.float32).eval()
    # The counter is a dispatch mode, under which a `Network` runs its readable form: the count does not depend on `fast`.
    with FlopCounterMode(display=False) as counter:
        weightless(*(torch.empty(*shape, device="meta", dtype=torch.float32) for shape in shapes))
    return Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())
