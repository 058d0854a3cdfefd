"""Growth of the width of a backbone: more units n_h or channels C everywhere (Net2Wider, Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe import Backbone, Claim, Context, Edit, Filling, Morphism, Network, Proposal, Seed, Structure
from nasframe.errors import ChangeError
from nasframe.modules.larger import enlarged
from nasframe.modules.networks import coupled, wider
from nasframe.network.network import count_parameters, tensors, unallocated
from nasframe.options import choice, number
from nasframe.search.gain import gain


@attrs.frozen
class WidthGrowth(Morphism):
    """Make a backbone wider, so that the network computes what it did before: more units in every layer, or channels in every cell.

    It changes the backbones that implement `Backbone.widths` and `Backbone.example`: "hidden" of recurrent, "channels" of convolutional
    networks. Which tensors have which units is read from the traced network. With `form="zero"` new units have random incoming
    and no outgoing weights. With `form="replicate"` they are copies, and each unit divides its outgoing weights among itself and its
    copies. Growth is exact in both forms, in training and in evaluation mode.

    Args:
        by: the factor by which a width grows. The new width is rounded, and larger by one at least.
        limit: the largest width; a width that would exceed it does not grow.
        form: "zero" or "replicate".
        skew: how unevenly the outgoing weights are divided among m copies: copy j = 0, ..., m - 1 gets 1/m + skew (m - 1 - 2j) of
            them. Copies with equal shares get equal gradients, and remain equal forever.
    """

    name: ClassVar[str] = "width"
    claims: ClassVar[tuple[str, ...]] = ("exact",)
    by: float = number(2.0, low=1.0)
    limit: int | None = number(None, low=1, whole=True, optional=True)
    form: str = choice("zero", "replicate", default="zero")
    skew: float = number(0.0, low=0.0, high=1.0)

    def admits(self, structure: Structure) -> bool:
        """Return whether a width may grow; raise a ChangeError if the backbone has none, or it cannot grow in this form."""
        return bool([*self._children(structure)])

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return one proposal for each width of the backbone."""
        proposals = []
        for request, child in self._children(structure):
            edit = self.edit(structure, request, {}, context.seed)
            cost = count_parameters(child, context.relaxation) - count_parameters(structure, context.relaxation)
            proposals.append(Proposal(request, gain(context, structure, edit, request["field"]), cost))
        return proposals

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that grows a width; the cells stay as they are."""
        child = wider(structure, str(request.get("field")), request.get("to", 0))
        return Edit(child, lambda parent, child: Filling(Claim.exact(), self._entries(structure, parent, child, seed)))

    def _children(self, structure: Structure) -> Iterator[tuple[dict[str, Any], Structure]]:
        """Yield the request of each width that may grow, and the structure of the child.

        Raises:
            ChangeError: if the network cannot have this width.
        """
        backbone = structure.backbone
        assert isinstance(backbone, Backbone)
        if not (widths := backbone.widths(structure)):
            raise ChangeError(
                f"backbone {backbone.name!r} has no width that can grow (Backbone.widths); leave out the morphism {self.name!r}, or "
                "choose another backbone"
            )
        for field, width in widths.items():
            to = max(round(self.by * width), width + 1)
            if self.limit is None or to <= self.limit:
                child = wider(structure, field, to)
                # whether an axis can grow is known from the shapes, without values
                self._entries(structure, unallocated(structure), unallocated(child), Seed(("shapes",)))
                yield {"field": field, "to": to}, child

    def _entries(self, structure: Structure, parent: Network, child: Network, seed: Seed) -> Mapping[str, Any]:
        old, new = tensors(parent), tensors(child)
        return enlarged(coupled(structure), old, new, form=self.form, skew=self.skew, seed=seed)
