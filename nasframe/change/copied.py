"""Exact copies of candidates: the map of such a change follows without its child, whose building takes longer than all else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from nasframe.change.apply import check_mixing
from nasframe.change.edit import Edit, Filling
from nasframe.change.map import Map, Set, Take
from nasframe.network.network import Network
from nasframe.structure.address import Address
from nasframe.structure.structure import Structure


def copied(parent: Network, edit: Edit) -> Map | None:
    """Return the entries of the map of an edit for the weights of the child, without building the child.

    It is for edits that need no child and add nothing but exact copies of candidates, in sites that they have already. For all others,
    and where it is not certain, None is returned: then `apply` makes the child.

    Args:
        parent: the network before the change.
        edit: the edit of its structure.

    Raises:
        ChangeError: if the relaxation has no alphas for the mixing weights of the change.
    """
    copies = None if edit.needs_child else _copies(parent.structure, edit.structure)
    if not copies:
        return None
    with torch.no_grad():
        filling = edit.fill(parent, None)  # type: ignore[arg-type]  # a fill that uses it nevertheless fails at once
        # Only an exact change lets the gradients of the child follow from those of the parent.
        if filling.claim.kind != "exact" or not _has_alphas(parent, edit.structure, copies, filling):
            return None
    entries: dict[str, Take | Set] = {
        n: Take(n) for n, p in parent.named_parameters() if p.requires_grad and not n.startswith("alphas.")
    }
    weights = {*entries}
    for address, sources in copies.items():
        for name, mixture in parent.mixed_operations(address):
            # the module of a stranger may have parameters beside those of its candidates, with an entry for each candidate
            if any(not key.startswith("candidates.") for key, _ in mixture.named_parameters()):
                return None
            for new, old in sources.items():
                parameters = mixture.candidates[str(old)].named_parameters()
                weights |= {f"{name}.candidates.{new}.{key}" for key, p in parameters if p.requires_grad}
    # What the edit says comes last: for a candidate that is copied it states the share of the gradient that remains.
    entries |= {name: entry for name, entry in filling.overrides.items() if name in weights}
    # a weight without an entry keeps its initial values, which only a child has
    return entries if entries.keys() == weights else None


def _copies(before: Structure, after: Structure) -> Mapping[Address, Mapping[int, int]] | None:
    """Return by site the new candidates, each with an old one of the same operation; None if the structures differ in more."""
    # Of several equal operations the last one is found. Any of them would do: it only gives the names of the parameters.
    sites, found, rest = dict(before.sites()), dict[Address, Mapping[int, int]](), after
    for address, site in after.sites():
        old = sites[address].candidates if address in sites else ()
        new, equal = site.candidates[len(old) :], {c.operation: c.id for c in old}
        if site.candidates[: len(old)] != old or any(c.operation not in equal for c in new):
            return None
        if new:
            found[address] = {c.id: equal[c.operation] for c in new}
            # `rest` becomes the edited structure without the copies. If nothing else was edited, that is the one before.
            rest = rest.replace_site(address, sites[address])
    return found if rest == attrs.evolve(before, next_id=rest.next_id) else None


def _has_alphas(parent: Network, structure: Structure, changed: Mapping[Address, Any], filling: Filling) -> bool:
    """Return whether the change states the mixing weights of the changed sites alone, and the relaxation has alphas for them."""
    relaxation, sites = parent.relaxation, {a: s for a, s in structure.sites() if not s.decided}
    if relaxation is None or relaxation.parameters(sites) or filling.mixing.keys() != changed.keys():
        return False
    # As in `apply`, but without a child: the alphas that stay, the initial zeros for new candidates, and then those that give
    # the mixing weights of the change. Further parameters of a relaxation are left to `apply`, which maps them by their labels.
    like = next(parent.parameters())
    alphas = dict[str, Tensor]()
    for address, site in sites.items():
        old = parent.alphas[address] if address in parent.alphas else like.new_zeros(0)
        alphas[address] = torch.cat([old, old.new_zeros(len(site.candidates) - len(old))])
    inverted = relaxation.invert(sites, filling.mixing, alphas)
    alphas |= {name: value.to(alphas[name]) for name, value in inverted.items()}
    check_mixing(filling, relaxation.mixing(sites, alphas, None))
    return True
