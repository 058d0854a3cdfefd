"""Scores of untrained networks (Mellor et al. 2021; Tanaka et al. 2020; Abdelfattah et al. 2021; Chen, Gong & Wang 2021).

Each function takes a network that maps inputs of shape (batch, ...) to outputs of shape (batch, ...), and leaves it as it is. The papers
have classifiers, whose outputs are class scores; other networks are scored by their outputs in the same way. BatchNorms are in the mode
that the network is in; the papers' are in training mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasframe.errors import StructureError


class _Patterns(TorchDispatchMode):
    """Collects which ReLUs are active, also of those that are functions and no modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.active: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            self.active.append((result > 0).flatten(1))
        return result


def activation_patterns(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return which ReLU units of a network are active for each example, of shape (batch, units).

    Raises:
        StructureError: if the network computes no ReLU.
    """
    with torch.no_grad(), _Patterns() as patterns:
        copy.deepcopy(network)(inputs)
    if not patterns.active:
        raise StructureError(
            "the network computes no ReLU, whose active units NASWOT and linear regions count; take synflow or ntk"
        )
    return torch.cat(patterns.active, 1)


def naswot(network: nn.Module, inputs: Tensor) -> float:
    """Return NASWOT, log |det K|, where K_ij is the number of ReLU units that agree for the examples i and j (Mellor et al. 2021, Eq. 2).

    A larger score is better. It is -infinity if two examples have the same active units.

    Example:
        Two examples that agree in one of two units, so that K is ((2, 1), (1, 2)) with the determinant 3:

        >>> import torch
        >>> round(naswot(torch.nn.ReLU(), torch.tensor([[1.0, 1.0], [1.0, -1.0]])), 4)
        1.0986
    """
    c = activation_patterns(network, inputs).double()
    return float(torch.linalg.slogdet(c @ c.T + (1 - c) @ (1 - c).T).logabsdet)


def linear_regions(network: nn.Module, inputs: Tensor) -> float:
    """Return the number of linear regions that contain an example, which is that of different activation patterns (TE-NAS, 3.1.2).

    More regions are better. The number says little if no two examples share a region: take narrow networks and few pixels.

    Example:
        The first two of three examples share a region:

        >>> import torch
        >>> linear_regions(torch.nn.ReLU(), torch.tensor([[1.0, 1.0], [2.0, 3.0], [1.0, -1.0]]))
        2.0
    """
    return float(len(activation_patterns(network, inputs).unique(dim=0)))


def ntk_condition(network: nn.Module, inputs: Tensor) -> float:
    """Return the condition number of the neural tangent kernel, lambda_max / lambda_min of J J^T (TE-NAS, 3.1.1).

    The row i of J is the gradient of the sum of the outputs of example i with respect to all parameters, as in the published
    code. A smaller number is better. It is infinity if the kernel is singular.

    Example:
        The gradient of w x with respect to w is x, so that J has the examples as its rows:

        >>> import torch
        >>> round(ntk_condition(torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])), 4)
        4.0
    """
    network = copy.deepcopy(network)
    parameters = [*network.parameters()]
    rows = []
    for output in network(inputs).flatten(1).sum(1):
        gradients = torch.autograd.grad(output, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    # the eigenvalues of J J^T are the squares of the singular values of J, which are more accurate
    singular = torch.linalg.svdvals(torch.stack(rows).double())
    return float((singular[0] / singular[-1]) ** 2) if singular[-1] > 0 else math.inf


def synflow(network: nn.Module, inputs: Tensor) -> float:
    """Return synflow, sum_w w dR/dw, where R is the sum of the outputs for an input of ones and |w| for w (Tanaka et al. 2020).

    As in Abdelfattah et al. (2021), BatchNorms are left out, and the sum is taken over the weights of all layers without their
    biases. It is computed in float64. A larger score is better.

    Example:
        For one layer, R is the sum of the absolute weights, and so is synflow:

        >>> import torch
        >>> network = torch.nn.Linear(2, 1, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, -3.0]])
        >>> synflow(network, torch.zeros(5, 2))
        4.0
    """
    # of the inputs only the shape of an example counts
    network = copy.deepcopy(network).double()
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    flow = network(torch.ones_like(inputs[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, weights, materialize_grads=True)
    return float(sum((weight.detach() * gradient).sum() for weight, gradient in zip(weights, gradients, strict=True)))
