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
    """A site in one instance of its cell type: the sum of the outputs of its candidates, times their mixing weights.

    Backbones use it for every site, so that the core finds the module of each candidate by the address of the site and the id of
    the candidate.

    Args:
        address: the address of the site.
        site: the site.
        **sizes: the sizes with which each operation is built (`Operation.build`).
    """

    def __init__(self, address: Address, site: Site, **sizes: int) -> None:
        super().__init__()
        self.address, self.sizes = address, sizes
        self.candidates = nn.ModuleDict({str(c.id): _built(c.operation, address, sizes) for c in site.candidates})

    def forward(self, mixing: MixingWeights, *inputs: Tensor) -> Tensor:
        """Return sum_i m_i o_i(inputs) over the candidates, or o(inputs) if there is only one.

        Args:
            mixing: the mixing weights m_i of each undecided site, as 0-dimensional tensors, by address.
            *inputs: the inputs of the site, one or two.
        """
        outputs = [candidate(*inputs) for candidate in self.candidates.values()]
        # a decided site has no mixing weights: its only candidate counts fully
        if len(outputs) == 1:
            return outputs[0]
        weights = mixing[self.address]
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
                f"the candidates at {self.address} have outputs of different shapes: {shapes}; all operations of a site must return "
                f"the same shape when they are built with {sizes}"
            ) from error
        return total


def _built(operation: Operation, address: Address, sizes: Mapping[str, int]) -> nn.Module:
    try:
        return operation.build(**sizes)
    except TypeError as error:
        raise StructureError(
            f"operation {operation.name!r} cannot be built at {address}: its build() must accept {', '.join(sizes)} by keyword "
            f"({error}); choose an operation for this backbone"
        ) from error


class Gate(nn.Module):
    """The gate of a node that inherits: its state is (1 - g) h + g s for the inherited state h and the sum s of its sites.

    The trained number g starts at 0, where the state is exactly h.

    Args:
        address: the address of the node.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address
        self.g = nn.Parameter(torch.zeros(()))

    def forward(self, inherited: Tensor, computed: Tensor) -> Tensor:
        """Return (1 - g) h + g s.

        Args:
            inherited: h.
            computed: s, of the same shape.
        """
        # this form of (1 - g) h + g s is exactly h at g = 0, if s is finite
        return inherited + self.g * (computed - inherited)


def readable(body: nn.Module, inputs: Tensor, mixing: Mapping[str, Tensor]) -> Outputs:
    """Return the outputs of a body by calling its modules: the reference for all faster forms.

    Args:
        body: the module that a backbone built.
        inputs: the inputs of the network.
        mixing: the mixing weights of each undecided site, of shape (candidates,), by address.
    """
    # split once here, and not at each site and time step
    return body(inputs, {a: w.unbind() for a, w in mixing.items()})
