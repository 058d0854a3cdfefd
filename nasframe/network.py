"""The trainable network of a structure: a plain tree of modules, one per candidate, and the logits of its mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor, nn

from nasframe.errors import StructureError
from nasframe.operation import Operation
from nasframe.seeds import Seed
from nasframe.structure import Site, Structure

#: one number per candidate of a site, as 0-dimensional tensors
Shares = Mapping[str, Sequence[Tensor]]


class Aided(NamedTuple):
    """What a network with an auxiliary head puts out in training: the outputs, those of that head, and its loss's weight."""

    outputs: Tensor
    auxiliary: Tensor
    weight: float


Outputs = Tensor | Aided


@attrs.frozen
class Axis:
    """Which units an axis of a tensor carries, in order, and what a newcomer among them starts as.

    An axis that produces its units leaves a newcomer at the child's own initialisation; one that consumes them starts
    it at zero, so that whatever the new unit carries changes nothing at first.
    """

    units: tuple[Any, ...]
    consumes: bool = False


def produces(*units: Any) -> Axis:
    """The axis along which a tensor makes these units: a weight's rows, a bias, a running mean, the logits of a site."""
    return Axis(units)


def consumes(*units: Any) -> Axis:
    """The axis along which a tensor takes these units in: the columns of a weight behind a concatenation."""
    return Axis(units, consumes=True)


class Mixture(nn.Module):
    """A site's candidates in one instance of its cell type, weighted by the numbers it is given.

    Backbones use it for every site, so that each candidate's module is found by the site's address and its id.
    """

    def __init__(self, address: str, site: Site, **sizes: int) -> None:
        super().__init__()
        self.address, self.sizes = address, sizes
        self.candidates = nn.ModuleDict({str(c.id): _built(c.operation, address, sizes) for c in site.candidates})

    def forward(self, shares: Shares, *inputs: Tensor) -> Tensor:
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


def _built(operation: Operation, address: str, sizes: Mapping[str, int]) -> nn.Module:
    try:
        return operation.build(**sizes)
    except TypeError as error:
        raise StructureError(
            f"operation {operation.name!r} cannot be built at {address}, where it is given {', '.join(sizes)}: {error}; "
            "take an operation that is made for this backbone"
        ) from error


class Gate(nn.Module):
    """The output of a node that inherits: (1 - g) * inherited + g * own. g starts at 0, where it is exactly inherited."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.g = nn.Parameter(torch.zeros(()))

    def forward(self, inherited: Tensor, own: Tensor) -> Tensor:
        """Both inputs and the output have one shape."""
        return inherited + self.g * (own - inherited)


class Network(nn.Module):
    """What a structure computes: `network(inputs, weights)`, the weights by site address, as an architect's rule gives them.

    It owns the logits, one vector per undecided site, shared by all instances of the cell type; `body` is what the
    backbone built. An architecture has no logits: it is called with the inputs alone. While `fast` is true, the backbone
    may compute in another form what the body computes; hooks on the body's modules see the readable form alone.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.fast = True
        self.logits = nn.ParameterDict(
            {a: nn.Parameter(torch.zeros(len(s.candidates))) for a, s in structure.sites() if not s.decided}
        )
        self.body = structure.backbone.body(structure)

    def forward(self, inputs: Tensor, weights: Mapping[str, Tensor] | None = None) -> Outputs:
        """The output for a batch. `weights`: for each undecided site a tensor of shape (candidates,)."""
        weights = {} if weights is None else weights
        missing = [a for a in self.logits if a not in weights]
        if missing:
            raise StructureError(
                f"no weights were given for {', '.join(missing)}: these sites are undecided, so call "
                "network(inputs, architect.weights(network.logits)), or derive an architecture first"
            )
        run = self.structure.backbone.run if self.fast else readable
        return run(self.body, inputs, weights)

    def slow(self) -> Sequence[str]:
        """What of it runs no faster than its modules, though it should, and why: a sentence each."""
        return self.structure.backbone.slow(self.structure) if self.fast else ()

    def units(self) -> dict[str, tuple[Axis | None, ...]]:
        """The labels of the logits: the candidates' ids."""
        sites = dict(self.structure.sites())
        return {f"logits.{a}": (produces(*(c.id for c in sites[a].candidates)),) for a in self.logits}

    def mixtures(self, address: str) -> Iterator[tuple[str, Mixture]]:
        """The name and the module of a site in every instance of its cell type."""
        for name, module in self.named_modules():
            if isinstance(module, Mixture) and module.address == address:
                yield name, module

    def gates(self) -> Iterator[tuple[str, Gate]]:
        """The name and the module of every gate."""
        for name, module in self.named_modules():
            if isinstance(module, Gate):
                yield name, module

    def count(self) -> dict[str, int]:
        """Parameters by role: of the operations, of combination (logits), of gates, and all others (stem, head)."""
        operations = sum(p.numel() for m in self.modules() if isinstance(m, Mixture) for p in m.parameters())
        combination = sum(p.numel() for p in self.logits.values())
        gates = sum(1 for _ in self.gates())
        other = sum(p.numel() for p in self.parameters()) - operations - combination - gates
        return {"operations": operations, "combination": combination, "gates": gates, "other": other}


def readable(body: nn.Module, inputs: Tensor, weights: Mapping[str, Tensor]) -> Outputs:
    """What the modules of a body compute, one after the other."""
    return body(inputs, {a: w.unbind() for a, w in weights.items()})


def advance(module: nn.Module, progress: float) -> None:
    """Tell every module within that has a `progress` how far its training has come, from 0 to 1."""
    for part in module.modules():
        if hasattr(part, "progress"):
            part.progress = progress  # type: ignore[assignment]


def build(structure: Structure, seed: Seed, *, like: Network | None = None) -> Network:
    """The network of a structure with its own initialisation, drawn from the seed; device, dtype, mode and form as `like`."""
    with seed.lent():
        network = Network(structure)
    if like is not None:
        example = next(iter(like.parameters()))
        network.to(device=example.device, dtype=example.dtype).train(like.training).fast = like.fast
    return network


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def labels(network: nn.Module) -> dict[str, tuple[Axis | None, ...]]:
    """What the axes of each tensor carry, as the modules of the network tell.

    A module tells by a method `units()`: from a tensor's name below it to one Axis or None per axis. None is an axis
    whose length never changes.
    """
    found: dict[str, tuple[Axis | None, ...]] = {}
    for prefix, module in network.named_modules():
        tell = getattr(module, "units", None)
        if tell is not None:
            found |= {f"{prefix}.{name}" if prefix else name: axes for name, axes in tell().items()}
    return found
