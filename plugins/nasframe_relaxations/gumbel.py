"""Relaxations by the Gumbel-softmax: hard samples (GDAS), and soft samples from the concrete distribution (SNAS)."""

from __future__ import annotations

from typing import ClassVar

import attrs
from torch import Tensor

from nasframe import Draw, Mixing
from nasframe.interfaces.relaxation import Sites
from nasframe.options import number
from nasframe_relaxations.categorical import Categorical, Tensors, gumbel, straight_through


def falls(initial: float, final: float) -> None:
    """Refuse a temperature that rises.

    Raises:
        ValueError: if the final temperature is above the initial one.
    """
    if final > initial:
        raise ValueError(f"initial is {initial} and final {final}; the temperature falls, so final must be at most initial")


@attrs.frozen
class HardGumbel(Categorical):
    """One candidate of each site, drawn with the probabilities softmax(alpha) (Dong & Yang 2019, GDAS).

    With Gumbel noise o, the mixing weights are h = one_hot(argmax_k (log p_k + o_k)), and their gradient is that of
    h~ = softmax((log p + o) / tau). Only the drawn candidate is computed, so that only its mixing weight passes a gradient to the
    alphas. The temperature tau falls linearly during a phase.

    Args:
        initial: tau at the beginning of a phase.
        final: tau at its end.
    """

    name: ClassVar[str] = "hard_gumbel"
    needs_progress: ClassVar[bool] = True
    initial: float = number(10.0, low=1e-3)
    final: float = number(0.1, low=1e-3)

    def __attrs_post_init__(self) -> None:
        falls(self.initial, self.final)

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        """Return h, and the drawn candidate of each site."""
        assert draw.progress is not None  # a search without it is refused
        tau = self.initial + (self.final - self.initial) * draw.progress
        found, active = dict[str, Tensor](), dict[str, tuple[int, ...]]()
        for address in sites:
            alpha = alphas[address]
            soft = ((alpha.log_softmax(0) + gumbel(alpha, draw.seed(address))) / tau).softmax(0)
            place = int(soft.argmax())
            found[address], active[address] = straight_through(place, soft), (place,)
        return Mixing(found, active)


@attrs.frozen
class Concrete(Categorical):
    """A sample from the concrete distribution: softmax((log p + G) / lambda) with Gumbel noise G (Xie et al. 2019, SNAS).

    All candidates are computed. The gradient passes through the sample (pathwise). The temperature lambda falls exponentially during a
    phase. The paper does not state it: the defaults are 2.5 exp(-0.00003 t), as in public implementations, over its 150 epochs of
    390 updates.

    Args:
        initial: lambda at the beginning of a phase.
        final: lambda at its end.
    """

    name: ClassVar[str] = "concrete"
    needs_progress: ClassVar[bool] = True
    initial: float = number(2.5, low=1e-3)
    final: float = number(0.43, low=1e-3)

    def __attrs_post_init__(self) -> None:
        falls(self.initial, self.final)

    def sampled(self, sites: Sites, alphas: Tensors, draw: Draw) -> Mixing:
        """Return the sample of each site."""
        assert draw.progress is not None  # a search without it is refused
        temperature = self.initial * (self.final / self.initial) ** draw.progress
        found = dict[str, Tensor]()
        for address in sites:
            log_p = alphas[address].log_softmax(0)
            found[address] = ((log_p + gumbel(log_p, draw.seed(address))) / temperature).softmax(0)
        return Mixing(found)
