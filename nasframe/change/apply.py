"""Changes of a network: a child is built, filled from its parent, measured, and held to its claim.

The parent is never modified, so it stays in place if any step fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from nasframe.change.claim import Claim, tolerance
from nasframe.change.edit import Edit, Filling
from nasframe.change.fill import fill
from nasframe.change.map import FRESH, Map, Set, Take, derive_map
from nasframe.errors import ChangeError, ClaimError
from nasframe.interfaces.part import short_name
from nasframe.network.network import Network, build, tensors
from nasframe.seeds import Seed
from nasframe.structure.address import Address


@attrs.frozen(eq=False)
class Change:
    """A change of a network that was made, and not yet measured.

    Attributes:
        child: the new network.
        claim: how far it preserves the function of its parent.
        map: the map by which it was filled. Optimisers follow it (`nasframe.change.optimisers.carry`).
    """

    child: Network
    claim: Claim
    map: Map


def apply(parent: Network, edit: Edit, seed: Seed) -> Change:
    """Build the child of an edit, fill it from its parent, and return the change.

    The parent is not modified.

    Args:
        parent: the network before the change.
        edit: the edit of its structure.
        seed: the seed of the change, from which the child is initialised.

    Raises:
        ChangeError: if the edit does not fit the child, the mixing weights of a new candidate are missing, or the child does not
            have the mixing weights that the edit states.

    Example:
        A node that is added behind a gate, which is zero at first, does not change the outputs:

        >>> import torch
        >>> from nasframe.testing.fakes import Chain, Shares
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> parent, x = nasframe.build(structure, nasframe.Seed((0,)), relaxation=Shares()), torch.randn(5, 3)
        >>> grown = structure.backbone.grown(structure, "chain").gated()
        >>> edit = nasframe.Edit(grown, lambda parent, child: nasframe.Filling(nasframe.Claim.exact()))
        >>> child = apply(parent, edit, nasframe.Seed((1,))).child
        >>> torch.allclose(child(x, child.mixing()), parent(x, parent.mixing()))
        True
    """
    # The child is complete in names and shapes before anything is filled, so that a fill may read the modules of both
    # networks. A tensor that no entry of the map names keeps the values of this initialisation.
    child = build(edit.structure, seed("build"), like=parent)
    with torch.no_grad():
        filling = edit.fill(parent, child)
        _check_new_candidates(parent, child, filling)
        # later entries win: first names and labels, then what the edit says
        # The edit may have written initial values into the child already. That is safe, because they are new parameters:
        # an entry of the map would overwrite them.
        full = derive_map(parent, child, filling.overrides)
        old, new = tensors(parent), tensors(child)
        fill(old, new, full, _hint)
        # last the alphas of the stated mixing weights, as they may depend on the alphas that stay
        alphas = {f"alphas.{n}": _alpha_entry(parent, child, n, v, filling) for n, v in _inverted(child, filling).items()}
        # An edit that gives the alphas themselves has the last word: inverting the relaxation could lose digits of what
        # it copied.
        alphas = {name: entry for name, entry in alphas.items() if name not in filling.overrides}
        fill(old, new, alphas, _hint)
        # A relaxation is foreign code, and some cannot invert: what the network does is compared, not what was promised.
        check_mixing(filling, child.mixing())
    # The alphas belong to the map as well, because the moments of their optimiser follow it.
    return Change(child, filling.claim, full | alphas)


def _inverted(child: Network, filling: Filling) -> Mapping[str, Tensor]:
    try:
        return child.invert(filling.mixing)
    except ChangeError as error:
        assert child.relaxation is not None
        raise ChangeError(
            f"the relaxation {short_name(child.relaxation)!r} has no alphas for the mixing weights of the change ({error}); use a "
            "morphism that states no mixing weights, such as growth behind a gate (form = 'gate'), or another relaxation"
        ) from error


def _alpha_entry(parent: Network, child: Network, name: str, value: Tensor, filling: Filling) -> Take | Set:
    """Return the entry that gives alphas a value; those of candidates whose mixing weights stay keep their moments.

    Args:
        parent: the network before the change.
        child: the network after it; values that have no source in the parent are written into it.
        name: the address of a site, or the name of a further parameter of the relaxation.
        value: the alphas.
        filling: states the mixing weights.
    """
    # Without alphas in the parent, as at a site that was decided, there are no moments to take.
    if name not in filling.mixing or name not in parent.alphas:
        return Set(value)
    address = Address(name)
    before = {c.id: i for i, c in enumerate(parent.sites[address].candidates)}
    old, stated = parent.mixing()[name], filling.mixing[name].to(value)
    positions = [before.get(candidate.id, FRESH) for candidate in child.sites[address].candidates]
    # The gradient of an alpha depends on the mixing weight of its candidate: where that changes, moments do not fit.
    near = tolerance(old)
    index = torch.tensor(
        [i if i >= 0 and abs(float(old[i]) - w) <= near else FRESH for i, w in zip(positions, stated.tolist(), strict=True)],
        device=value.device,
    )
    if not bool((index >= 0).any()):
        return Set(value)
    # `Take` adds the offset to old entries only, which so become `value` and keep their moments. Its new entries are those of
    # the child, which are written here.
    child.alphas[name].copy_(value)
    source = f"alphas.{name}"
    return Take(source, (index,), offset=value - Take(source, (index,))(parent.alphas[name], value))


def _hint(name: str, entry: Take | Set) -> str:
    """Return what the author of a module can do about an entry whose shape does not fit."""
    if isinstance(entry, Set) or entry.source != name:
        return ""
    where = "parameters() of the relaxation" if name.startswith("alphas.") else "the method axes() of its module"
    return f". An axis whose length changes needs labels: return an Axis for it, and not None, from {where}"


def _check_new_candidates(parent: Network, child: Network, filling: Filling) -> None:
    old_candidates = {address: {c.id for c in site.candidates} for address, site in parent.structure.sites()}
    for address, site in child.structure.sites():
        given = address in filling.mixing or f"alphas.{address}" in filling.overrides
        # Ids are never reused within a run, so that a difference of ids is a difference of candidates.
        added = {c.id for c in site.candidates} - old_candidates.get(address, set())
        # an alpha of zero is not a mixing weight of zero: a new candidate would get about as much as the old ones have
        # A site that is new as a whole may start with equal mixing weights, for example behind a gate.
        if address in old_candidates and added and not site.decided and not given:
            raise ChangeError(
                f"the change adds candidates to {address} without mixing weights for that site, so they would weigh about as much "
                f"as the old ones; give Filling(mixing={{{address!r}: ...}}) one positive weight for each candidate, or edit the "
                "structure with replace_candidate(), whose `alphas` go into the overrides"
            )


def check_mixing(filling: Filling, found: Mapping[str, Tensor]) -> None:
    """Check that a network has the mixing weights that a change states.

    Args:
        filling: states the mixing weights.
        found: those of the network.

    Raises:
        ChangeError: if they differ by more than rounding.
    """
    for address, stated in filling.mixing.items():
        # The condition is negated so that NaN, which compares with nothing, is refused, too.
        difference = float((found[address] - stated.to(found[address])).abs().max())
        if not difference <= tolerance(found[address]):
            raise ChangeError(
                f"the edit states the mixing weights {_shown(stated)} for {address}, but the filled network has "
                f"{_shown(found[address])}; the relaxation cannot give a site the weights that are asked for, for example because "
                "it normalises them together with those of other sites. The change was not made; use a morphism that states no "
                "mixing weights, such as growth behind a gate, or another architect"
            )


def _shown(weights: Tensor) -> str:
    return "(" + ", ".join(f"{weight:.4g}" for weight in weights.tolist()) + ")"


def distance(outputs: Callable[[Network], Tensor], parent: Network, child: Network, claim: Claim) -> float:
    """Return max |child - parent| / max |parent| over the outputs, in evaluation mode.

    Afterwards each module is in the mode in which it was: one that is frozen in evaluation mode stays so.

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
        modes = [(module, module.training) for module in network.modules()]
        try:
            with torch.no_grad():
                # in the mode that validation uses
                return outputs(network.eval())
        finally:
            for module, mode in modes:
                module.training = mode

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
