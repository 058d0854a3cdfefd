"""Labels for the axes of tensors, by which a child's tensors are filled from its parent's."""

from __future__ import annotations

from typing import Any

import attrs
from torch import nn


@attrs.frozen
class Axis:
    """The labels of the entries along one axis of a tensor.

    Where a child has a tensor of the same name as its parent, entries with the same label are copied. `consumes` says how an
    entry with a new label starts: along an axis that produces features it keeps its fresh initialisation; along an axis that
    consumes them it is zero, so that a new feature does not change the output at first.

    Args:
        labels: one label for each entry, in order and all different: strings, numbers or tuples of them.
        consumes: whether entries with a new label start at zero.

    Example:
        A linear map reads the concatenation of the nodes n0 and n1, each with two channels, and has three outputs that never
        change:

        >>> columns = consumes(("n0", 0), ("n0", 1), ("n1", 0), ("n1", 1))
        >>> axes = {"weight": (None, columns), "bias": (None,)}
    """

    labels: tuple[Any, ...]
    consumes: bool = False


def produces(*labels: Any) -> Axis:
    """Return an axis along which a tensor produces features: the rows of a weight, a bias, a running mean, alphas.

    Example:
        A child has the entry of b at another position, and a new entry of c:

        >>> import torch
        >>> from nasframe.change.map import derive_map
        >>> class Scales(torch.nn.Module):
        ...     def __init__(self, *names):
        ...         super().__init__()
        ...         self.s, self.names = torch.nn.Parameter(torch.ones(len(names))), names
        ...     def axes(self):
        ...         return {"s": (produces(*self.names),)}
        >>> derive_map(Scales("a", "b"), Scales("b", "c"))["s"].index
        (tensor([ 1, -1]),)
    """
    return Axis(labels)


def consumes(*labels: Any) -> Axis:
    """Return an axis along which a tensor consumes features: the columns of a weight that reads a concatenation."""
    return Axis(labels, consumes=True)


def axes_of(network: nn.Module) -> dict[str, tuple[Axis | None, ...]]:
    """Return the axes of the tensors in a network, by the name of the tensor.

    A module whose shape can change implements a method `axes()`. It returns, by the name of a tensor below the module, one entry
    for each axis: an `Axis`, or None if the length of the axis never changes. Tensors that no module names are left out.
    """
    found: dict[str, tuple[Axis | None, ...]] = {}
    for prefix, module in network.named_modules():
        # The method is optional, so that an operation from anywhere works as long as its shapes do not change.
        # A module deeper in the tree comes later and wins: it knows its tensors best.
        axes = getattr(module, "axes", None)
        if axes is not None:
            found |= {f"{prefix}.{name}" if prefix else name: value for name, value in axes().items()}
    return found
