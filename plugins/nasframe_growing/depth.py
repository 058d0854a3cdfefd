"""Growth by a layer or a cell that starts as the identity, behind gates (Chen et al. 2016, Net2DeeperNet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe import Backbone, Claim, Context, Edit, Filling, Morphism, Proposal, Seed, Structure
from nasframe.errors import ChangeError
from nasframe.interfaces.part import short_name
from nasframe.network.network import count_parameters
from nasframe.search.gain import gain


@attrs.frozen
class DepthGrowth(Morphism):
    """Add a layer or a cell where the backbone can, so that the network computes what it did before.

    What is new is behind trained gates that start at zero (`nasframe.Backbone.deepened`): a recurrent network gets a layer on
    top, which returns its inputs at first; an image network gets a normal cell, which passes on the outputs of the two cells
    before it. Growth is exact. The new weights get gradients as soon as a gate is not zero, which is after one step.
    """

    name: ClassVar[str] = "depth"
    claims: ClassVar[tuple[str, ...]] = ("exact",)

    def admits(self, structure: Structure) -> bool:
        """Return True; raise a ChangeError if the backbone offers no place for a layer or a cell."""
        if not _deepened(structure):
            raise ChangeError(
                f"{short_name(structure.backbone)} offers no place where a layer or a cell could start as the identity; leave out the "
                f"morphism {self.name!r}, or choose another backbone"
            )
        return True

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return one proposal for each place that the backbone offers; its gain is the squared gradient of the gates."""
        proposals, before = [], count_parameters(structure, context.relaxation)
        for place, child in enumerate(_deepened(structure)):
            request = {"place": place}
            edit = self.edit(structure, request, {}, context.seed)
            cost = count_parameters(child, context.relaxation) - before
            proposals.append(Proposal(request, gain(context, structure, edit, f"place {place}"), cost))
        return proposals

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds a layer or a cell at a place; everything else stays as it is."""
        children, place = _deepened(structure), request.get("place")
        if type(place) is not int or not 0 <= place < len(children):
            raise ChangeError(f"place is {place!r}; the backbone offers {len(children)} places, counted from 0")
        # gates start at zero, so that the initial values of what is new do not matter
        return Edit(children[place], lambda parent, child: Filling(Claim.exact()))


def _deepened(structure: Structure) -> Sequence[Structure]:
    assert isinstance(structure.backbone, Backbone)
    return structure.backbone.deepened(structure)
