"""The transaction: a child is filled from its parent, measured, held to its claim, and only then handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set as AbstractSet
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.change.claim import Claim, tolerance
from nasframe.change.map import Map, Set, Take, derive_map
from nasframe.errors import ChangeError, ClaimError
from nasframe.network.mixing import Gate
from nasframe.network.network import Network, build, tensors
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from


@attrs.frozen(eq=False)
class Change:
    """A change that has been worked out and not yet happened.

    `child` is a new network, built from its structure and not yet filled; `overrides` is only what differs from the
    derived map; `mixing` states the mixing weights of each site that is new or has newcomers, of which the
    architect makes alphas, unless `overrides` writes the site's alphas (a new site that is left out starts even, which only a
    gate makes harmless); `request` is what was asked for, in JSON's values; `evidence` the tensors that were measured for it.
    """

    child: Network
    claim: Claim
    overrides: Map = attrs.field(factory=dict)
    mixing: Mapping[str, Tensor] = attrs.field(factory=dict)
    request: Mapping[str, Any] = attrs.field(factory=dict)
    evidence: Mapping[str, Tensor] = attrs.field(factory=dict)


def apply(parent: Network, change: Change, alphas: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> Map:
    """Fill the child from its parent and return the whole map, by which the optimisers follow. The parent is untouched.

    Args:
        alphas: the architect's, from weights to alphas.
    """
    child = change.child
    _check_newcomers(parent, child, change)
    stated = {f"alphas.{address}": Set(value) for address, value in alphas(change.mixing).items()}
    full = derive_map(parent, child) | stated | dict(change.overrides)
    unknown = full.keys() - tensors(child).keys()
    if unknown:
        raise ChangeError(f"the change writes {', '.join(sorted(unknown))}, which the child does not have")
    old = tensors(parent)
    with torch.no_grad():
        for name, own in tensors(child).items():
            entry = full.get(name)
            if entry is None:
                continue
            value = entry.tensor if isinstance(entry, Set) else entry(old[entry.source], own)
            if value.shape != own.shape:
                raise ChangeError(f"the change gives {name} the shape {tuple(value.shape)}; it has {tuple(own.shape)}")
            own.copy_(value)
    return full


def _check_newcomers(parent: Network, child: Network, change: Change) -> None:
    """A newcomer among other candidates must have its weight stated, or the alphas of its site written: a alpha of zero is as
    large a weight as any.
    """
    before = {a: {c.id for c in s.candidates} for a, s in parent.structure.sites()}
    for address, site in child.structure.sites():
        old = before.get(address)
        unstated = address not in change.mixing and f"alphas.{address}" not in change.overrides
        if old is not None and not site.decided and {c.id for c in site.candidates} - old and unstated:
            raise ChangeError(
                f"the change adds candidates to {address} without stating the weights of that site, so that they would weigh as "
                f"much as any: give Change mixing={{{address!r}: ...}}, one for each candidate; or make the child by `replacement`, whose "
                "`alphas` go into the overrides"
            )


def distance(outputs: Callable[[Network], Tensor], parent: Network, child: Network, claim: Claim) -> float:
    """How far the child's output is from the parent's in evaluation mode, relative to its scale.

    Args:
        outputs: what a network puts out on data that does not change.
        claim: if exact, a distance beyond rounding refuses the change.
    """
    with torch.no_grad():
        before, after = (_evaluated(outputs, network) for network in (parent, child))
    if not bool(torch.isfinite(after).all()) and bool(torch.isfinite(before).all()):
        raise ChangeError("the change turns a network with finite outputs into one without; it was not made")
    difference = float((after - before).abs().max())
    if claim.kind == "exact" and not difference <= tolerance(before):
        raise ClaimError(
            f"the change claims to be exact, but the output moves by {difference:.3g}, more than rounding allows "
            f"({tolerance(before):.3g}); it was not made. Claim it approximate, with its bound, or lossy"
        )
    return difference / max(float(before.abs().max()), torch.finfo(before.dtype).tiny)


def _evaluated(outputs: Callable[[Network], Tensor], network: Network) -> Tensor:
    mode = network.training
    try:
        return outputs(network.eval())
    finally:
        network.train(mode)


def remove_candidates(parent: Network, gone: Mapping[Address, AbstractSet[int]], seed: Seed) -> Change:
    """Take candidates out of their sites; the alphas of the others stay, so that the rule shares the weight out anew.

    A site that loses all goes with them, and so does a node that nothing takes in any more.
    """
    request: dict[str, Any] = {address: sorted(ids) for address, ids in gone.items()}
    return Change(build(remove_from(parent.structure, gone), seed, like=parent), Claim.lossy(), request=request)


def fold_gates(parent: Network, seed: Seed) -> Change:
    """Fold each gate that its node's operation can absorb; the others stay, and count as parameters.

    A node with one candidate o(..., h) = h + f and the gate g on the same h puts out h + g f: the parameters in which f
    is of degree one are scaled by g, and the gate goes.
    """
    structure = parent.structure
    folded: dict[Address, tuple[Address, tuple[str, ...]]] = {}
    kept: list[Address] = []
    for address, node in parent.structure.nodes():
        if not node.inherits:
            continue
        cell = structure.cell(address.cell)
        (site_address, site), *others = structure.sites_of(address).items()
        residual = site.candidates[0].operation.residual if not others and site.decided else None
        if residual is None or site.inputs[-1:] != node.inherits:
            kept.append(address)
            continue
        folded[address] = (site_address, residual)
        nodes = tuple(attrs.evolve(n, inherits=()) if n.id == node.id else n for n in cell.nodes)
        structure = structure.replace_cell(address.cell, attrs.evolve(cell, nodes=nodes))
    child = build(structure, seed, like=parent)
    old = tensors(parent)
    overrides: dict[str, Take | Set] = {}
    for address, (site_address, residual) in folded.items():
        # the instances of a cell type have the same modules under different prefixes, in the same order
        gates = [gate for _, gate in parent.gates() if gate.address == address]
        for gate, (prefix, mixture) in zip(gates, parent.mixed_operations(site_address), strict=True):
            candidate = f"{prefix}.candidates.{next(iter(mixture.candidates))}"
            overrides |= {f"{candidate}.{p}": _scaled(old[f"{candidate}.{p}"], gate) for p in residual}
    request = {"folded": sorted(folded), "kept": kept}
    return Change(child, Claim.exact(), overrides, request=request)


def _scaled(tensor: Tensor, gate: Gate) -> Set:
    return Set((gate.g * tensor).detach())
