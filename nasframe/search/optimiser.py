"""The description of an optimiser of torch, with the options that a strategy may set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe.change.optimisers import NamedParameters
from nasframe.options import choice, number

#: torch's default, what Adam adds to the root of the second moment
EPSILON = 1e-8


def _betas(value: Any) -> tuple[Any, ...]:
    # TOML has lists; what is neither becomes a tuple of one value, which `_two` refuses with its message
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _two(instance: Any, attribute: Any, value: Any) -> None:
    if len(value) != 2 or not all(isinstance(b, int | float) and 0 <= b < 1 for b in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be two numbers of at least 0 and below 1")


@attrs.frozen
class Optimiser:
    """The description of an optimiser: torch's SGD, Adam or AdamW.

    Args:
        method: "adam", "adamw" or "sgd".
        learning_rate: the learning rate, at the beginning of each phase.
        weight_decay: the factor of the L2 penalty (SGD, Adam) or of the decoupled decay (AdamW).
        momentum: of SGD.
        betas: of Adam and AdamW.
        epochs: the number of epochs over which the learning rate falls to `final` along half a cosine (Loshchilov & Hutter
            2017). It starts again in each phase, and the phase ends with it. If left out, the learning rate is constant.
        final: the learning rate at the end of a phase, if it falls.
        idle: what the optimiser does in a step with the weights of candidates that a relaxation leaves out
            (`nasframe.Mixing`): "skip" leaves them and their moments as they are, "zero" takes their gradient as zero, so that
            moments decay and move them, and weight decay acts on them. Without such a relaxation it has no effect.
            The default was measured, see docs/measurements/idle_weights.md.

    Example:
        >>> nasframe.Optimiser(method="sgd", learning_rate=0.025, momentum=0.9, epochs=50).method
        'sgd'
    """

    method: str = choice("adam", "adamw", "sgd", default="adam")
    learning_rate: float = number(1e-3, low=0.0)
    weight_decay: float = number(0.0, low=0.0)
    momentum: float = number(0.0, low=0.0, high=1.0)
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), converter=_betas, validator=_two)
    epochs: int | None = number(None, low=1, whole=True, optional=True)
    final: float = number(0.0, low=0.0)
    idle: str = choice("skip", "zero", default="zero")

    def check(self, dtype: torch.dtype) -> None:
        """Refuse rates that cannot be applied to parameters of this dtype.

        Raises:
            ValueError: a factor of a step is larger than the largest number of the dtype; torch would refuse it in the first step.
        """
        largest = torch.finfo(dtype).max
        rate = max(self.learning_rate, self.final)
        # in the first step, Adam divides the learning rate by 1 - beta_1
        first = rate if self.method == "sgd" else rate / (1 - self.betas[0])
        factors = {
            f"learning_rate or final is {rate:g}": first,
            f"weight_decay is {self.weight_decay:g}": self.weight_decay,
        }
        if self.method == "adamw":
            # the weights are multiplied by 1 - learning_rate * weight_decay
            factors[f"learning_rate * weight_decay is {rate * self.weight_decay:g}"] = rate * self.weight_decay
        for what, factor in factors.items():
            if factor > largest:
                name = str(dtype).removeprefix("torch.")
                raise ValueError(f"{what}, too large for the numbers of {name}, which end at {largest:.2g}; give a smaller one")

    def progress(self, epoch: int) -> float:
        """Return the share of a phase that is over at the beginning of an epoch; 1 if its length is not known."""
        # 1, so that drop path, which grows with the progress, has its full rate in a phase without a length
        return min(epoch / self.epochs, 1.0) if self.epochs else 1.0

    def anneal(self, optimiser: Optimizer, epoch: int) -> None:
        """Set the learning rate for an epoch of a phase."""
        # a phase without a length may follow one whose rate has fallen
        share = (1 + math.cos(math.pi * self.progress(epoch))) / 2 if self.epochs else 1.0
        for group in optimiser.param_groups:
            group["lr"] = self.final + (self.learning_rate - self.final) * share if self.epochs else self.learning_rate

    def build(self, named: NamedParameters) -> Optimizer:
        """Return the optimiser of these parameters."""
        parameters: Any = [{"params": [p for _, p in named]}]  # a group may be empty: an architecture has no alphas
        common: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.method == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, **common)
        adam = torch.optim.Adam if self.method == "adam" else torch.optim.AdamW
        return adam(parameters, betas=self.betas, eps=EPSILON, **common)

    def unroll(self, optimiser: Optimizer, named: NamedParameters, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters after the next step, as a differentiable function of the gradients.

        Neither the parameters nor the optimiser change.

        Args:
            optimiser: what `build` returned, with its moments and its present learning rate.
            named: the parameters by name.
            gradients: the gradients by name.
        """
        # The formulas of torch's steps written out, because torch's optimisers work in place and cannot be differentiated
        # through.
        step, rate = self._sgd if self.method == "sgd" else self._adam, rate_of(optimiser)
        return {name: step(p.detach(), gradients[name], optimiser.state.get(p, {}), rate) for name, p in named}

    def _sgd(self, w: Tensor, g: Tensor, state: Mapping[str, Any], rate: float) -> Tensor:
        g = g + self.weight_decay * w
        # torch begins with the gradient itself as the buffer, without a factor.
        if "momentum_buffer" in state:
            g = self.momentum * state["momentum_buffer"] + g
        return w - rate * g

    def _adam(self, w: Tensor, g: Tensor, state: Mapping[str, Any], rate: float) -> Tensor:
        b1, b2 = self.betas
        # Adam adds the L2 penalty to the gradient, AdamW shrinks the weights apart from it (Loshchilov & Hutter 2019)
        if self.method == "adam":
            g = g + self.weight_decay * w
        else:
            w = w - rate * self.weight_decay * w
        # Kingma & Ba 2015, Algorithm 1, as torch computes it: the bias corrections 1 - b^t are for the step that is to come
        t = float(state.get("step", 0)) + 1
        m = b1 * state.get("exp_avg", 0) + (1 - b1) * g
        v = b2 * state.get("exp_avg_sq", 0) + (1 - b2) * g.square()
        moved = v > 0  # where v is 0, so is m; but the derivative of the root is infinite there, and 0 * inf is NaN
        root = torch.where(moved, v, 1).sqrt() * moved
        return w - rate / (1 - b1**t) * m / (root / (1 - b2**t) ** 0.5 + EPSILON)


def rate_of(optimiser: Optimizer) -> float:
    """Return the present learning rate."""
    return float(optimiser.param_groups[0]["lr"])
