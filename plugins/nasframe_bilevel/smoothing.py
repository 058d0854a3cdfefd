"""The perturbed mixing weights of SmoothDARTS, at which the weights are trained (Chen & Hsieh 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import AlphaLoss, Architect, Bilevel, Draw, Mixing, Relaxation
from nasframe.change.optimisers import NamedParameters
from nasframe.options import choice, nested, number
from nasframe_bilevel.descent import Tensors, gradients
from nasframe_bilevel.first_order import FirstOrder


@attrs.frozen
class SmoothDarts(Architect):
    """Another architect, with weights that are trained at perturbed mixing weights (Chen & Hsieh 2020, SDARTS, section 3).

    The alphas follow the gradient of L_valid(w, A) as those of the other architect do. With A = softmax(alpha), or the mixing weights of
    another relaxation, the weights are

        w(A) = argmin_w E L_train(w, A + delta) over delta ~ U(-eps, eps)     (form = "random", SDARTS-RS),
        w(A) = argmin_w max L_train(w, A + delta) over |delta| <= eps         (form = "adversarial", SDARTS-ADV),

    where each step of the weights has one delta. A + delta is brought back among the mixing weights: negative entries become 0, and then
    the sum of a site is made what it was. The maximum is approximated by `steps` steps of length 2 eps / steps along the sign of the
    gradient, from a random start. eps grows linearly during a phase.

    Args:
        architect: the other architect.
        form: "random" or "adversarial".
        initial: eps at the beginning of a phase.
        final: eps at its end.
        steps: the number of steps towards the maximum.
    """

    name: ClassVar[str] = "sdarts"
    needs_progress: ClassVar[bool] = True
    architect: Architect = nested("architect", default=FirstOrder())
    form: str = choice("random", "adversarial", default="random")
    initial: float = number(0.03, low=0.0)
    final: float = number(0.3, low=0.0)
    steps: int = number(7, low=1, whole=True)

    def __attrs_post_init__(self) -> None:
        if self.final < self.initial:
            raise ValueError(f"initial is {self.initial} and final {self.final}; eps grows, so final must be at least initial")

    @property
    def relaxation(self) -> Relaxation:  # type: ignore[override]
        """Return the relaxation of the other architect."""
        return self.architect.relaxation

    @property
    def terms(self) -> tuple[AlphaLoss, ...]:  # type: ignore[override]
        """Return the losses of the alphas of the other architect."""
        return self.architect.terms

    def gradient(self, problem: Bilevel) -> Tensors:
        """Return the gradient of the other architect, at mixing weights without a perturbation."""
        return self.architect.gradient(problem)

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        """Return the optimiser of the other architect."""
        return self.architect.build_optimiser(alphas)

    def configure(self, optimiser: Optimizer, stage: int) -> None:
        """Set the options that the other architect sets."""
        self.architect.configure(optimiser, stage)

    def training_mixing(self, mixing: Mixing, loss: Callable[[Mixing], Tensor], draw: Draw) -> Mixing:
        """Return the perturbed mixing weights A + delta."""
        assert draw.progress is not None  # a search without it is refused
        centre = self.architect.training_mixing(mixing, loss, draw)
        eps = self.initial + (self.final - self.initial) * draw.progress
        noise = {address: uniform(centre[address], draw.seed("perturbation", address).generator()) for address in centre}
        perturbed = moved(centre, {address: centre[address] + eps * noise[address] for address in centre})
        if self.form == "random":
            return perturbed
        for _ in range(self.steps):
            leaves = {address: weights.clone().requires_grad_() for address, weights in perturbed.items()}
            (slopes,) = gradients(loss(Mixing(leaves, mixing.active)), leaves)
            ahead = {a: perturbed[a] + 2 * eps / self.steps * slopes[a].sign() for a in centre}
            perturbed = moved(centre, {a: ahead[a].clamp(centre[a] - eps, centre[a] + eps) for a in centre})
        with torch.no_grad():
            return perturbed if loss(perturbed) >= loss(centre) else centre


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return numbers from U(-1, 1) of the shape, the dtype and the device of a tensor."""
    return (2 * torch.rand(like.shape, generator=generator, dtype=torch.float64) - 1).to(like)


def moved(centre: Mixing, wanted: Mapping[str, Tensor]) -> Mixing:
    """Return mixing weights near the wanted numbers: none is negative, and the sums of the sites are those of the centre.

    The weights of candidates that are not computed stay zero.
    """
    found = dict[str, Tensor]()
    for address, weights in wanted.items():
        places = torch.tensor([*centre.active.get(address, range(len(weights)))], device=weights.device)
        total = centre[address].sum()
        near = weights[places].clamp(min=0).minimum(total)
        if not near.any():
            near = near.index_fill(0, weights[places].argmax(), 1.0)
        found[address] = torch.zeros_like(weights).index_copy(0, places, near * (total / near.sum()))
    return Mixing(found, centre.active)
