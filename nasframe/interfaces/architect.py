"""The interface of architects, and the bilevel problem that they solve."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.alpha_loss import AlphaLoss
from nasframe.interfaces.part import Part
from nasframe.interfaces.relaxation import Draw, Relaxation
from nasframe.network.mixing import Mixing

#: tensors by the name of the parameter that they belong to
Tensors = Mapping[str, Tensor]
#: a loss as a function of (weights, alphas)
Loss = Callable[[Tensors, Tensors], Tensor]


@attrs.frozen(eq=False)
class Bilevel:
    """A bilevel problem: minimise L_valid(w*(alpha), alpha) over alpha, where w*(alpha) minimises L_train(w, alpha).

    This is Eq. 3 of Liu et al. (2019). An architect sees parameters by name and two losses that are functions of them, so that a
    supernet and a toy problem look alike. Calling a loss modifies nothing, and its random draws (dropout) are the same at each
    call.

    Attributes:
        weights: the weights w, by the name of the parameter.
        alphas: the alphas, by name: those of a supernet by the address of their site, with the further parameters of its
            relaxation.
        train: L_train on the training batch of this step.
        valid: L_valid on the validation batch of this step.
        xi: the learning rate of the weights, for the unrolled step w - xi grad.
        unroll: a differentiable function from gradients of the weights to the weights after the next step of their optimiser.
    """

    weights: Mapping[str, nn.Parameter]
    alphas: Mapping[str, nn.Parameter]
    train: Loss
    valid: Loss
    xi: float
    unroll: Callable[[Tensors], Tensors]


class Architect(Part):
    """Base class of architects, which update the alphas by gradients.

    Required: `name`, `relaxation`, `gradient` and `build_optimiser`. Optional: `terms`, `configure`, and
    `training_mixing` with `needs_progress`.

    Example:
        The essential lines of first-order DARTS, in which the weights are kept fixed::

            @attrs.frozen
            class FirstOrder(Architect):
                name: ClassVar[str] = "first_order"

                relaxation: Relaxation = nested("relaxation", default=Softmax())

                def gradient(self, problem):
                    loss = problem.valid(problem.weights, problem.alphas)
                    gradients = torch.autograd.grad(loss, [*problem.alphas.values()])
                    return dict(zip(problem.alphas, gradients))

                def build_optimiser(self, alphas):
                    return torch.optim.Adam([alpha for _, alpha in alphas], lr=3e-4)
    """

    kind: ClassVar[str] = "architect"

    #: required: turns the alphas into mixing weights; a field of the architect, so that a strategy chooses it
    relaxation: Relaxation

    #: optional: whether `training_mixing` needs `Draw.progress`. A search whose phases have no length is then refused before it trains
    needs_progress: ClassVar[bool] = False

    #: optional: losses of the alphas, whose gradient nasframe adds to that of `gradient`; a field as well, if there is a choice
    terms: tuple[AlphaLoss, ...] = ()

    @abstractmethod
    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        """Return the gradient of the problem's objective with respect to the alphas, by name, without that of the `terms`.

        Args:
            problem: the problem at the current weights and alphas, which must not be modified.
        """

    @abstractmethod
    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return the optimiser of the alphas, which descends that gradient.

        Args:
            alphas: the alphas, by name.
        """

    def configure(self, optimiser: Optimizer, stage: int) -> None:
        """Set the options of the optimiser for a step, such as a learning rate that depends on the stage. Optional.

        It is called before each step of the alphas, so that a resumed run continues as it would have.

        Args:
            optimiser: the optimiser that `build_optimiser` returned.
            stage: the number of growths so far.
        """

    def training_mixing(self, mixing: Mixing, loss: Callable[[Mixing], Tensor], draw: Draw) -> Mixing:
        """Return the mixing weights at which the weights take their step; by default those of the relaxation. Optional.

        It is called once in each step in which the alphas move, after they have moved.

        Args:
            mixing: the mixing weights of the relaxation, without a graph.
            loss: the training loss of this step as a function of the mixing weights. Calling it modifies nothing, and its random draws
                (dropout) are the same at each call.
            draw: the seed of this step, and the progress of the phase.
        """
        return mixing
