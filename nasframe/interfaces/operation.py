"""The interface of operations, the candidates of sites."""

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
    """Base class of operations: descriptions that build a module with one input (an edge) or two (a node of Two-to-One).

    Required: `name`, `arity` and `build`. An operation with these members can be searched, pruned and kept. Each optional member
    enables a feature:

    - `zero`: an edge with this operation may be treated as absent, in growth, pruning and discretisation.
    - `residual`: the operation can act as the identity, so that a new node can start without changing the network, and a gate
      can be folded into its parameters.
    - `magnitude` and `identity_error`: bounds, from which the claim of an approximate growth is computed.
    - `homogeneous`: a mixing weight can be folded into its parameters when it alone is left at a site.
    - `pointwise`: the fast form of recurrent cells, and splitting.
    - `summands`: the fast form of an operation that is a weighted sum of others.

    Example:
        >>> import attrs
        >>> @attrs.frozen
        ... class Linear(Operation):
        ...     name: ClassVar[str] = "linear"
        ...     arity: ClassVar[int] = 1
        ...
        ...     def build(self, *, inputs: int, hidden: int) -> nn.Module:
        ...         return nn.Linear(inputs, hidden)
        >>> Linear().build(inputs=2, hidden=3)
        Linear(in_features=2, out_features=3, bias=True)
    """

    kind: ClassVar[str] = "operation"

    #: the number of inputs of the module, 1 or 2
    arity: ClassVar[int]

    #: optional: whether the output is zero for all inputs
    zero: ClassVar[bool] = False

    #: optional: the names of parameters theta of the module such that o(..., h) = h + f(theta), where h is the last input and f is
    #: of degree one in theta: f(g theta) = g f(theta). At theta = 0 the operation is the identity on h, and g theta gives
    #: (1 - g) h + g o. None if there is no such form. Implement it as a property if it depends on an option.
    residual: ClassVar[tuple[str, ...] | None] = None

    #: optional: the names of parameters theta of the module in which the output is of degree one: o(w theta) = w o(theta) for w > 0, as
    #: relu(w z) = w relu(z). So the mixing weight w can be folded into theta. None if there is no such form.
    homogeneous: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def build(self, *args: Any, **sizes: Any) -> nn.Module:
        """Return the module, freshly initialised from torch's global generator.

        An implementation declares the sizes that its backbones provide as keyword arguments, and no others. For example, an edge of
        `darts_recurrent` has `inputs` and `hidden`, an edge of an image cell `channels`, `stride` and `affine`.
        """

    def magnitude(self, module: nn.Module) -> Bound | None:
        """Return a bound on max |o| by the maximum norms of the inputs, computed from the parameters of the module. Optional.

        None, the default, means that no bound is known: growth by noise is then lossy.
        """
        return None

    def identity_error(self, module: nn.Module) -> Bound | None:
        """Return a bound on max |o - h|, where h is the last input, like `magnitude`. Optional, with `residual`."""
        return None

    def pointwise(self) -> Pointwise | None:
        """Return what the module computes as linear maps and an elementwise function. Optional.

        A recurrent cell runs as fused kernels if all its operations implement this, and the units of an operation can be split
        (`nasframe_splitting`). It is not verified during a search; run `nasframe check`.
        """
        return None

    def summands(self) -> Sequence[Operation]:
        """Return the operations o_i of a module that computes w_1 o_1 + ... + w_n o_n; none, the default, if it is no such sum. Optional.

        The module then has the modules of the o_i in `operations`, an `nn.ModuleList`, and the w_i in a parameter `weights`, both in this
        order. A recurrent cell computes the o_i in its fast form if each of them implements `pointwise`.
        """
        return ()

    def cost(self, *shapes: Sequence[int], **sizes: Any) -> Cost:
        """Return the cost of the module, without computing it.

        Args:
            *shapes: the shapes of its inputs.
            **sizes: the sizes that `build` receives.
        """
        # parameters with shapes and without values: no memory is needed, and no random number is drawn
        with torch.device("meta"):
            return cost(self.build(**sizes), *shapes)
