"""The interface of relaxations, which turn alphas into mixing weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.network.axes import Axis
from nasframe.network.mixing import Mixing
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.structure import Site

#: alphas and further parameters of a relaxation by name; the alphas of a site have its address as their name
Tensors = Mapping[str, Tensor]
#: the undecided sites of a structure, by address
Sites = Mapping[Address, Site]


@attrs.frozen
class Draw:
    """What a relaxation that samples needs for one training step.

    Attributes:
        seed: the seed of the sample; equal seeds give equal samples. Both sides of a finite difference have the same one.
        progress: the completed fraction of the phase, from 0 to 1, which grows with each update and begins at 0 in each phase; None
            in a phase without a length.
    """

    seed: Seed
    progress: float | None


class Relaxation(Part):
    """Base class of relaxations: how alphas become the mixing weights by which a site's candidates are multiplied.

    A network holds the alphas and the further parameters of its relaxation; an architect (`nasframe.Architect`) updates them
    all, whatever the relaxation is. The candidate of a decided site always counts fully and does not occur here.

    Required: `name`, `mixing` and `invert`. Optional: `parameters`, `ranking`, `needs_progress` and `sums_to_one`.

    Example:
        The essential lines of a softmax for each site (Liu et al. 2019, Eq. 2)::

            def mixing(self, sites, alphas, draw):
                return Mixing({address: alphas[address].softmax(0) for address in sites})

            def invert(self, sites, wanted, alphas):
                return {address: weights.log() for address, weights in wanted.items()}
    """

    kind: ClassVar[str] = "relaxation"

    #: optional: whether `mixing` needs `Draw.progress`. A search whose phases have no length is then refused before it trains
    needs_progress: ClassVar[bool] = False

    #: optional: whether the mixing weights of each site sum to 1. If not, removing candidates changes the scale of a node
    sums_to_one: ClassVar[bool] = True

    def parameters(self, sites: Sites) -> Mapping[str, tuple[Tensor, tuple[Axis | None, ...]]]:
        """Return the parameters beyond one alpha for each candidate: by name the initial value and the labels of its axes.

        The labels (`nasframe.network.axes`) say how the parameter follows when the structure changes. A name has no dots, and
        is not an address. They are updated with the alphas. Optional.

        Args:
            sites: the undecided sites.
        """
        return {}

    @abstractmethod
    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return the mixing weights of each undecided site, differentiable by the alphas.

        Args:
            sites: the undecided sites.
            alphas: the alphas of each site, of shape (candidates,), by its address, and the further parameters by their names.
            draw: how to sample in a training step; None for what validation computes, which depends on the alphas alone.
        """

    def ranking(self, sites: Sites, alphas: Tensors) -> Mapping[str, Tensor]:
        """Return the numbers by which pruners and pictures compare candidates, by default the mixing weights of validation.

        Args:
            sites: the undecided sites.
            alphas: as for `mixing`.
        """
        return self.mixing(sites, alphas, None)

    @abstractmethod
    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Mapping[str, Tensor]:
        """Return alphas for which `mixing(sites, ..., None)` returns the wanted mixing weights. Growth uses it for new candidates.

        Args:
            sites: the undecided sites, after the growth.
            wanted: positive mixing weights of some sites, by address. Those of all other sites must stay as they are.
            alphas: the present alphas and further parameters. Those that are not returned stay as they are.

        Returns:
            Finite alphas (or further parameters) by name.

        Raises:
            ChangeError: if there are no such alphas.
        """
