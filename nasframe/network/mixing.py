"""Mixing weights, and the modules that combine candidates and states by them: mixed operations and gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from nasframe.errors import StructureError
from nasframe.interfaces.operation import Operation
from nasframe.network.outputs import Outputs
from nasframe.structure.address import Address
from nasframe.structure.structure import Site

#: one number per candidate of a site, as 0-dimensional tensors; None for a candidate that is not computed
MixingWeights = Mapping[str, Sequence[Tensor | None]]


def _check_active(instance: Mixing, attribute: object, value: Mapping[str, tuple[int, ...]]) -> None:
    for address, places in value.items():
        # An address without mixing weights has no candidates, so that any choice there is refused below.
        count = len(instance.tensors.get(address, ()))
        # Ascending, so that equal choices are equal tuples: fast forms remember a plan for each choice.
        if not places or [*places] != sorted({*places} & {*range(count)}):
            raise StructureError(
                f"the active candidates of {address} are {places!r}; they must be positions among its {count} candidates, one at "
                "least, in ascending order"
            )


@attrs.frozen(eq=False)
class Mixing(Mapping[str, Tensor]):
    """The mixing weights of undecided sites, by address, and which candidates are computed.

    A candidate that is not active is not computed. Its mixing weight is then a constant zero, and its parameters and its mixing
    weight have no gradient. A mixing weight that happens to be zero is no reason to leave a candidate out, because the gradient
    of that weight is in general not zero. So a relaxation that samples says itself what it leaves out.

    Args:
        tensors: the mixing weights of each site, of shape (candidates,), by address.
        active: the positions of the candidates to compute, by address; all candidates of a site that is left out.

    Example:
        >>> mixing = Mixing({"normal/n0": torch.tensor([0.0, 1.0, 0.0])}, active={"normal/n0": (1,)})
        >>> mixing["normal/n0"], mixing.active
        (tensor([0., 1., 0.]), {'normal/n0': (1,)})
    """

    tensors: Mapping[str, Tensor]
    active: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict, validator=_check_active)

    def __getitem__(self, address: str) -> Tensor:
        return self.tensors[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def active_of(mixing: Mapping[str, Tensor]) -> Mapping[str, tuple[int, ...]]:
    """Return the positions of the candidates to compute, by address; a plain mapping names none, so that all are computed."""
    return mixing.active if isinstance(mixing, Mixing) else {}


def unbound(mixing: Mapping[str, Tensor]) -> MixingWeights:
    """Return the mixing weights as numbers, with None for a candidate that is not computed."""
    found: dict[str, Sequence[Tensor | None]] = {address: weights.unbind() for address, weights in mixing.items()}
    # None and not zero: a number would still be multiplied with an output, which would have to be computed.
    for address, places in active_of(mixing).items():
        found[address] = [weight if place in places else None for place, weight in enumerate(found[address])]
    return found


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
        # By id and not by position: a candidate that remains after a pruning keeps the names of its tensors.
        self.candidates = nn.ModuleDict({str(c.id): _built(c.operation, address, sizes) for c in site.candidates})

    def forward(self, mixing: MixingWeights, *inputs: Tensor) -> Tensor:
        """Return sum_i m_i o_i(inputs) over the candidates to compute, or o(inputs) if the site has only one.

        Args:
            mixing: the mixing weights m_i of each undecided site, by address, as `unbound` returns them.
            *inputs: the inputs of the site, one or two.
        """
        ids = [*self.candidates]
        # a decided site has no mixing weights: its only candidate counts fully
        if len(ids) == 1:
            return self.evaluate(ids[0], *inputs)
        # Candidates have the order of the structure, which is that of the alphas.
        named = [(id, weight) for id, weight in zip(ids, mixing[self.address], strict=True) if weight is not None]
        outputs = [self.evaluate(id, *inputs) for id, _ in named]
        # A loop of products, and not a stack with one contraction: candidates with large outputs (images) would be
        # copied. The shapes are compared only when the sum has failed, as this is the inner loop of every search.
        total = named[0][1] * outputs[0]
        try:
            for (_, weight), output in zip(named[1:], outputs[1:], strict=True):
                total = total + weight * output
        except RuntimeError as error:
            if len({output.shape for output in outputs}) == 1:
                raise
            shapes = ", ".join(f"{id} {tuple(output.shape)}" for (id, _), output in zip(named, outputs, strict=True))
            sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
            raise StructureError(
                f"the candidates at {self.address} have outputs of different shapes: {shapes}; all operations of a site must return "
                f"the same shape when they are built with {sizes}"
            ) from error
        return total

    def evaluate(self, id: str, *inputs: Tensor) -> Tensor:
        """Return the output of one candidate.

        A backbone overrides it, in a class that it gives to its cells (`CellModule`), to change how every candidate is evaluated,
        for example with dropout on identities (P-DARTS). It overrides `forward` to change what all candidates of a site receive,
        for example a part of the channels (PC-DARTS).

        Args:
            id: the id of the candidate.
            *inputs: the inputs of the site.
        """
        output: Tensor = self.candidates[id](*inputs)
        return output


def _built(operation: Operation, address: Address, sizes: Mapping[str, int]) -> nn.Module:
    try:
        # By keyword, so that an operation that was made for another backbone fails here, where it can be named.
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
        address: the address of the node, or of a layer or cell that a backbone added.
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
    return body(inputs, unbound(mixing))
