"""An operation in which the gradient dies."""

from typing import ClassVar

import attrs
import torch
from torch import nn

import nasframe


class Sign(nn.Module):
    def __init__(self, inputs, hidden):
        super().__init__()
        self.form = nn.Bilinear(inputs, hidden, hidden)

    def forward(self, x, h):
        return torch.sign(self.form(x, h))


@attrs.frozen
class Product(nasframe.Operation):
    """An operation without a gradient: the sign of B(x, h)."""

    name: ClassVar[str] = "bilinear"
    arity: ClassVar[int] = 2

    def build(self, *, inputs, hidden):
        return Sign(inputs, hidden)


@nasframe.hookimpl
def nasframe_parts():
    return [Product]
