"""The interface of losses of the alphas, which are added to the loss that an architect descends."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.interfaces.relaxation import Sites, Tensors
from nasframe.network.mixing import Mixing


class AlphaLoss(Part):
    """Base class of losses of the alphas, such as a weight decay or an entropy of the mixing weights.

    An architect has them as its option `terms`. nasframe adds their gradient to the one that the architect computes, whatever the
    architect and its relaxation are: a term that depends on the alphas alone is the same at the weights before and after an
    unrolled step.

    Required: `name` and `loss`. Optional: `needs_progress`.

    Example:
        The essential line of the weight decay of beta-DARTS (Ye et al. 2022), with a factor that grows during the phase::

            def loss(self, sites, alphas, mixing, progress):
                return progress * torch.stack([alphas[address].logsumexp(0) for address in sites]).mean()
    """

    kind: ClassVar[str] = "alpha_loss"

    #: optional: whether `loss` needs the progress. A search whose phases have no length is then refused before it trains
    needs_progress: ClassVar[bool] = False

    @abstractmethod
    def loss(self, sites: Sites, alphas: Tensors, mixing: Mixing, progress: float | None) -> Tensor:
        """Return the loss as a tensor without axes, differentiable by the alphas.

        Args:
            sites: the undecided sites, one at least.
            alphas: the alphas of each site, of shape (candidates,), by its address, and the further parameters of the relaxation by
                their names.
            mixing: the mixing weights of validation at these alphas, with the graph that leads to them.
            progress: the completed fraction of the phase, from 0 to 1; None in a phase without a length.
        """
