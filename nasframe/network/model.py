"""A found network as it is taken away: in the units of the data."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nasframe.network.network import Network


class Scale(nn.Module):
    """From raw values to a network's, (x - mean) / std, entry by entry in the dtype of the mean; and back."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """The shape of x."""
        return (x.to(self.mean.dtype) - self.mean) / self.std

    def back(self, x: Tensor) -> Tensor:
        """What `forward` made x of."""
        return x * self.std + self.mean


class Model(nn.Module):
    """A network between the scales of what it takes in and puts out, where there are such."""

    def __init__(self, network: Network, inputs: Scale | None, outputs: Scale | None) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs = network, inputs, outputs

    def forward(self, x: Tensor) -> Any:
        """What the network makes of raw inputs, raw."""
        found = self.network(x if self.inputs is None else self.inputs(x))
        return found if self.outputs is None else self.outputs.back(found)
