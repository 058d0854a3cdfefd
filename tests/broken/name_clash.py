"""An operation with the name of one that is there."""

from typing import ClassVar

import attrs
from torch import nn

import nasframe


@attrs.frozen
class Product(nasframe.Operation):
    """B(x, h), a bilinear form for each unit."""

    name: ClassVar[str] = "tanh"
    arity: ClassVar[int] = 2

    def build(self, *, inputs, hidden):
        return nn.Bilinear(inputs, hidden, hidden)


@nasframe.hookimpl
def nasframe_parts():
    return [Product]
