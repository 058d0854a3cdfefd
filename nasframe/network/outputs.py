"""What a network returns: a tensor, or a tensor with the outputs of an auxiliary head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AuxiliaryOutputs(NamedTuple):
    """What a network with an auxiliary head puts out in training: the outputs, those of that head, and its loss's weight."""

    outputs: Tensor
    auxiliary: Tensor
    weight: float


Outputs = Tensor | AuxiliaryOutputs
