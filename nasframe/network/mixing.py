"""The modules that combine candidates and states: mixed operations and gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nasframe.errors import StructureError
from nasframe.interfaces.operation import Operation
from nasframe.network.outputs import Outputs
from nasframe.structure.address import Address
from nasframe.structure.structure import Site

#: one number per candidate of a site, as 0-dimensional tensors
MixingWeights = Mapping[str, Sequence[Tensor]]


class MixedOperation(nn.Module):
    """A site's candidates in one instance of its cell type, weighted by the numbers it is given.

    Backbones use it for every site, so that each candidate's module is found by the site's address and its id.
    """

    def __init__(self, address: Address, site: Site, **sizes: int) -> None:
        super().__init__()
        self.address, self.sizes = address, sizes
        self.candidates = nn.ModuleDict({str(c.id): _built(c.operation, address, sizes) for c in site.candidates})

    def forward(self, shares: MixingWeights, *inputs: Tensor) -> Tensor:
        """The weighted sum of the candidates' outputs; the candidate itself where one is left."""
        outputs = [candidate(*inputs) for candidate in self.candidates.values()]
        if len(outputs) == 1:
            return outputs[0]
        weights = shares[self.address]
        total = weights[0] * outputs[0]
        try:
            for weight, output in zip(weights[1:], outputs[1:], strict=True):
                total = total + weight * output
        except RuntimeError as error:
            if len({output.shape for output in outputs}) == 1:
                raise
            shapes = ", ".join(f"{id} {tuple(output.shape)}" for id, output in zip(self.candidates, outputs, strict=True))
            sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
            raise StructureError(
                f"the candidates at {self.address} put out different shapes: {shapes}; an operation must put out what the others "
                f"of its site do, by the sizes that it is built with: {sizes}"
            ) from error
        return total


def _built(operation: Operation, address: Address, sizes: Mapping[str, int]) -> nn.Module:
    try:
        return operation.build(**sizes)
    except TypeError as error:
        raise StructureError(
            f"operation {operation.name!r} cannot be built at {address}, where it is given {', '.join(sizes)}: {error}; "
            "take an operation that is made for this backbone"
        ) from error


class Gate(nn.Module):
    """The output of a node that inherits: (1 - g) * inherited + g * own. g starts at 0, where it is exactly inherited."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address
        self.g = nn.Parameter(torch.zeros(()))

    def forward(self, inherited: Tensor, own: Tensor) -> Tensor:
        """Both inputs and the output have one shape."""
        return inherited + self.g * (own - inherited)


def readable(body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
    """What the modules of a body compute, one after the other."""
    return body(inputs, {a: w.unbind() for a, w in mixing.items()})
