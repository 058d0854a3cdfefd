"""The interface of morphisms, which make a network grow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from nasframe.change.edit import Edit
from nasframe.interfaces.part import Part
from nasframe.search.context import Context
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure


@attrs.frozen(eq=False)
class Proposal:
    """A change that a morphism could carry out.

    The proposal with the largest gain is carried out. Morphisms whose gains are equal take turns: the one that made the fewest
    growths so far comes first, then the one that comes first in the strategy. A strategy with another `currency` than "stated" measures
    the gains of all proposals itself, and compares gains per cost.

    Attributes:
        request: what to do, as JSON values, for example {"cell": "layer0"}. `Morphism.edit` receives it.
        gain: the expected decrease of the loss (`nasframe.search.gain`); 0 if the morphism does not estimate it.
        cost: the number of new parameters.
        evidence: the tensors that were measured for the proposal, on training or validation data, by name. The search adds the
            values that the morphism remembered (`Context.remember`).
    """

    request: Mapping[str, Any]
    gain: float = 0.0
    cost: int = 0
    evidence: Mapping[str, Tensor] = attrs.field(factory=dict)


class Morphism(Part):
    """Base class of morphisms: they propose changes of a network, and work one out as an edit of its structure.

    `propose` may measure on a running search; `edit` then follows from the request and from what was measured, without data.

    Required: `name`, `propose` and `edit`. Optional: `admits` and `claims`. A growth is an edit that adds nodes, candidates or units; the
    core adds it to the lineage, builds and fills the child, and carries the optimiser states.
    """

    kind: ClassVar[str] = "morphism"

    #: optional: the kinds of claim that its changes can have. The laws do not look for others
    claims: ClassVar[tuple[str, ...]] = ("exact", "approximate", "lossy")

    def admits(self, structure: Structure) -> bool:
        """Return whether the morphism may propose changes of a structure, before the search trains. Optional.

        If it may not, the user is warned.

        Args:
            structure: the structure.

        Raises:
            ChangeError: if the morphism could never change such a structure; the search is refused with this error.
        """
        return True

    @abstractmethod
    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the changes that are possible; of those with equal gains, the preferred one first.

        Args:
            context: the search, which cannot be modified. What takes time is measured through `context.remember` or
                `context.loss`; `edit` receives these values in the evidence of the chosen proposal.
            structure: the structure to change. It is that of the context, or what is left of it if candidates are removed in the
                same change.
        """

    @abstractmethod
    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return an edit of the structure, with the function that fills the child. The core carries it out.

        The edited structure follows from the arguments alone: no network is built, and nothing is measured.

        Args:
            structure: the structure.
            request: the request of the chosen proposal.
            evidence: the evidence of the chosen proposal.
            seed: the seed of all random draws. The core initialises the child from `seed("build")`.

        Raises:
            ChangeError: if the request does not fit the structure.
        """
