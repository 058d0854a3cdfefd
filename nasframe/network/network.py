"""The trainable network of a structure: a plain tree of modules, one per candidate, and the alphas of its mixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from nasframe.errors import StructureError
from nasframe.interfaces.backbone import Backbone
from nasframe.network.axes import Axis, produces
from nasframe.network.mixing import Gate, MixedOperation, readable
from nasframe.network.outputs import Outputs
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.structure import Structure


class Network(nn.Module):
    """What a structure computes: `network(inputs, mixing)`, the mixing weights by site address, as an architect's rule gives them.

    It owns the alphas, one vector per undecided site, shared by all instances of the cell type; `body` is what the
    backbone built. An architecture has no alphas: it is called with the inputs alone.

    While `fast` is true, the backbone may compute in another form what the body computes; hooks on the body's modules see the
    readable form alone. The modules of the body run nevertheless where PyTorch does more than compute values and gradients:
    while a program is captured (`torch.compile`, `torch.export`, `torch.onnx.export`, `torch.jit.trace`), under autocast, and
    under the transforms of `torch.func`. So all of these work on a network as it is. A captured recurrent network is unrolled over
    time: its batch may be dynamic, its number of time steps is that of the example.
    """

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.fast = True
        self.alphas = nn.ParameterDict(
            {a: nn.Parameter(torch.zeros(len(s.candidates))) for a, s in structure.sites() if not s.decided}
        )
        self.body = self.backbone.body(structure)

    @property
    def backbone(self) -> Backbone:
        """Return the backbone of the structure."""
        backbone = self.structure.backbone
        assert isinstance(backbone, Backbone)
        return backbone

    def forward(self, inputs: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Outputs:
        """The output for a batch. `mixing`: for each undecided site a tensor of shape (candidates,)."""
        mixing = {} if mixing is None else mixing
        missing = [a for a in self.alphas if a not in mixing]
        if missing:
            raise StructureError(
                f"no mixing weights were given for {', '.join(missing)}: these sites are undecided, so call "
                "network(inputs, architect.mixing(network.alphas)), or derive an architecture first"
            )
        run = self.backbone.run if self.fast and plain(inputs) else readable
        return run(self.body, inputs, mixing)

    def slow_parts(self) -> Sequence[str]:
        """What of it runs no faster than its modules, though it should, and why: a sentence each."""
        return self.backbone.slow_parts(self.structure) if self.fast else ()

    def axes(self) -> dict[str, tuple[Axis | None, ...]]:
        """The labels of the alphas: the candidates' ids."""
        sites = ((a, s) for a, s in self.structure.sites() if not s.decided)
        return {f"alphas.{a}": (produces(*(c.id for c in s.candidates)),) for a, s in sites}

    def mixed_operations(self, address: Address) -> Iterator[tuple[str, MixedOperation]]:
        """The name and the module of a site in every instance of its cell type."""
        for name, module in self.named_modules():
            if isinstance(module, MixedOperation) and module.address == address:
                yield name, module

    def gates(self) -> Iterator[tuple[str, Gate]]:
        """The name and the module of every gate."""
        for name, module in self.named_modules():
            if isinstance(module, Gate):
                yield name, module

    def count(self) -> dict[str, int]:
        """Parameters by role: of the operations, of combination (alphas), of gates, and all others (stem, head)."""
        operations = sum(p.numel() for m in self.modules() if isinstance(m, MixedOperation) for p in m.parameters())
        combination = sum(p.numel() for p in self.alphas.values())
        gates = sum(1 for _ in self.gates())
        other = sum(p.numel() for p in self.parameters()) - operations - combination - gates
        return {"operations": operations, "combination": combination, "gates": gates, "other": other}


def plain(inputs: Tensor) -> bool:
    """Return whether PyTorch only computes values and gradients now.

    A fast form may write in place and bring its own derivative. Neither can be captured as a program, transformed, or computed
    in mixed precision. Where PyTorch has no public name for what it does, a private one is read if it is there.
    """
    device = inputs.device.type
    transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
    dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    return not (
        torch.compiler.is_compiling()  # torch.compile, torch.export, torch.onnx.export
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or transforming()  # torch.func
        or dispatch_modes() > 0  # make_fx, FakeTensorMode, FlopCounterMode and others that look at each operator
        or getattr(forward_ad, "_current_level", -1) >= 0  # forward-mode differentiation
        or (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))
    )


def set_progress(module: nn.Module, progress: float) -> None:
    """Tell every module within that has a `progress` how far its training has come, from 0 to 1."""
    for part in module.modules():
        if hasattr(part, "progress"):
            part.progress = progress  # type: ignore[assignment]


def build(structure: Structure, seed: Seed, *, like: Network | None = None) -> Network:
    """The network of a structure with its own initialisation, drawn from the seed; device, dtype, mode and form as `like`."""
    with seed.as_global():
        network = Network(structure)
    if like is not None:
        example = next(iter(like.parameters()))
        network.to(device=example.device, dtype=example.dtype).train(like.training).fast = like.fast
    return network


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
