"""A recurrent layer with a residual one on top of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nasframe.errors import DataError


class Stacked(nn.ModuleList):
    """A recurrent layer f and a second one g, whose outputs are added through a linear map: h + P g(h) with h = f(x).

    The layers have the names "0" for f, "1" for g and "2" for P. With P = 0 the outputs are those of f. Both layers start each
    sequence at the state zero.

    Args:
        first: the recurrent layer f, such as an nn.LSTM.
        second: the recurrent layer g, which reads the outputs of f.
        projection: the linear map P from the outputs of g to those of f.

    Example:
        >>> import torch
        >>> layers = Stacked(nn.GRU(3, 4), nn.GRU(4, 4), nn.Linear(4, 4))
        >>> outputs, state = layers(torch.zeros(5, 2, 3))
        >>> outputs.shape
        torch.Size([5, 2, 4])
    """

    def __init__(self, first: nn.RNNBase, second: nn.RNNBase, projection: nn.Module) -> None:
        super().__init__([first, second, projection])

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return the outputs at each step, and the last state of the first layer.

        Args:
            input: the sequences, as the first layer reads them.
            hx: None. A state could be given to the first layer only.

        Raises:
            DataError: if a state is given.
        """
        if hx is not None:
            raise DataError(
                "a recurrent layer that was deepened starts at the state zero, and was given a state: the layer on top of it would not "
                "go on from where it was; give whole sequences"
            )
        first, second, projection = self
        outputs, state = first(input)
        return outputs + projection(second(outputs)[0]), state
