"""ASAP: a softmax with a temperature that falls, and the removal of weak candidates while the supernet trains (Noy et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from nasframe import Address, Context, Draw, Mixing, Pruner, Relaxation, Structure
from nasframe.interfaces.plan import PlanRecipe
from nasframe.interfaces.relaxation import Sites
from nasframe.options import number
from nasframe.search.plan import Change, Plan, Restore, Train

Tensors = Mapping[str, Tensor]


@attrs.frozen
class AnnealedSoftmax(Relaxation):
    """softmax(alpha / T) in training, where T falls exponentially during a phase (Noy et al. 2020, ASAP).

    Validation has the temperature 1, because it depends on the alphas alone.

    Args:
        initial: T at the beginning of a phase.
        final: T at its end. The default is 1.6 times 0.95 for each of 50 epochs.
    """

    name: ClassVar[str] = "annealed_softmax"
    needs_progress: ClassVar[bool] = True
    initial: float = number(1.6, low=1e-3)
    final: float = number(0.12, low=1e-3)

    def __attrs_post_init__(self) -> None:
        if self.final > self.initial:
            raise ValueError(
                f"initial is {self.initial} and final {self.final}; the temperature falls, so final must be at most initial"
            )

    def mixing(self, sites: Sites, alphas: Tensors, draw: Draw | None) -> Mixing:
        """Return softmax(alpha / T) for each site."""
        temperature = 1.0
        if draw is not None:
            assert draw.progress is not None  # a search without it is refused
            temperature = self.initial * (self.final / self.initial) ** draw.progress
        return Mixing({address: (alphas[address] / temperature).softmax(0) for address in sites})

    def invert(self, sites: Sites, wanted: Tensors, alphas: Tensors) -> Tensors:
        """Return the logarithms of the wanted mixing weights of validation, shifted to the mean 0."""
        return {address: p.log() - p.log().mean() for address, p in wanted.items()}


@attrs.frozen
class AnnealedThreshold(Pruner):
    """Remove the candidates whose mixing weight in training is below a share of the mean (Noy et al. 2020, ASAP).

    The threshold is `below` / n at a site with n candidates. The smaller the temperature, the smaller is the difference of two alphas at
    which the weaker candidate falls below it. The strongest candidate of a site remains, and so does the strongest operation of a node
    that is not zero.

    Args:
        below: the threshold in units of the mean mixing weight 1 / n.
    """

    name: ClassVar[str] = "annealed_threshold"
    below: float = number(0.4, low=0.0, high=1.0)

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        """Return the mixing weights of a training step at the present progress; those of validation in a phase without a length."""
        network = context.network
        if context.relaxation is None or context.progress is None:
            return context.ranking
        with torch.no_grad():
            return dict(network.mixing(Draw(context.seed("mixing"), context.progress)))

    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the candidates below the threshold."""
        gone: dict[Address, Set[int]] = {}
        for node, _ in structure.nodes():
            scored = {
                a: [*zip(s.candidates, scores[a].tolist(), strict=True)]
                for a, s in structure.sites_of(node).items()
                if a in scores
            }
            weak = {
                (address, candidate.id)
                for address, pairs in scored.items()
                for candidate, score in pairs
                if score < self.below / len(pairs) and score < max(value for _, value in pairs)
            }
            operations = [
                (score, address, c.id) for address, pairs in scored.items() for c, score in pairs if not c.operation.zero
            ]
            if operations:
                weak.discard(max(operations, key=lambda entry: entry[0])[1:])
            for address, id in sorted(weak):
                gone[address] = {*gone.get(address, ()), id}
        return gone


@attrs.frozen
class Asap(PlanRecipe):
    """Train the supernet, and remove weak candidates after each epoch; decide what is left, and tune (Noy et al. 2020).

    Use it with the relaxation `annealed_softmax`.

    Args:
        epochs: the epochs of the supernet.
        grace: the first of these, in which the alphas stay as they are, so that nothing is removed.
        tuning: the epochs in which the decided network is tuned.
        below: the threshold in units of the mean mixing weight.
    """

    name: ClassVar[str] = "asap"
    epochs: int = number(50, low=1, whole=True)
    grace: int = number(10, low=0, whole=True)
    tuning: int = number(5, low=1, whole=True)
    below: float = number(0.4, low=0.0, high=1.0)

    def steps(self) -> Plan:
        """Return a search with removals after each epoch, the decision of what is left, and a tuning."""
        prune = Change(prune=True, pruner=AnnealedThreshold(self.below))
        search = Train(phase="search", parameters=("weights", "alphas"), epochs=self.epochs, grace=self.grace, during=(prune,))
        tune = Train(phase="tune", epochs=self.tuning, competes=True)
        return (search, Change(derive=True), tune, Restore())
