"""The evaluator of one-shot methods: the validation loss with the weights of a supernet (Guo et al. 2020; Li & Talwalkar 2019)."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import nn

from nasframe import Network, Seed, Split, Structure
from nasframe.interfaces.evaluator import Evaluator, Outcome, Trained, Workbench
from nasframe.network.network import tensors
from nasframe.options import number
from nasframe.records import finite


@attrs.frozen
class Inherited(Evaluator):
    """Measure an architecture with the weights of its parent, without training it.

    Statistics of batch normalisation belong to the sums of a supernet, and not to the architecture. They are computed again on training
    batches, as by Guo et al. (2020, SPOS). The budget has no effect: no update is made.
    Without a parent the weights are freshly initialised, so that the loss says little: let the trials inherit (`inherit = true`).

    Args:
        batches: the largest number of training batches for these statistics; 0 to keep those of the parent.
    """

    name: ClassVar[str] = "inherited"
    batches: int = number(20, low=0, whole=True)

    def evaluate(self, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        """Return the validation loss and the metrics; None if the loss is not finite."""
        network = bench.build(structure, seed("build"), parent).eval()
        if self.batches:
            _recompute_statistics(network, bench.data.train, self.batches)
        loss, scores = bench.data.measure(network, bench.data.validation)
        if finite(loss) is None:
            return Outcome(None)
        kept = {name: tensor.detach().clone() for name, tensor in tensors(network).items()}
        return Outcome(loss, scores={name: finite(score) for name, score in scores.items()}, tensors=kept)


def _recompute_statistics(network: Network, split: Split, batches: int, size: int = 512) -> None:
    """Replace the running statistics of batch normalisation by their means over batches of a split."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    # the same examples for all architectures, which are compared with each other
    order = torch.randperm(split.size, generator=Seed(("statistics",)).generator())[: batches * size]
    with torch.no_grad():
        for inputs, _ in split.batches(order, size):
            network(inputs)
    network.eval()
