"""Changes of a network: a child is built, filled from its parent, measured, and held to its claim.

The parent is never modified, so it stays in place if any step fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set as AbstractSet
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.change.claim import Claim, tolerance
from nasframe.change.map import Map, Set, Take, derive_map
from nasframe.errors import ChangeError, ClaimError
from nasframe.network.network import Network, build, tensors
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from


@attrs.frozen(eq=False)
class Change:
    """A change of a network that has been prepared but not carried out.

    Attributes:
        child: the new network, built from its structure with a fresh initialisation (`nasframe.build`).
        claim: how far the change preserves the function.
        overrides: how tensors of the child are filled where that differs from the map that follows from names and axis labels
            (`nasframe.change.map.derive_map`), by the name of the tensor.
        mixing: the mixing weights, positive and with the sum 1, of each undecided site that is new or has new candidates, by
            address. The architect computes the alphas from them. Leave out a site whose alphas are in `overrides`, and a new
            site that cannot change the output at first, such as one behind a gate: it starts with equal mixing weights.
        request: what was requested, as JSON values, from which the same morphism can prepare the change again.
        evidence: the tensors that were measured for it, by name.
    """

    child: Network
    claim: Claim
    overrides: Map = attrs.field(factory=dict)
    mixing: Mapping[str, Tensor] = attrs.field(factory=dict)
    request: Mapping[str, Any] = attrs.field(factory=dict)
    evidence: Mapping[str, Tensor] = attrs.field(factory=dict)


def apply(parent: Network, change: Change, invert: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> Map:
    """Fill the child of a change from its parent, and return the map by which it was filled.

    The parent is not modified. Optimisers follow the returned map (`nasframe.change.optimisers.carry`).

    Args:
        parent: the network before the change.
        change: the change; its child is filled in place.
        invert: the function from mixing weights to alphas, `Architect.invert`.

    Raises:
        ChangeError: if the map does not fit the child, or the mixing weight of a new candidate is missing.
    """
    child = change.child
    old_candidates = {address: {c.id for c in site.candidates} for address, site in parent.structure.sites()}
    for address, site in child.structure.sites():
        given = address in change.mixing or f"alphas.{address}" in change.overrides
        added = {c.id for c in site.candidates} - old_candidates.get(address, set())
        # an alpha of zero is not a mixing weight of zero: a new candidate would get about as much as the old ones have
        if address in old_candidates and added and not site.decided and not given:
            raise ChangeError(
                f"the change adds candidates to {address} without mixing weights for that site, so they would weigh about as much "
                f"as the old ones; give Change(mixing={{{address!r}: ...}}) one positive weight for each candidate, or make the child "
                "with replace_candidate(), whose `alphas` go into the overrides"
            )
    alphas = {f"alphas.{address}": Set(value) for address, value in invert(change.mixing).items()}
    # later entries win: first names and labels, then the alphas of new sites, then what the morphism says
    full = derive_map(parent, child) | alphas | dict(change.overrides)
    old, new = tensors(parent), tensors(child)
    if unknown := full.keys() - new.keys():
        raise ChangeError(f"the change fills {', '.join(sorted(unknown))}, which the child does not have")
    with torch.no_grad():
        for name, entry in full.items():
            value = entry.tensor if isinstance(entry, Set) else entry(old[entry.source], new[name])
            if value.shape != new[name].shape:
                shape = tuple(new[name].shape)
                raise ChangeError(f"the change fills {name} with the shape {tuple(value.shape)}; its shape is {shape}")
            # a copy in place, so that the child shares no storage with its parent
            new[name].copy_(value)
    return full


def distance(outputs: Callable[[Network], Tensor], parent: Network, child: Network, claim: Claim) -> float:
    """Return max |child - parent| / max |parent| over the outputs, in evaluation mode.

    Args:
        outputs: a function from a network to its outputs on fixed inputs.
        parent: the network before the change.
        child: the network after it.
        claim: the claim of the change.

    Raises:
        ClaimError: if the claim is exact and the outputs differ by more than rounding.
        ChangeError: if the outputs of the parent are finite and those of the child are not.
    """

    def evaluated(network: Network) -> Tensor:
        training = network.training
        try:
            with torch.no_grad():
                return outputs(network.eval())
        finally:
            network.train(training)

    # evaluation mode: dropout would differ between two calls, and a BatchNorm would change its statistics
    before, after = evaluated(parent), evaluated(child)
    if not bool(torch.isfinite(after).all()) and bool(torch.isfinite(before).all()):
        raise ChangeError("the outputs are finite before the change and not finite after it; the change was not made")
    difference = float((after - before).abs().max())
    # not `difference > ...`, which is false for NaN
    if claim.kind == "exact" and not difference <= tolerance(before):
        raise ClaimError(
            f"the change claims to be exact, but the output differs by {difference:.3g}, and rounding allows "
            f"{tolerance(before):.3g}; the change was not made. Use Claim.approximate(...) with a bound, or Claim.lossy()"
        )
    # the smallest normal number instead of a division by zero, where all outputs are 0
    return difference / max(float(before.abs().max()), torch.finfo(before.dtype).tiny)


def remove_candidates(parent: Network, removed: Mapping[Address, AbstractSet[int]], seed: Seed) -> Change:
    """Return the change that removes candidates from their sites.

    The remaining candidates keep their alphas, so a relaxation such as softmax divides the mixing weight of the removed ones
    among them. Sites without candidates and nodes without use are removed as well (`nasframe.structure.editing.remove_from`).

    Args:
        parent: the network.
        removed: the ids of the candidates to remove, by the address of their site.
        seed: the seed of the change.

    Raises:
        ChangeError: if there is no such candidate, or a node would lose all its candidates.
    """
    request: dict[str, Any] = {address: sorted(ids) for address, ids in removed.items()}
    return Change(build(remove_from(parent.structure, removed), seed, like=parent), Claim.lossy(), request=request)


def fold_gates(parent: Network, seed: Seed) -> Change:
    """Return the change that folds gates into the parameters of the operations behind them.

    A node with the inherited state h, the gate g and one candidate o(..., h) = h + f(theta) has the state

        (1 - g) h + g (h + f(theta)) = h + g f(theta) = h + f(g theta),

    where the last step needs f to be of degree one in the parameters theta (`Operation.residual`). So theta is replaced by
    g theta, and the gate is removed. Other gates are kept as trained parameters.

    Args:
        parent: the network.
        seed: the seed of the change.
    """
    structure = parent.structure
    folded: dict[Address, tuple[Address, tuple[str, ...]]] = {}  # by node: its site, and the names of theta
    kept: list[Address] = []
    for address, node in parent.structure.nodes():
        if not node.inherits:
            continue
        (site_address, site), *others = structure.sites_of(address).items()
        residual = site.candidates[0].operation.residual if not others and site.decided else None
        # the formula needs h to be both the inherited state and the last input of the operation
        if residual is None or site.inputs[-1:] != node.inherits:
            kept.append(address)
            continue
        folded[address] = (site_address, residual)
        cell = structure.cell(address.cell)
        nodes = tuple(attrs.evolve(n, inherits=()) if n.id == node.id else n for n in cell.nodes)
        structure = structure.replace_cell(address.cell, attrs.evolve(cell, nodes=nodes))
    old = tensors(parent)
    overrides: dict[str, Take | Set] = {}
    for address, (site_address, residual) in folded.items():
        # both loops meet the instances of the cell type in the order of the modules
        gates = [gate for _, gate in parent.gates() if gate.address == address]
        for gate, (prefix, mixed) in zip(gates, parent.mixed_operations(site_address), strict=True):
            (candidate,) = mixed.candidates
            names = [f"{prefix}.candidates.{candidate}.{parameter}" for parameter in residual]
            # `Set` and not `Take`: the moments of theta are not those of g theta, so they start anew
            overrides |= {name: Set((gate.g * old[name]).detach()) for name in names}
    request = {"folded": sorted(folded), "kept": kept}
    return Change(build(structure, seed, like=parent), Claim.exact(), overrides, request=request)
