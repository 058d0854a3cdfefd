"""The outputs of a network: a tensor, or a tensor with the outputs of an auxiliary head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AuxiliaryOutputs(NamedTuple):
    """The outputs of a network with an auxiliary head in training mode.

    Attributes:
        outputs: the outputs of the network.
        auxiliary: the outputs of the auxiliary head.
        weight: the weight of its loss.
    """

    outputs: Tensor
    auxiliary: Tensor
    weight: float


Outputs = Tensor | AuxiliaryOutputs
