"""The interface of operations: what may stand at a site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from nasframe.change.claim import Bound
from nasframe.interfaces.part import Part
from nasframe.network.cost import Cost, cost
from nasframe.network.pointwise import Pointwise


class Operation(Part):
    """A computation with one input (an edge) or two (a node of Two-to-One): a description that builds a module.

    An implementation MUST give `name`, `arity` and `build`. What it MAY tell is used where it is told: an operation
    that tells nothing can be searched, pruned and kept like any other, but no growth can be built on it.
    """

    kind: ClassVar[str] = "operation"

    #: how many tensors the module takes: 1 or 2
    arity: ClassVar[int]

    #: MAY: the operation puts out zero, whatever it is given: an edge with it is an edge that is not there
    zero: ClassVar[bool] = False

    #: MAY: o(..., h) = h + f, where f is of degree one in these parameters of the module together and h is the last
    #: input: at zero the operation is the identity on h, and scaling them by g makes (1 - g) h + g o. None: no such form. Where
    #: it hangs on an option, a property tells it.
    residual: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def build(self, *args: Any, **sizes: Any) -> nn.Module:
        """The module, freshly initialised from the global generator.

        An implementation takes by keyword the sizes that its backbones give, as their docs say, and no other arguments.
        """

    def magnitude(self, module: nn.Module) -> Bound | None:
        """MAY: a bound on max |o| by the maximum norms of the inputs, from the module's present parameters."""
        return None

    def identity_error(self, module: nn.Module) -> Bound | None:
        """MAY, where `residual` is told: a bound on max |o - h| by the maximum norms of the inputs."""
        return None

    def pointwise(self) -> Pointwise | None:
        """MAY: what the module computes, as linear maps and a function entry by entry: a recurrent cell of such operations
        has a fast form.
        """
        return None

    def cost(self, *shapes: Sequence[int], **sizes: Any) -> Cost:
        """What the module of these sizes costs, called with inputs of these shapes."""
        with torch.device("meta"):
            return cost(self.build(**sizes), *shapes)
