"""Edits: changes that are worked out on the structure alone, with a function that fills the child once it is built.

An edit needs no network, so the structures of a run follow from its records in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet

import attrs
import torch
from torch import Tensor

from nasframe.change.claim import Bound, Claim
from nasframe.change.map import Map, Set, Take
from nasframe.errors import ChangeError
from nasframe.network.mixing import MixedOperation
from nasframe.network.network import Network, tensors
from nasframe.structure.address import Address
from nasframe.structure.editing import remove_from
from nasframe.structure.structure import Structure


@attrs.frozen(eq=False)
class Filling:
    """How the child of an edit is filled from its parent, where that differs from the map of names and axis labels.

    Attributes:
        claim: how far the edit preserves the function.
        overrides: how tensors of the child are filled where that differs from the map that follows from names and axis labels
            (`nasframe.change.map.derive_map`), by the name of the tensor.
        mixing: the mixing weights of each undecided site that is new or has new candidates, by address. They are positive, and have
            the sum 1 if those of the relaxation have. The architect computes the alphas from them, and the edit is refused if the
            network then has other mixing weights. Leave out a site whose alphas are in `overrides`, and a new site that cannot
            change the output at first, such as one behind a gate: it starts with equal mixing weights.
    """

    claim: Claim
    overrides: Map = attrs.field(factory=dict)
    mixing: Mapping[str, Tensor] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Edit:
    """A change of a structure, and a function that fills the new network from the old one.

    The core builds the child from the structure and calls `fill(parent, child)`, in which no gradients are recorded. `fill` does
    not modify the parent. In the child it may write the initial values of parameters that are new, and returns how all others
    are filled.

    Attributes:
        structure: the structure of the child.
        fill: the function.
        needs_child: whether `fill` reads the child or writes into it. If not, what it returns is also known where no child is built,
            for example to measure the gain of a copy (`nasframe.change.copied`); it then gets None in the place of the child.

    Example:
        An edit that adds nodes behind gates, which all start at zero::

            Edit(structure, lambda parent, child: Filling(Claim.exact()))
    """

    structure: Structure
    fill: Callable[[Network, Network], Filling]
    needs_child: bool = True


def combine(edits: Sequence[Edit], *, reset_alphas: bool = False) -> Edit:
    """Return the edit that makes several edits in one change, with one child and one claim.

    The claim is lossy if one of them is, and exact if all are. Bounds on the same node are added, because a node is the sum of its
    sites.

    Args:
        edits: one or more edits, each made on the structure that the one before it left. All are filled from the same
            parent, so that an edit cannot change a candidate that an earlier one added.
        reset_alphas: give all alphas their initial values, whatever the edits state. The claim is then lossy.

    Raises:
        ChangeError: when the child is filled, if two edits fill the same tensor or state the mixing weights of the same site.
    """

    def fill(parent: Network, child: Network) -> Filling:
        # All edits read the same parent and write into the same child. Nothing is filled between them, so that the order
        # of edits that touch different tensors does not matter.
        overrides: dict[str, Take | Set] = {}
        mixing: dict[str, Tensor] = {}
        claims: list[Claim] = []
        filled_by: dict[str, int] = {}
        for number, edit in enumerate(edits):
            filling = edit.fill(parent, child)
            # What an edit says about alphas, and what it claims, is void if all of them start anew; weights follow the
            # edit as before.
            if reset_alphas:
                kept = {name: entry for name, entry in filling.overrides.items() if not name.startswith("alphas.")}
                filling = Filling(Claim.lossy(), kept)
            for name in (*filling.overrides, *(f"alphas.{address}" for address in filling.mixing)):
                if filled_by.setdefault(name, number) != number:
                    raise ChangeError(
                        f"edits {filled_by[name]} and {number} of one change both fill {name}, so neither would be what it claims; "
                        "make them in two changes, one after the other"
                    )
            overrides |= filling.overrides
            mixing |= filling.mixing
            claims.append(filling.claim)
        if reset_alphas:  # the child was just built, so its alphas are the initial ones
            overrides |= {f"alphas.{address}": Set(alpha.detach().clone()) for address, alpha in child.alphas.items()}
        return Filling(_combined(claims), overrides, mixing)

    return Edit(edits[-1].structure, fill)


def _combined(claims: Sequence[Claim]) -> Claim:
    if any(claim.kind == "lossy" for claim in claims):
        return Claim.lossy()
    # Each edit bounds how far it moves the output of a node. By the triangle inequality two edits at one node move it by
    # at most the sum. Exact claims contribute nothing.
    bounds: dict[Address, Bound] = {}
    for claim in claims:
        for node, bound in claim.bounds.items():
            bounds[node] = bounds.get(node, Bound({})) + bound
    return Claim.approximate(bounds) if bounds else Claim.exact()


def remove_candidates(structure: Structure, removed: Mapping[Address, AbstractSet[int]], *, fold: bool = False) -> Edit:
    """Return the edit that removes candidates from their sites.

    The remaining candidates keep their alphas, so a relaxation such as softmax divides the mixing weight of the removed ones
    among them. Sites without candidates and nodes without use are removed as well (`nasframe.structure.editing.remove_from`).

    A candidate o that is left alone has the mixing weight 1 instead of w. With `fold`, w is multiplied into its parameters where it is
    `Operation.homogeneous`, so that the site computes w o as before. If all changed sites are decided in this way, or removed, the
    change is off by what was removed alone: it is exact if that was zero, and approximate with the bound sum_i w_i |o_i| if each
    removed candidate has a `magnitude`.

    Args:
        structure: the structure.
        removed: the ids of the candidates to remove, by the address of their site.
        fold: whether mixing weights are folded. If not, the claim is lossy.

    Raises:
        ChangeError: if there is no such candidate, or a node would lose all its candidates.
    """
    edited = remove_from(structure, removed)
    if not fold:
        return Edit(edited, lambda parent, child: Filling(Claim.lossy()))
    left = dict(edited.sites())

    def fill(parent: Network, child: Network) -> Filling:
        claims, overrides, mixing = list[Claim](), dict[str, Take | Set](), parent.mixing()
        for address, site in structure.sites():
            if not removed.get(address):
                continue
            # a decided site has no alphas, and its candidate the mixing weight 1
            weights = dict(zip([c.id for c in site.candidates], mixing.get(address, torch.ones(1)).tolist(), strict=True))
            kept = [c for c in site.candidates if c.id not in removed[address]]
            # Nothing is left to fold where the whole site goes. w o(theta) = o(w theta) holds for w > 0 only.
            folds = _sums(parent, address) and (
                not kept or (len(kept) == 1 and kept[0].operation.homogeneous is not None and weights[kept[0].id] > 0)
            )
            # A site of a node without use is removed with the node, and has no tensors in the child.
            for candidate in kept if folds and address in left else ():
                # The site computed w o(theta), and now o(theta') with theta' = w theta, so dL/dtheta' = dL/dtheta / w.
                weight = weights[candidate.id]
                for name, _ in parent.mixed_operations(address):
                    # a candidate that stays keeps its id, so that its tensors have the same names in parent and child
                    sources = [f"{name}.candidates.{candidate.id}.{key}" for key in candidate.operation.homogeneous or ()]
                    overrides |= {source: Take(source, value=weight, gradient=1 / weight) for source in sources}
            claims.append(_removal(parent, address, removed[address], weights) if folds else Claim.lossy())
        return Filling(_combined(claims), overrides)

    return Edit(edited, fill)


def _sums(parent: Network, address: Address) -> bool:
    """Return whether a site computes the weighted sum of its candidates, with mixing weights that do not depend on other sites."""
    # a backbone may override `forward`, for example to give the candidates a part of the channels
    plain = all(type(mixture).forward is MixedOperation.forward for _, mixture in parent.mixed_operations(address))
    return plain and (parent.relaxation is None or parent.relaxation.sums_to_one)


def _removal(parent: Network, address: Address, gone: AbstractSet[int], weights: Mapping[int, float]) -> Claim:
    """Return the claim of the removal of candidates from a site in which the others keep their mixing weights."""
    site = parent.sites[address]
    # what is always zero adds nothing, whatever its mixing weight
    lost = [c for c in site.candidates if c.id in gone and not c.operation.zero]
    worst = Bound({})
    for _, mixture in parent.mixed_operations(address):
        bounds = [(c.operation.magnitude(mixture.candidates[str(c.id)]), weights[c.id]) for c in lost]
        known = [bound * abs(weight) for bound, weight in bounds if bound is not None]
        if len(known) < len(bounds):
            return Claim.lossy()
        # The instances of a cell type have different weights, and the bound holds for each of them.
        worst = worst.largest(sum(known, Bound({})))
    if not lost:
        return Claim.exact()
    node = Address.of(address.cell, site.node)
    # a gated node has the state (1 - g) h + g s, which moves by g times what s does
    gate = max((abs(float(g.g)) for _, g in parent.gates() if g.address == node), default=1.0)
    return Claim.approximate({node: worst.of(site.inputs) * gate})


def fold_gates(structure: Structure) -> Edit:
    """Return the edit that folds gates into the parameters of the operations behind them.

    A node with the inherited state h, the gate g and one candidate o(..., h) = h + f(theta) has the state

        (1 - g) h + g (h + f(theta)) = h + g f(theta) = h + f(g theta),

    where the last step needs f to be of degree one in the parameters theta (`Operation.residual`). So theta is replaced by
    g theta, and the gate is removed. Other gates are kept as trained parameters.

    Args:
        structure: the structure.
    """
    # The conditions concern the structure alone, so that the edit is known before there is a network. The values of the
    # gates are read when the child is filled.
    folded: dict[Address, tuple[Address, list[str]]] = {}  # by node: its site, and the names of theta in a mixed operation
    for address, node in structure.nodes():
        (site_address, site), *others = structure.sites_of(address).items()
        candidate = site.candidates[0]
        residual = candidate.operation.residual if not others and site.decided else None
        # the formula needs h to be both the inherited state and the last input of the operation
        if node.inherits and residual is not None and site.inputs[-1:] == node.inherits:
            folded[address] = site_address, [f"candidates.{candidate.id}.{parameter}" for parameter in residual]
    for address in folded:
        cell = structure.cell(address.cell)
        # A node without `inherits` has no gate, so that the child's state is the plain sum of its sites.
        nodes = tuple(attrs.evolve(n, inherits=()) if n.id == address.id else n for n in cell.nodes)
        structure = structure.replace_cell(address.cell, attrs.evolve(cell, nodes=nodes))

    def fill(parent: Network, child: Network) -> Filling:
        old = tensors(parent)
        overrides: dict[str, Take | Set] = {}
        for address, (site_address, parameters) in folded.items():
            # both loops meet the instances of the cell type in the order of the modules
            gates = [gate for _, gate in parent.gates() if gate.address == address]
            for gate, (prefix, _) in zip(gates, parent.mixed_operations(site_address), strict=True):
                # `Set` and not `Take`: the moments of theta are not those of g theta, so they start anew
                overrides |= {f"{prefix}.{name}": Set(gate.g * old[f"{prefix}.{name}"]) for name in parameters}
        return Filling(Claim.exact(), overrides)

    return Edit(structure, fill)
