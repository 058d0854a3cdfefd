"""Training a network whose structure does not change: what a found architecture and its references are compared by."""

from __future__ import annotations

import copy
import math

import attrs
import torch
from torch import nn

from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.task import Data


@attrs.frozen(eq=False)
class Fitted:
    """A network as it was when its validation loss was least, and how many updates were made in all."""

    network: nn.Module
    valid: float
    updates: int


def fit(network: nn.Module, data: Data, strategy: Strategy, updates: int, patience: int, seed: Seed) -> Fitted:
    """Train until the validation loss has not improved for `patience` epochs, or for so many updates.

    Batches and optimiser are the strategy's. A network without trainable parameters is returned as it is.
    """
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    best, since, done, epoch = Fitted(network, _valid(network, data), 0), 0, 0, 0
    if not trainable:
        return best
    best, optimiser = attrs.evolve(best, valid=math.inf), strategy.optimiser.build(trainable)
    while since < patience and done < updates:
        order = torch.randperm(data.train.size, generator=seed("order", epoch).generator())
        for inputs, targets in data.train.batches(order, strategy.batch):
            with seed("step", done).lent(strategy.device):
                loss = data.loss(network.train()(inputs), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
        valid = _valid(network, data)
        since, epoch = (0 if valid < best.valid else since + 1), epoch + 1
        if since == 0:
            best = Fitted(copy.deepcopy(network), valid, done)
    return attrs.evolve(best, updates=done)


def _valid(network: nn.Module, data: Data) -> float:
    return data.mean_loss(network.eval(), data.validation)
