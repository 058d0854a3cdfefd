"""Training a network whose structure does not change, and testing it: what architectures and references are compared by."""

from __future__ import annotations

import copy
import math

import attrs
import torch
from torch import nn

from nasframe.interfaces.task import Data
from nasframe.network.network import advance
from nasframe.search.batches import batches
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed


@attrs.frozen(eq=False)
class Fitted:
    """A network as it was when its validation loss was least, and how it came there.

    Args:
        valid: that loss; None where there is no validation part, and the network is as it was at last.
        updates: how many were made in all.
        curve: the validation loss after each epoch.
    """

    network: nn.Module
    valid: float | None
    updates: int
    curve: tuple[float, ...] = ()


def fit(network: nn.Module, data: Data, strategy: Strategy, updates: int, patience: int, seed: Seed) -> Fitted:
    """Train until the validation loss has not improved for `patience` epochs, or for so many updates.

    Batches and optimiser are the strategy's; a learning rate that falls does so over these updates. A network without
    trainable parameters is returned as it is.
    """
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    if not trainable:
        return Fitted(network, _valid(network, data), 0)
    chosen = strategy.optimiser
    if chosen.epochs:
        chosen = attrs.evolve(chosen, epochs=math.ceil(updates / len(batches(torch.arange(data.train.size), strategy.batch))))
    best: Fitted | None = None
    optimiser, curve, since, done, epoch = chosen.build(trainable), [], 0, 0, 0
    while since < patience and done < updates:
        order = torch.randperm(data.train.size, generator=seed("order", epoch).generator())
        advance(network, chosen.progress(epoch))
        chosen.anneal(optimiser, epoch)
        for index in batches(order, strategy.batch):
            with seed("step", done).as_global(strategy.device):
                inputs, targets = data.train.draw(index)
                loss = data.objective(network.train()(inputs), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
        valid, epoch = _valid(network, data), epoch + 1
        if valid is None:
            continue
        curve.append(valid)
        if best is None or best.valid is None or valid < best.valid:
            best, since = Fitted(copy.deepcopy(network), valid, done), 0
        else:
            since += 1
    return attrs.evolve(best or Fitted(network, None, done), updates=done, curve=tuple(curve))


def scores(network: nn.Module, data: Data) -> dict[str, float]:
    """The metrics on the test part, which is to be read when all is decided."""
    return data.measure(network.eval(), data.test)[1]


def _valid(network: nn.Module, data: Data) -> float | None:
    return data.mean_loss(network.eval(), data.validation) if data.validation.size else None
