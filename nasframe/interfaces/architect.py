"""The interface of architects, and the bilevel problem that is all they see."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe.change.optimisers import NamedParameters
from nasframe.interfaces.part import Part

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


@attrs.frozen(eq=False)
class Bilevel:
    """min over alphas of valid(w*(alphas), alphas), where w* minimises train(w, alphas) (Liu et al. 2019, Eq. 3).

    A supernet and a toy problem look alike here: parameters by name, and two losses that are functions of them.

    Args:
        train, valid: the loss on a batch of that split, as a function of (weights, alphas). To ask for it moves nothing,
            and whatever it draws at random (dropout) it draws the same each time.
        xi: the learning rate of the weights, for an unrolled step.
        unroll: from the weights' gradients to the weights after the next step of their own optimiser, differentiably.
    """

    weights: Mapping[str, nn.Parameter]
    alphas: Mapping[str, nn.Parameter]
    train: Loss
    valid: Loss
    xi: float
    unroll: Callable[[Tensors], Tensors]


class Architect(Part):
    """Moves the alphas, and owns the rule that turns the alphas of the whole network into weights."""

    kind: ClassVar[str] = "architect"

    @abstractmethod
    def mixing(self, alphas: Tensors) -> Mapping[str, Tensor]:
        """The rule: from alphas of shape (candidates,) by site address to weights of the same shapes."""

    @abstractmethod
    def invert(self, mixing: Tensors) -> Mapping[str, Tensor]:
        """The rule's inverse: finite alphas that have these weights, all of them positive, for the sites that are named."""

    @abstractmethod
    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        """The gradient of the problem's objective with respect to the alphas, by name."""

    @abstractmethod
    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return the optimiser that descends that gradient."""

    def configure(self, optimiser: Optimizer, stage: int) -> None:
        """Set the options of the optimiser for a step. Optional: a learning rate that depends on the stage, for example.

        It is called before each step of the alphas, so that a resumed run continues as it would have.

        Args:
            optimiser: what `build_optimiser` returned.
            stage: the number of growths so far.
        """
