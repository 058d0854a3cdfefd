"""The coupling of the networks of searches, and structures with a larger width."""

from __future__ import annotations

import functools

import attrs
import torch

from nasframe.errors import ChangeError
from nasframe.interfaces.backbone import Backbone
from nasframe.modules.coupling import Coupling, couple
from nasframe.network.network import unallocated
from nasframe.structure.structure import Structure


@functools.lru_cache(maxsize=128)
def coupled(structure: Structure) -> Coupling:
    """Return which axes carry the same units in the networks of a structure.

    This follows from the structure alone, so that a network without memory is traced, and not the one that is to change.

    Args:
        structure: the structure, whose backbone implements `example`.

    Raises:
        ChangeError: if the network cannot be traced.
    """
    backbone = structure.backbone
    assert isinstance(backbone, Backbone)
    with torch.device("meta"):
        # Only the shapes matter. A plain mapping leaves no candidate out, so that all of them are in the graph.
        mixing = {address: torch.ones(len(site.candidates)) for address, site in structure.sites() if not site.decided}
    # Tracing takes most of the time of a growth. Evaluation mode is left out: a search measures every change in that mode, and refuses
    # it if a module computes something else there.
    coupling = couple(unallocated(structure), (backbone.example(structure).to("meta"), mixing), modes=(True,))
    return attrs.evolve(coupling, graphs={})  # by far the largest part, which nobody reads any more


def wider(structure: Structure, field: str, to: int) -> Structure:
    """Return the same cells in a backbone with a larger width.

    Args:
        structure: the structure.
        field: the field of its backbone, one of `Backbone.widths`.
        to: the new width.

    Raises:
        ChangeError: if there is no such field, or the width is not a larger whole number that the backbone accepts.
    """
    backbone = structure.backbone
    assert isinstance(backbone, Backbone)
    widths = backbone.widths(structure)
    if field not in widths:
        raise ChangeError(f"backbone {backbone.name!r} has no width {field!r}; it has {', '.join(widths) or 'none'}")
    if isinstance(to, bool) or not isinstance(to, int) or to <= widths[field]:
        raise ChangeError(
            f"{field} is {widths[field]} and cannot grow to {to!r}; give a whole number of at least {widths[field] + 1}"
        )
    try:
        changed: Backbone = attrs.evolve(backbone, **{field: to})  # type: ignore[misc]
    except ValueError as error:
        raise ChangeError(f"backbone {backbone.name!r} refuses the width: {error}") from error
    return structure.with_backbone(changed, dict(structure.sizes))
