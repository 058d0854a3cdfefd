"""What a module costs, told from shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import attrs
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@attrs.frozen
class Cost:
    """Numbers to be trained, and floating-point operations of one call in evaluation mode: two for each multiply-add of a
    convolution or a matrix product; nothing else is counted.
    """

    parameters: int
    flops: int


def cost(module: nn.Module, *shapes: Sequence[int]) -> Cost:
    """The cost of a module called with inputs of these shapes. No number is computed, and the module is left alone."""
    weightless = copy.deepcopy(module).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter:
        weightless(*(torch.empty(*shape, device="meta", dtype=torch.float32) for shape in shapes))
    return Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops())
