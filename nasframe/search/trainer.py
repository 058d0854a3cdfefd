"""The one trainer: searching, tuning, retraining, baselines and comparisons take the same steps.

A step is Algorithm 1 of Jie & Gao 2021: the alphas move against the validation loss, where there are any to move, and then
the weights against the training loss. All randomness of a step comes from its seed, so that a step can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from typing import Generic, TypeVar

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasframe.interfaces.architect import Architect
from nasframe.interfaces.relaxation import Draw
from nasframe.interfaces.task import Data, Split
from nasframe.network.mixing import Mixing
from nasframe.network.network import Network, set_progress
from nasframe.search.batches import batches
from nasframe.search.bilevel import (
    Batch,
    Forward,
    added_loss,
    alternating_step,
    idle_weights,
    loss_by_mixing,
    problem,
    weights_step,
)
from nasframe.search.optimiser import Optimiser
from nasframe.seeds import Seed

N = TypeVar("N", bound=nn.Module)


@attrs.define
class Training(Generic[N]):
    """A network in training, and how far the training has come.

    Attributes:
        network: a network of the search space, or a baseline, which has no alphas.
        optimisers: of the "weights", and of the "alphas" of a network that has any.
        batch: the number of examples in a batch, of training and of validation; 0 if it has not been decided.
        stage: the number of growths so far.
        epoch: the epoch of the phase, from 0.
        samples: the number of training examples that this epoch has used.
        updates: the number of updates of the weights in all.
        loss: the sum of the training losses of this epoch's examples.
    """

    network: N
    optimisers: dict[str, Optimizer]
    # keyword-only, so that `State` can add a field that has no default
    batch: int = attrs.field(default=0, kw_only=True)
    stage: int = attrs.field(default=0, kw_only=True)
    epoch: int = attrs.field(default=0, kw_only=True)
    samples: int = attrs.field(default=0, kw_only=True)
    updates: int = attrs.field(default=0, kw_only=True)
    loss: float = attrs.field(default=0.0, kw_only=True)


@attrs.frozen
class Validation:
    """The losses of an epoch and the metrics of the validation split.

    Attributes:
        train: the mean training loss; None if it is not finite.
        valid: the validation loss; None if it is not finite or there is no validation split.
        diverged: whether a loss is not finite.
    """

    train: float | None
    valid: float | None
    scores: Mapping[str, float | None]
    diverged: bool


def weights_of(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trainable parameters of a network but its alphas, by name."""
    return [(n, p) for n, p in network.named_parameters() if p.requires_grad and not n.startswith("alphas.")]


