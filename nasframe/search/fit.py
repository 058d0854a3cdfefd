"""Training a network whose structure does not change, and testing it: what architectures and references are compared by."""

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
    """A network as it was when its validation loss was least, and how it came there.

    Args:
        valid: that loss.
        updates: how many were made in all.
        curve: the validation loss after each epoch.
    """

    network: nn.Module
    valid: float
    updates: int
    curve: tuple[float, ...] = ()


def fit(network: nn.Module, data: Data, strategy: Strategy, updates: int, patience: int, seed: Seed) -> Fitted:
    """Train until the validation loss has not improved for `patience` epochs, or for so many updates.

    Batches and optimiser are the strategy's. A network without trainable parameters is returned as it is.
    """
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    best, since, done, epoch = Fitted(network, _valid(network, data), 0), 0, 0, 0
    if not trainable:
        return best
    best, optimiser, curve = attrs.evolve(best, valid=math.inf), strategy.optimiser.build(trainable), []
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
        curve.append(valid)
        since, epoch = (0 if valid < best.valid else since + 1), epoch + 1
        if since == 0:
            best = Fitted(copy.deepcopy(network), valid, done)
    return attrs.evolve(best, updates=done, curve=tuple(curve))


def scores(network: nn.Module, data: Data) -> dict[str, float]:
    """The metrics on the test part, which is to be read when all is decided."""
    metrics = data.metrics()
    with torch.no_grad():
        for inputs, targets in data.test.batches():
            metrics.update(data.predict(network.eval()(inputs)), targets)
    return {name: float(value) for name, value in metrics.compute().items()}


def _valid(network: nn.Module, data: Data) -> float:
    return data.mean_loss(network.eval(), data.validation)
