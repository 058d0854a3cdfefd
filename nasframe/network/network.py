"""The trainable network of a structure: a tree of modules, one for each candidate, and the alphas."""

from __future__ import annotations

import copy
import functools
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from nasframe.errors import StructureError
from nasframe.interfaces.backbone import Backbone
from nasframe.interfaces.relaxation import Draw, Relaxation
from nasframe.network.axes import Axis, produces
from nasframe.network.mixing import Gate, MixedOperation, Mixing, active_of, readable
from nasframe.network.observing import Calls, observed
from nasframe.network.outputs import Outputs
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.structure import Site, Structure

#: the types of most attributes of modules
_CONSTANT = frozenset({bool, int, float, str, type(None)})
_EMPTY = frozenset({dict, OrderedDict, set})


def _is_plain(cls: type[nn.Module]) -> bool:
    """Return whether a copy of a module is a module of the same class with copies of its attributes."""
    names = ("__deepcopy__", "__reduce_ex__", "__getstate__")
    # A `Network` has a `__deepcopy__`, but it is the caller: its attributes are copied like those of any plain module.
    return issubclass(cls, Network) or all(getattr(cls, name, None) == getattr(nn.Module, name, None) for name in names)


class Network(nn.Module):
    """The network of a structure.

    A supernet is called with the mixing weights of its undecided sites, an architecture, which has no alphas, with the inputs only.

    If `fast` is true, the backbone may compute the outputs in another form (`Backbone.run`), and hooks on modules of the body are not
    called. The modules of the body run nevertheless where PyTorch does more than compute values and gradients:
    while a program is captured (`torch.compile`, `torch.export`, `torch.onnx.export`, `torch.jit.trace`), under autocast, and
    under the transforms of `torch.func`. So all of these work on a network as it is. A captured recurrent network is unrolled over
    time: its batch may be dynamic, its number of time steps is that of the example.

    Args:
        structure: the structure. `nasframe.build` initialises a network from a seed.
        relaxation: turns the alphas into mixing weights; a network without it is called with mixing weights that are given.

    Attributes:
        structure: the structure.
        relaxation: the relaxation, or None.
        fast: whether the backbone may use its fast form.
        alphas: the alphas of each undecided site, of shape (candidates,), by address, and the further parameters of the
            relaxation; all instances of a cell type share them.
        body: the module that the backbone built.

    Example:
        >>> from nasframe.testing.fakes import Chain, Sigmoids
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> network = build(structure, Seed((0,)), relaxation=Sigmoids())
        >>> network(torch.zeros(5, 3), network.mixing()).shape
        torch.Size([5, 1])
    """

    def __init__(self, structure: Structure, relaxation: Relaxation | None = None) -> None:
        super().__init__()
        self.structure, self.relaxation = structure, relaxation
        self.fast = True
        # A decided site has nothing to weigh: it has no alphas, and its candidate counts fully.
        self.sites = {a: s for a, s in structure.sites() if not s.decided}
        further = {} if relaxation is None else relaxation.parameters(self.sites)
        _check_further(relaxation, further, self.sites)
        self._further_axes = {name: axes for name, (_, axes) in further.items()}
        # Zeros, and not small random numbers as in DARTS: all relaxations then start from equal mixing weights, and a
        # search depends on its seed through the weights, the data and what is sampled.
        values: dict[str, Tensor] = {a: torch.zeros(len(s.candidates)) for a, s in self.sites.items()}
        # Cloned, because the tensor may belong to the relaxation, which several networks share (`build`).
        values |= {name: value.detach().clone() for name, (value, _) in further.items()}
        # Alphas are registered before the body, so that they are the first parameters in every listing and file.
        self.alphas = nn.ParameterDict({name: nn.Parameter(value) for name, value in values.items()})
        self.body = self.backbone.body(structure)
        # by site and place, the names of a candidate's weights in all instances of its cell type
        self._weights: dict[str, list[list[str]]] = {a: [[] for _ in s.candidates] for a, s in self.sites.items()}
        # by site, the names of its modules: a change looks for each site, and the modules of a network are many
        self._mixed: dict[str, list[str]] = {}
        for name, module in self.named_modules():
            if not isinstance(module, MixedOperation):
                continue
            self._mixed.setdefault(module.address, []).append(name)
            # Decided sites are left out: their only candidate is always computed.
            if module.address in self._weights:
                for names, (id, candidate) in zip(self._weights[module.address], module.candidates.items(), strict=True):
                    names += [f"{name}.candidates.{id}.{weight}" for weight, _ in candidate.named_parameters()]

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        # PyTorch gives each module two dozen attributes. Nearly all are constants or empty, and to copy them in the general way
        # takes much longer than to copy the tensors. What is in the memo counts as copied.
        plain = [module for module in self.modules() if _is_plain(type(module))]
        # All copies exist, still empty, before one is filled: an attribute that refers to a module then finds its copy.
        memo |= {id(module): type(module).__new__(type(module)) for module in plain}
        # A buffer that shares its memory with no other needs no copy of its storage and no view of it, which take longer.
        buffers = [b for module in plain for b in module._buffers.values() if type(b) is Tensor and not b.requires_grad]
        memory = [buffer.untyped_storage().data_ptr() for buffer in buffers]
        sharing = Counter(memory)
        memo |= {id(b): b.clone() for b, place in zip(buffers, memory, strict=True) if sharing[place] == 1}
        for module in plain:
            attributes = vars(memo[id(module)])
            for name, value in module.__getstate__().items():
                kind = type(value)
                if kind in _CONSTANT:
                    attributes[name] = value
                elif kind in _EMPTY and not value:
                    attributes[name] = kind()
                else:
                    attributes[name] = copy.deepcopy(value, memo)
        copied: Network = memo[id(self)]
        return copied

    @property
    def backbone(self) -> Backbone:
        """Return the backbone of the structure."""
        backbone = self.structure.backbone
        assert isinstance(backbone, Backbone)
        return backbone

    def forward(self, inputs: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Outputs:
        """Return the outputs for a batch.

        Args:
            inputs: the inputs, as the backbone expects them.
            mixing: the mixing weights of each undecided site, of shape (candidates,), by address.

        Raises:
            StructureError: if a site has no mixing weights.
        """
        mixing = self._complete(mixing)
        # decided at each call: the same network may be traced once and trained otherwise
        run = self.backbone.run if self.fast and not requires_readable_form(inputs) else readable
        return run(self.body, inputs, mixing)

    def observed(
        self, inputs: Tensor, mixing: Mapping[str, Tensor] | None, candidates: Collection[nn.Module]
    ) -> tuple[Outputs, Calls]:
        """Return the outputs for a batch, and what candidates received and returned.

        It is for measurements that need the gradient of the loss with respect to the outputs of candidates, also in the fast form.

        Args:
            inputs: the inputs, as the backbone expects them.
            mixing: the mixing weights of each undecided site, of shape (candidates,), by address.
            candidates: the modules of the candidates. One that is not computed has no calls.
        """
        observe = self.backbone.observed if self.fast and not requires_readable_form(inputs) else observed
        return observe(self.body, inputs, self._complete(mixing), candidates)

    def _complete(self, mixing: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        mixing = {} if mixing is None else mixing
        missing = [a for a in self.sites if a not in mixing]
        if missing:
            raise StructureError(
                f"no mixing weights were given for {', '.join(missing)}, which are undecided; call "
                "network(inputs, network.mixing()), or derive an architecture first"
            )
        return mixing

    def mixing(self, draw: Draw | None = None, alphas: Mapping[str, Tensor] | None = None) -> Mixing:
        """Return the mixing weights of the undecided sites, differentiable by the alphas.

        Args:
            draw: how to sample in a training step; None for what validation computes.
            alphas: the alphas and further parameters of the relaxation by name; by default the present ones.

        Raises:
            StructureError: if there are undecided sites and the network has no relaxation, or the relaxation returns something of
                another form.
        """
        # An architecture has no undecided sites and may do without a relaxation.
        if not self.sites:
            return Mixing({})
        relaxation = self._relaxation()
        # A dictionary, because an nn.ParameterDict is no Mapping, and a relaxation receives one from architects.
        found = relaxation.mixing(self.sites, dict(self.alphas) if alphas is None else alphas, draw)
        # a relaxation is foreign code, whose fault would otherwise show up as an error deep in a fast form
        name = f"relaxation {relaxation.name!r}: mixing()"
        if not isinstance(found, Mixing):
            raise StructureError(f"{name} returned {type(found).__name__}; it must return nasframe.Mixing")
        for address in self.sites:
            if address not in found:
                raise StructureError(
                    f"{name} returned nothing for {address}; it must return mixing weights for each site in `sites`"
                )
            shape, wanted = tuple(found[address].shape), tuple(self.alphas[address].shape)
            if shape != wanted:
                raise StructureError(
                    f"{name} returned the shape {shape} for {address}; it must be {wanted}, one number per candidate"
                )
        return found

    def idle(self, mixing: Mapping[str, Tensor]) -> set[str]:
        """Return the names of the weights of all candidates that are not computed with these mixing weights (`Mixing.active`)."""
        return {
            name
            for address, places in active_of(mixing).items()
            for place, names in enumerate(self._weights[address])
            if place not in places
            for name in names
        }

    def ranking(self) -> Mapping[str, Tensor]:
        """Return the numbers by which pruners and pictures compare the candidates of each undecided site."""
        with torch.no_grad():
            # An architecture has nothing to rank, and may have no relaxation.
            return self._relaxation().ranking(self.sites, dict(self.alphas)) if self.sites else {}

    def invert(self, wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return alphas at which the sites have the wanted mixing weights, by name; the alphas are not changed."""
        with torch.no_grad():
            return self._relaxation().invert(self.sites, wanted, dict(self.alphas)) if wanted else {}

    def _relaxation(self) -> Relaxation:
        # a method, as torch.jit.trace reads every property
        if self.relaxation is None:
            raise StructureError(
                f"the network has undecided sites ({', '.join(self.sites)}) and no relaxation: build it with "
                "nasframe.build(structure, seed, relaxation=...)"
            )
        return self.relaxation

    def slow_parts(self) -> Sequence[str]:
        """Return one sentence for each part of the network that has no fast form, with the reason."""
        return self.backbone.slow_parts(self.structure) if self.fast else ()

    def axes(self) -> dict[str, tuple[Axis | None, ...]]:
        """Return the axis labels of the alphas, which are the ids of the candidates, and of the relaxation's parameters."""
        alphas = {f"alphas.{a}": (produces(*(c.id for c in s.candidates)),) for a, s in self.sites.items()}
        return alphas | {f"alphas.{name}": axes for name, axes in self._further_axes.items()}

    def mixed_operations(self, address: Address) -> Iterator[tuple[str, MixedOperation]]:
        """Yield the name and the module of a site in each instance of its cell type."""
        for name in self._mixed.get(address, ()):
            module = self.get_submodule(name)
            assert isinstance(module, MixedOperation)
            yield name, module

    def gates(self) -> Iterator[tuple[str, Gate]]:
        """Yield the name and the module of each gate."""
        for name, module in self.named_modules():
            if isinstance(module, Gate):
                yield name, module

    def count(self) -> dict[str, int]:
        """Return the number of parameters of the operations, the combination (alphas), the gates, and all others (stem, head)."""
        # Counted by module and not by name, so that a backbone may name its modules as it likes.
        operations = sum(p.numel() for m in self.modules() if isinstance(m, MixedOperation) for p in m.parameters())
        combination = sum(p.numel() for p in self.alphas.values())
        # each gate is a single number
        gates = sum(1 for _ in self.gates())
        other = sum(p.numel() for p in self.parameters()) - operations - combination - gates
        return {"operations": operations, "combination": combination, "gates": gates, "other": other}


def requires_readable_form(inputs: Tensor) -> bool:
    """Return whether PyTorch now does more than compute values and gradients of plain tensors.

    A fast form may write in place and have a hand-written derivative. Such a computation cannot be captured as a program,
    transformed, or done in mixed precision. Where PyTorch has no public name for what it does, a private one is read if it exists.
    """
    device = inputs.device.type
    transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
    dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    return (
        torch.compiler.is_compiling()  # torch.compile, torch.export, torch.onnx.export
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or transforms_active()  # torch.func
        or dispatch_modes() > 0  # make_fx, FakeTensorMode, FlopCounterMode and others that observe each operator
        or getattr(forward_ad, "_current_level", -1) >= 0  # forward-mode differentiation
        or (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device))
    )


def set_progress(module: nn.Module, progress: float) -> None:
    """Set the attribute `progress` of each module that has it, such as drop path.

    Args:
        module: the module with all its descendants.
        progress: the completed fraction of the training, from 0 to 1.
    """
    for part in module.modules():
        if hasattr(part, "progress"):
            part.progress = progress  # type: ignore[assignment]


def build(structure: Structure, seed: Seed, *, relaxation: Relaxation | None = None, like: Network | None = None) -> Network:
    """Return the network of a structure with a fresh initialisation.

    Args:
        structure: the structure.
        seed: the seed of the initialisation.
        relaxation: turns alphas into mixing weights, by default that of `like`.
        like: a network whose relaxation, device, dtype, training mode and `fast` the new one gets.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=2)
        >>> one, other = build(structure, Seed((0,))), build(structure, Seed((0,)))
        >>> all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters()))
        True
    """
    if relaxation is None and like is not None:
        relaxation = like.relaxation
    with seed.as_global():
        # Modules initialise themselves from torch's global generator, which `as_global` seeds and puts back afterwards.
        network = Network(structure, relaxation)
    if like is not None:
        example = next(iter(like.parameters()))
        # initialised on the CPU in float32 and then moved, so that the values do not depend on the device
        if (example.device, example.dtype) != (torch.device("cpu"), torch.float32):  # nothing is moved, which takes time
            network.to(device=example.device, dtype=example.dtype)
        network.train(like.training).fast = like.fast
    return network


# Building takes most of the time in which a small network grows, and all morphisms want the network of the same structure.
# Few are kept, as the modules of a large supernet take some megabytes even without values.
@functools.lru_cache(maxsize=8)
def unallocated(structure: Structure, relaxation: Relaxation | None = None) -> Network:
    """Return the network of a structure on the device "meta", with names and shapes but without values and memory.

    The network is shared: it must not be changed.

    Example:
        >>> from nasframe.testing.fakes import Chain
        >>> network = unallocated(Chain().initial({"inputs": 3, "outputs": 1}, nodes=1))
        >>> network.body.head.weight.shape, network.body.head.weight.device.type
        (torch.Size([1, 3]), 'meta')
    """
    with torch.device("meta"):
        return Network(structure, relaxation)


def _check_further(relaxation: Relaxation | None, further: Mapping[str, Any], sites: Mapping[Address, Site]) -> None:
    """Refuse further parameters of a relaxation whose names or labels do not fit."""
    for name, (value, axes) in further.items():
        where = f"relaxation {relaxation.name!r}: parameters() returned" if relaxation is not None else ""
        if "." in name or name in sites:
            why = "is the address of a site" if name in sites else "has a dot, which PyTorch uses to join the names of modules"
            raise StructureError(f"{where} the name {name!r}, which {why}; write another one, such as 'edges layer0 n2'")
        if len(axes) != value.dim():
            raise StructureError(
                f"{where} {len(axes)} axes for {name!r}, which has the shape {tuple(value.shape)}; give an Axis or None for each axis"
            )
        for size, axis in zip(value.shape, axes, strict=True):
            if axis is not None and not len({*axis.labels}) == len(axis.labels) == size:
                raise StructureError(
                    f"{where} the labels {axis.labels} for an axis of {name!r} of length {size}; give one label for each entry, and none "
                    "twice"
                )


@functools.lru_cache(maxsize=256)
def count_parameters(structure: Structure, relaxation: Relaxation | None = None) -> int:
    """Return the number of parameters of a structure's network, which is built without memory for it.

    Example:
        The cost of one more node, as `Morphism.propose` gives it:

        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> grown = structure.backbone.grown(structure, "chain").structure
        >>> count_parameters(grown) - count_parameters(structure)
        14
    """
    # Without the relaxation, as morphisms ask for it, so that one cached network serves all. Its parameters are added below.
    network = unallocated(structure)
    further = {} if relaxation is None else relaxation.parameters(network.sites)
    return sum(p.numel() for p in network.parameters()) + sum(value.numel() for value, _ in further.values())


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers, by name."""
    # Buffers that are not saved in a checkpoint are included: a child needs them as well.
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