def alphas_of(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the alphas of a network, by name."""
    return [(n, p) for n, p in network.named_parameters() if n.startswith("alphas.")]


def mixing_weights(network: nn.Module, draw: Draw | None = None) -> Mapping[str, Tensor]:
    """Return the present mixing weights of a network's undecided sites, without a graph; a baseline has none.

    Args:
        network: the network.
        draw: how to sample in a training step; None for what validation computes.
    """
    if not isinstance(network, Network):
        return {}
    with torch.no_grad():
        return network.mixing(draw)


def forward_of(network: nn.Module) -> Forward:
    """Return the network as a function of inputs and mixing weights; a baseline ignores the latter."""
    return network if isinstance(network, Network) else lambda inputs, mixing: network(inputs)


@attrs.frozen(eq=False)
class Trainer:
    """Trains networks on the data of a task.

    Args:
        data: the data of the task.
        architect: moves the alphas; None if the networks have none.
        optimiser: of the weights.
        device: the device of the networks.
    """

    data: Data
    architect: Architect | None
    optimiser: Optimiser
    device: str

    def optimisers(self, network: nn.Module) -> dict[str, Optimizer]:
        """Return fresh optimisers of the weights and of the alphas."""
        # without an architect there are no alphas, and whose optimiser it is makes no difference
        # Groups of no parameters are allowed, so that a network without alphas needs no special case.
        build_alphas = self.optimiser.build if self.architect is None else self.architect.build_optimiser
        return {"weights": self.optimiser.build(weights_of(network)), "alphas": build_alphas(alphas_of(network))}

    def epoch(self, training: Training[N], seed: Seed, search: bool = False) -> Iterator[float]:
        """Train to the end of the epoch, from wherever the training is in it, and yield the loss of each step.

        The epoch ends early where a loss is not finite.

        Args:
            training: is changed in place; it is consistent whenever a loss is yielded.
            seed: of this epoch. The order of the examples and the noise of each step are derived from it.
            search: whether the alphas move, too.
        """
        size = self.data.train.size
        order = shuffled(seed("order"), size)
        # The order of the whole epoch is drawn again after an interruption, from the same seed, and is continued where it
        # was left.
        held_out = shuffled(seed("validation order"), self.data.validation.size) if search else None
        # a resumed epoch skips what it has used: `batches` cuts the rest of an order as it cuts the whole
        for index in batches(order[training.samples :], training.batch):
            loss = self._step(training, index, held_out, seed("step", training.samples))
            # A sum over examples, as the last batch may be larger or smaller than the others. It keeps a loss that is not finite,
            # by which `validate` knows that the epoch diverged.
            training.loss += loss * len(index)
            training.samples += len(index)
            training.updates += 1
            if not math.isfinite(loss):
                return  # without an event: a state that diverged is never written
            yield loss

    def _step(self, training: Training[N], index: Tensor, held_out: Tensor | None, seed: Seed) -> float:
        network, optimisers = training.network.train(), training.optimisers
        # whatever depends on the position in the run is set at each step, so that it need not be stored
        set_progress(network, self.optimiser.progress(training.epoch))
        self.optimiser.anneal(optimisers["weights"], training.epoch)
        # The seed of the step is for augmentation (`Split.draw`); each loss has one for its dropout and its sample.
        with seed.as_global(self.device):
            train, draw = partial(self.loss, self.data.train.draw(index), seed("train")), self._draw(training, seed("train"))

            # that of a step in which the alphas move
            architect = self.architect if held_out is not None and isinstance(network, Network) else None

            # First called by `loss`, when the alphas have moved. Then `idle` sees the same mixing weights, and `training_mixing`,
            # which may need several passes of the network, is called once.
            @cache
            def mixing() -> Mapping[str, Tensor]:
                found = mixing_weights(network, draw)
                if architect is None or not isinstance(found, Mixing):
                    return found
                return architect.training_mixing(found, loss_by_mixing(network, train), draw)

            # evaluated after the alphas have moved, so that the weights follow the loss at the new alphas
            def loss() -> Tensor:
                return train(forward_of(network), mixing())

            def idle() -> Collection[str]:
                return idle_weights(network, self.optimiser, mixing) if isinstance(network, Network) else ()

            # Weights alone: the phase trains no alphas, or it is a baseline, which has none.
            if held_out is None or architect is None or not isinstance(network, Network):
                value = weights_step(dict(weights_of(network)), optimisers["weights"], loss, idle)
            else:
                architect.configure(optimisers["alphas"], training.stage)
                # the validation examples are used in turn, as many as there are training examples
                count = min(training.batch, len(held_out))
                # The place in the order follows from the training examples that were used, so that it need not be stored.
                # The validation split is usually smaller and is gone through several times.
                chosen = held_out[(training.samples + torch.arange(count)) % len(held_out)]
                valid = partial(self.loss, self.data.validation.draw(chosen), seed("valid"))
                # Two independent samples, one for each loss: the alphas are judged on other noise than that which the
                # weights were fitted to.
                draws = (draw, self._draw(training, seed("valid")))
                bilevel = problem(network, self.optimiser, optimisers["weights"], train, valid, draws)
                added = added_loss(network, architect.terms, self.progress(training))
                value = alternating_step(bilevel, architect, optimisers, loss, added=added, idle=idle)
        return float(value)

    def _draw(self, training: Training[N], seed: Seed) -> Draw:
        """Return the sample of a loss. It is the same at every call of the loss, so that finite differences compare like with like."""
        return Draw(seed("mixing"), self.progress(training))

    def progress(self, training: Training[N]) -> float | None:
        """Return the completed fraction of the phase, which grows with each update; None if the phase has no length.

        The learning rate and drop path, in contrast, change with each epoch, as in DARTS.
        """
        epochs, size = self.optimiser.epochs, self.data.train.size
        return min((training.epoch + training.samples / size) / epochs, 1.0) if epochs else None

    def loss(self, batch: Batch, noise: Seed, forward: Forward, mixing: Mapping[str, Tensor]) -> Tensor:
        """Return the training loss of a batch.

        Args:
            batch: the inputs and the targets.
            noise: the seed of dropout and the like.
            forward: the network.
            mixing: its mixing weights.
        """
        inputs, targets = batch
        # the noise (dropout) is the same at every call: the difference of two losses must not be one of two masks
        with noise.as_global(self.device):
            return self.data.objective(forward(inputs, mixing), targets)

    def validate(self, training: Training[N]) -> Validation:
        """Return the losses of the epoch; those of training alone where there is no validation split."""
        # The losses of single steps at changing weights, as is usual: a second pass over the training split would cost as
        # much as the epoch.
        train = training.loss / max(training.samples, 1)
        if not math.isfinite(train):
            return Validation(None, None, {}, True)
        if not self.data.validation.size:
            return Validation(train, None, {}, False)
        valid, scores = self.measure(training.network)
        return Validation(train, valid, scores, valid is None)

    def measure(self, network: nn.Module) -> tuple[float | None, Mapping[str, float | None]]:
        """Return the validation loss of a network, None if it is not finite, and the metrics."""
        forward, mixing = forward_of(network.eval()), mixing_weights(network)

        def outputs(inputs: Tensor) -> Tensor:
            found = forward(inputs, mixing)
            assert isinstance(found, Tensor)  # in evaluation mode an auxiliary head is silent
            return found

        loss, scores = self.data.measure(outputs, self.data.validation)
        return (loss, scores) if math.isfinite(loss) else (None, {})


def keyed_batch(split: Split, seed: Seed, number: int, size: int) -> Batch:
    """Return a batch (inputs, targets) of a split in a random order, without augmentation.

    Args:
        split: the examples.
        seed: the seed of the order. If fewer than `size` examples are left in it, the next batch begins a new one.
        number: the number of the batch, from 0.
        size: the number of examples. A small split gives smaller batches.
    """
    size = min(size, split.size)
    # Batch number n is a function of the seed and n alone. A part may ask for batches in any order, and gets the same
    # ones after an interruption.
    turn, place = divmod(number, split.size // size)
    return split.batch(shuffled(seed(turn), split.size)[place * size : (place + 1) * size])


def shuffled(seed: Seed, size: int) -> Tensor:
    """Return a random order of so many examples."""
    return torch.randperm(size, generator=seed.generator())
