"""Morphisms of one separable convolution (Laube & Zell 2019, III-B), and exact relatives of the lossy ones."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe import (
    Address,
    Candidate,
    Claim,
    Context,
    Edit,
    Filling,
    Morphism,
    Network,
    Operation,
    Proposal,
    Seed,
    Set,
    Site,
    Structure,
    Take,
)
from nasframe.change.map import FRESH, ZERO
from nasframe.change.replace import replace_candidate
from nasframe.errors import ChangeError
from nasframe.interfaces.part import to_plain
from nasframe.network.network import tensors, unallocated
from nasframe.options import number
from nasframe.structure.editing import candidate_at, site_at
from nasframe_convolutional.operations import SeparableConvolution

Entries = Mapping[str, Take | Set]


@attrs.frozen
class Kind:
    """How one kind of morphism changes an operation.

    Args:
        claim: how well the change preserves the function.
        fields: returns the changed fields of an operation.
        admits: returns whether an operation can be changed in this way.
        needs: what it requires of an operation, for messages.
    """

    claim: Claim
    fields: Callable[[SeparableConvolution], dict[str, Any]]
    admits: Callable[[SeparableConvolution], bool] = lambda o: True
    needs: str = ""


def gaps(o: SeparableConvolution) -> bool:
    """Return whether there is space between the taps of the kernels."""
    return o.kernel > 1 and o.dilation > 1


def wider(expansion: tuple[int, ...]) -> tuple[int, ...]:
    """Return the widths with the smallest one, the first among equals, increased by one."""
    place = expansion.index(min(expansion))
    return (*expansion[:place], expansion[place] + 1, *expansion[place + 1 :])


EXACT, LOSSY = Claim.exact(), Claim.lossy()
TAPS, GAPS = "a kernel of more than 1", "a kernel and a dilation of more than 1"

# Each kind changes the description of an operation and nothing else. How weights move follows from comparing the old and
# the new description (`Morphed.entries`), with one rule for all kinds.
KINDS: Mapping[str, Kind] = {
    "pad": Kind(EXACT, lambda o: {"kernel": o.kernel + 2}),
    "widen": Kind(EXACT, lambda o: {"expansion": wider(o.expansion)}, lambda o: o.expansion != (), "a hidden layer"),
    "densify": Kind(EXACT, lambda o: {"kernel": (o.kernel - 1) * o.dilation + 1, "dilation": 1}, gaps, GAPS),
    "insert": Kind(EXACT, lambda o: {"expansion": (*o.expansion, 1), "linear": o.linear + 1}),
    "crop": Kind(LOSSY, lambda o: {"kernel": o.kernel - 2}, lambda o: o.kernel > 1, TAPS),
    # a kernel of 1 computes the same with any dilation, so it keeps the one it was cropped with; "pad" uses it again
    "dilate": Kind(LOSSY, lambda o: {"dilation": o.dilation + 1}, lambda o: o.kernel > 1, TAPS),
    "contract": Kind(LOSSY, lambda o: {"dilation": o.dilation - 1}, gaps, GAPS),
    "deepen": Kind(LOSSY, lambda o: {"expansion": (*o.expansion, 1)}, lambda o: o.linear == 0, "linear = 0"),
}


@attrs.frozen(eq=False)
class Morphed:
    """An operation that was made from another one.

    Args:
        operation: the new operation.
        claim: how well it preserves the function of the old one.
        taps: for each tap along an axis of the new kernels the index of the old tap at the same position, or ZERO. Not used if
            the kernels have the same size.
    """

    operation: SeparableConvolution
    claim: Claim
    taps: Sequence[int]

    def entries(self, old: nn.Module, new: nn.Module, prefix: str = "") -> Entries:
        """Return the map entries that fill the tensors of the new operation's module.

        New units keep the initialisation of the new module, and their consumers start with weights of zero. The convolutions of a
        new layer start as the identity.

        Args:
            old: the module of the old operation.
            new: the module of the new operation.
            prefix: the name of the old module in the parent, with a dot at its end.
        """
        before, after = tensors(old), tensors(new)
        entries: dict[str, Take | Set] = {}
        # Tensors of both modules have the same names as far as the layers correspond, because layers are numbered from the
        # first on. What has no counterpart belongs to a layer that was added at the end.
        for name, tensor in after.items():
            if name in before:
                # by position and not by label: the layers of an operation are numbered, and old units come first
                index = tuple(self._positions(axis, before[name], tensor) for axis in range(tensor.dim()))
                entries[name] = Take(f"{prefix}{name}", index)
            elif tensor.dim() == 4:
                # a depthwise weight has the shape (C, 1, k, k) and C groups, a pointwise one (C, C, 1, 1) and one group
                # One tap of weight 1 in the middle: a depthwise kernel that copies its channel, a pointwise one that copies
                # all.
                entries[name] = Set(nn.init.dirac_(torch.empty_like(tensor), groups=tensor.shape[0] // tensor.shape[1]))
        return entries

    def _positions(self, axis: int, old: Tensor, new: Tensor) -> Tensor | None:
        before, after = old.shape[axis], new.shape[axis]
        if before == after:
            return None
        fresh = ZERO if axis == 1 else FRESH  # the second axis of a weight consumes units
        return torch.tensor(self.taps if axis > 1 else [*range(before), *[fresh] * (after - before)], device=new.device)


def morphed(operation: SeparableConvolution, kind: str) -> Morphed:
    """Return the operation after a change of a kind.

    Four kinds preserve the function, in training and in evaluation: "pad" puts zeros around the kernels; "widen" adds units to a
    hidden layer, whose consumers start with weights of zero; "densify" replaces the dilation by zeros between the taps; "insert" adds a
    last layer that starts as the identity. Four are lossy: "crop" keeps the centre of the kernels; "dilate" and "contract" move
    the taps apart and together; "deepen" adds a layer with ReLU and BatchNorm. (With a PReLU of slope 1, that layer would be exact
    in evaluation only, and only if scale and shift of its BatchNorm matched the statistics.)

    Args:
        operation: the operation to change.
        kind: a key of KINDS.

    Raises:
        ChangeError: the kind is unknown or not possible for this operation.
    """
    if kind not in KINDS:
        raise ChangeError(f"there is no kind {kind!r} of morphism; there are {', '.join(KINDS)}")
    way = KINDS[kind]
    if not way.admits(operation):
        raise ChangeError(f"{kind!r} cannot be made of {to_plain(operation)}: it needs {way.needs}")
    new = attrs.evolve(operation, **way.fields(operation))
    return Morphed(new, way.claim, taps(operation, new))


def taps(old: SeparableConvolution, new: SeparableConvolution) -> Sequence[int]:
    """Return for each tap of the new kernel, along an axis, the index of the old one at the same position, or ZERO."""
    # taps are matched by their distance from the centre in pixels, so that growing and dilating use the same rule
    position = {offset: i for i, offset in enumerate(offsets(old))}
    return [position.get(offset, ZERO) for offset in offsets(new)]


def offsets(o: SeparableConvolution) -> list[int]:
    """Return the distances of the taps of a kernel from its centre, along an axis, in pixels."""
    return [o.dilation * (i - o.kernel // 2) for i in range(o.kernel)]


def some_kinds(instance: Any, attribute: Any, value: Any) -> None:
    """Raise a ValueError unless the value is a tuple of kinds."""
    if not isinstance(value, tuple) or not value or not all(kind in KINDS for kind in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must list one or more of {', '.join(KINDS)}")


@attrs.frozen
class ConvolutionMorphism(Morphism):
    """Change one separable convolution, in all instances of its cell type; its alpha stays.

    With the kinds pad, widen, crop, dilate, contract and deepen, the configurations of PR-DARTS (its Table II) are reached from a
    single 3 x 3 convolution; the default limits are those of its depth-restricted space. A kernel of 1 is never dilated, but one
    that is cropped keeps its dilation and counts as another configuration, as in that table.

    Args:
        kinds: the kinds of change that may be proposed, the preferred one first (see `morphed`).
        smallest: the smallest kernel.
        largest: the largest kernel.
        dilation: the largest dilation.
        depth: the largest number of hidden layers.
        width: their largest expansion.
    """

    name: ClassVar[str] = "convolution"
    kinds: tuple[str, ...] = attrs.field(default=tuple(KINDS), validator=some_kinds)
    smallest: int = number(1, low=1, whole=True)
    largest: int = number(7, low=1, whole=True)
    dilation: int = number(2, low=1, whole=True)
    depth: int = number(1, low=0, whole=True)
    width: int = number(5, low=1, whole=True)

    def admits(self, structure: Structure) -> bool:
        """Return whether there is a convolution that can be changed within the limits."""
        return any(True for _ in self._changes(structure))

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return each change within the limits whose result is not yet a candidate of its site."""
        # Without memory: the parameters of a large supernet are only counted.
        network = unallocated(structure)
        return [
            Proposal({"site": address, "candidate": candidate.id, "kind": kind}, cost=more(network, address, candidate.id, new))
            for kind, address, candidate, new in self._changes(structure)
        ]

    def _changes(self, structure: Structure) -> Iterator[tuple[str, Address, Candidate, Any]]:
        """Yield each possible change: its kind, the site, the candidate and the new operation."""
        for kind in self.kinds:
            for address, site in structure.sites():
                for candidate in site.candidates:
                    with contextlib.suppress(ChangeError):
                        yield kind, address, candidate, self._new(site, candidate, kind).operation

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that replaces a candidate by its morphed form, which keeps the alpha and all weights that fit."""
        address, id = request.get("site"), request.get("candidate")
        site, old = site_at(structure, address), candidate_at(structure, address, id)
        morph = self._new(site, old, str(request.get("kind")))
        made = replace_candidate(structure, Address(str(address)), old.id, morph.operation)

        def fill(parent: Network, child: Network) -> Filling:
            overrides: dict[str, Take | Set] = {**made.alphas(parent, child)}
            for before, after in made.modules(parent, child):
                entries = morph.entries(parent.get_submodule(before), child.get_submodule(after), f"{before}.")
                overrides |= {f"{after}.{tensor}": entry for tensor, entry in entries.items()}
            return Filling(morph.claim, overrides)

        return Edit(made.structure, fill)

    def morphed(self, operation: Operation, kind: str) -> Morphed:
        """Return the operation after a change of a kind.

        Raises:
            ChangeError: the change is not possible, or not within the limits.
        """
        if not isinstance(operation, SeparableConvolution):
            raise ChangeError(f"{operation.name!r} cannot be morphed; 'separable' can")
        morph = morphed(operation, kind)
        new = morph.operation
        within = (
            self.smallest <= new.kernel <= self.largest
            and new.dilation <= self.dilation
            and len(new.expansion) <= self.depth
            and max(new.expansion, default=1) <= self.width
        )
        if not within:
            raise ChangeError(f"{kind!r} would make {to_plain(new)}, which is not within the limits of {to_plain(self)}")
        return morph

    def _new(self, site: Site, candidate: Candidate, kind: str) -> Morphed:
        morph = self.morphed(candidate.operation, kind)
        # two equal candidates at a site would divide one mixing weight between them
        if morph.operation in [c.operation for c in site.candidates]:
            raise ChangeError(f"{kind!r} would make {to_plain(morph.operation)}, which {site.id} has already")
        return morph


def more(network: Network, address: Address, id: int, new: SeparableConvolution) -> int:
    """Return the number of parameters that the network gains if another operation replaces a candidate."""
    total = 0
    for _, mixture in network.mixed_operations(address):
        module: Any = mixture.candidates[str(id)]
        # The sizes that the backbone built the operation with are not kept anywhere; they are read from the first layer.
        first = module.layers[0]
        # channels and affine follow from the module; the stride does not change the number of parameters
        total += parameters(new, first.depthwise.in_channels, first.norm.affine) - sum(p.numel() for p in module.parameters())
    return total


@functools.cache
def parameters(operation: SeparableConvolution, channels: int, affine: bool) -> int:
    """Return the number of parameters of an operation."""
    with torch.device("meta"):
        return sum(p.numel() for p in operation.build(channels=channels, stride=1, affine=affine).parameters())
