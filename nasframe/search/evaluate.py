"""Evaluation: a structure or a baseline is trained with a budget and a seed, and its outcome is returned.

Ask/tell searches, comparisons, and the reproductions of papers, use it. A result is a function of the trial and the strategy
alone, so that evaluations can run in several processes and give the same results as in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.change.map import Take, derive_map
from nasframe.interfaces.evaluator import Outcome, Trained, Workbench
from nasframe.interfaces.task import Data
from nasframe.network.cost import Cost
from nasframe.network.network import Network, build, tensors
from nasframe.search.batches import batches
from nasframe.search.state import copied, fill, placed
from nasframe.search.strategy import Strategy
from nasframe.search.trainer import Trainer, Training, weights_of
from nasframe.seeds import Seed
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure

#: epochs without improvement after which an evaluation stops, the same for all
PATIENCE = 20


@attrs.frozen
class Reference:
    """A baseline of the task, such as an LSTM.

    Attributes:
        name: its name among the task's references.
        parameters: the number of parameters that it should have about as many as.
    """

    name: str
    parameters: int


@attrs.frozen
class Trial:
    """An architecture or a baseline to evaluate, with its budget and its seed.

    Attributes:
        of: an architecture of the search space, or a baseline of the task.
        updates: the largest number of updates of the weights, or another budget that the evaluator of a search knows.
        seed: the seed of the initial weights, of the order of the examples and of all noise.
        search: whether it is a trial of an ask/tell search. The strategy's evaluator evaluates it then, and it is not tested. Otherwise
            it is trained from scratch and tested, for a comparison.
        parent: the trained architecture from whose weights a trial of a search starts, if it inherits any.
    """

    of: Structure | Reference
    updates: int
    seed: Seed
    search: bool = False
    # tensors have no equality that is true or false
    parent: Trained | None = attrs.field(default=None, eq=False)


@attrs.frozen(eq=False)
class Fit:
    """The result of a training.

    Attributes:
        updates: the number of updates of the weights that were made.
        valid: the least validation loss; None if there is no validation split or the training diverged.
        validation: the task's metrics on the validation split when the validation loss was least.
        diverged: whether the training diverged before it had a finite validation loss.
        curve: the validation loss after each epoch.
        tensors: the parameters and buffers of the network as it was when its validation loss was least.
    """

    updates: int
    valid: float | None
    validation: Mapping[str, float | None]
    diverged: bool
    curve: tuple[float | None, ...]
    tensors: Mapping[str, Tensor]


@attrs.frozen(eq=False, kw_only=True)
class Evaluation(Fit):
    """The result of a training from scratch, with the cost of the network and its test.

    Attributes:
        parameters, flops: the cost of one prediction.
        scores: the task's metrics on the test split.
    """

    parameters: int
    flops: int
    scores: Mapping[str, float | None]


@attrs.frozen(eq=False)
class Bench(Workbench):
    """The workbench of a run.

    Args:
        strategy: how to train.
        space: the space of the search.
        load: returns the data of the strategy's task.
        check: is called after each step and may raise an exception in order to stop.
    """

    strategy: Strategy
    space: Space
    load: Callable[[], Data]
    check: Callable[[], None] = lambda: None

    @property
    def data(self) -> Data:
        """The data of the task, which are loaded when they are first used."""
        return self.load()

    def build(self, structure: Structure, seed: Seed, parent: Trained | None = None) -> Network:
        """Return the network of an architecture with fresh weights, or with those that it shares with its parent.

        A parent of other widths shares none.
        """
        network = placed(self.strategy, build(structure, seed))
        if parent is not None and parent.structure.backbone == structure.backbone:
            # With its relaxation, because the parent may be a supernet, whose alphas are among the tensors.
            old = placed(self.strategy, build(parent.structure, seed, relaxation=self.strategy.relaxation))
            fill(old, {name: tensor.to(self.strategy.device) for name, tensor in parent.tensors.items()})
            values, present = tensors(old), tensors(network)
            with torch.no_grad():
                # The names hold the ids of candidates, and those of an architecture are those of its supernet.
                for name, entry in derive_map(old, network).items():
                    assert isinstance(entry, Take)  # no tensor is given
                    present[name].copy_(entry(values[entry.source], present[name]))
        return network

    def train(self, network: Network, updates: int, seed: Seed) -> Outcome:
        """Train the network and return the outcome."""
        found = fit(network, self.strategy, self.data, updates=updates, seed=seed, check=self.check)
        kept = {} if found.diverged else found.tensors
        return Outcome(found.valid, found.updates, found.validation, kept)


def evaluate(trial: Trial, strategy: Strategy, data: Data, check: Callable[[], None] = lambda: None) -> Evaluation:
    """Train what the trial names from scratch and return the result.

    Args:
        trial: what to evaluate.
        strategy: how to train it.
        data: the data of the strategy's task.
        check: is called after each step and may raise an exception in order to stop.
    """
    network = module_of(trial, strategy, data)
    return evaluation(network, fit(network, strategy, data, updates=trial.updates, seed=trial.seed, check=check), data)


def evaluation(network: nn.Module, found: Fit, data: Data) -> Evaluation:
    """Return the result of a training, with the cost of the trained network and its scores on the test split.

    Args:
        network: the network as `fit` left it.
        found: what `fit` returned.
        data: the data.

    Example:
        The parameters of a linear map from the weather of each day to that of the next, and its metrics on the test split:

        >>> import torch
        >>> strategy = nasframe.Strategy.named("two-to-one-grow-end")
        >>> data = strategy.task.load(torch.device("cpu"), torch.float32)
        >>> network = torch.nn.Linear(4, 4)
        >>> outcome = evaluation(network, fit(network, strategy, data, updates=1, seed=nasframe.Seed((0,))), data)
        >>> outcome.parameters, sorted(outcome.scores)
        (20, ['mae', 'mse'])
    """
    return Evaluation(
        **attrs.asdict(found, recurse=False),
        **attrs.asdict(predicting(network, data)),
        scores={} if found.diverged else tested(network, data),
    )


def fit(
    network: nn.Module,
    strategy: Strategy,
    data: Data,
    *,
    updates: int,
    seed: Seed,
    patience: int = PATIENCE,
    check: Callable[[], None] = lambda: None,
) -> Fit:
    """Train a network with the strategy's batches and optimiser, and return the result.

    Training stops when the validation loss has not improved for `patience` epochs, or after so many updates; a learning
    rate that falls does so over these. A network without trainable parameters is only measured. The network ends as it was
    when its validation loss was least, or, without a validation split, as it was last.

    Args:
        network: an architecture, or any module that maps the inputs of the task to its outputs.
        strategy: how to train it.
        data: the data.
        updates: the largest number of updates of the weights.
        seed: the seed of the order of the examples and of all noise.
        patience: the number of epochs without improvement after which training stops.
        check: is called after each step and may raise an exception in order to stop.

    Example:
        A linear map from the weather of each day to that of the next:

        >>> import torch
        >>> strategy = nasframe.Strategy.named("two-to-one-grow-end")
        >>> data = strategy.task.load(torch.device("cpu"), torch.float32)
        >>> found = fit(torch.nn.Linear(4, 4), strategy, data, updates=1, seed=nasframe.Seed((0,)))
        >>> len(found.curve), sorted(found.validation)
        (1, ['mae', 'mse'])
    """
    optimiser = strategy.optimiser
    if optimiser.epochs:
        # the learning rate falls over the epochs of this budget, and not over those of a phase of the search
        optimiser = attrs.evolve(optimiser, epochs=max(1, math.ceil(updates / updates_per_epoch(strategy, data))))
    fresh = Trainer(data, strategy.gradient_architect, optimiser, strategy.device)
    training = Training(network, fresh.optimisers(network), batch=strategy.fixed_batch)
    # The initial network is the best one until an epoch has been validated; with a budget of 0 it stays so.
    best, curve, since = copied(network), list[float | None](), 0
    valid: float | None = None
    scores: Mapping[str, float | None] = {}
    diverged, trainable = False, bool(weights_of(network))
    # Without trainable parameters there is no epoch after which it would be validated.
    if not trainable and data.validation.size:
        valid, scores = fresh.measure(network)
        diverged = valid is None
    while trainable and since < patience and training.updates < updates:
        for _ in fresh.epoch(training, seed("epoch", training.epoch)):
            check()
        measured = fresh.validate(training)
        training.epoch, training.samples, training.loss = training.epoch + 1, 0, 0.0
        if measured.diverged:
            # what was good before stays the outcome
            diverged = not curve
            break
        curve.append(measured.valid)
        # without a validation split nothing shows that training no longer helps: the budget alone ends it
        since = since + 1 if data.validation.size else 0
        # without a validation split the last network is the best one
        if valid is None or measured.valid is None or measured.valid < valid:
            best, valid, scores, since = copied(network), measured.valid, measured.scores, 0
    fill(network, best)
    return Fit(training.updates, valid, scores, diverged, tuple(curve), best)


def updates_per_epoch(strategy: Strategy, data: Data) -> int:
    """Return the number of updates of the weights in an epoch."""
    # counted and not divided, because a last batch of one example joins the one before
    return len(batches(torch.arange(data.train.size), strategy.fixed_batch))


def module_of(trial: Trial, strategy: Strategy, data: Data) -> nn.Module:
    """Return the network of a trial with its initial weights."""
    seed = trial.seed("build")
    if isinstance(trial.of, Structure):
        return placed(strategy, build(trial.of, seed))
    # A reference is built by the task's code, which draws its initial weights from the global generator.
    with seed.as_global():
        module = data.references(trial.of.parameters)[trial.of.name]()
    return module.to(device=strategy.device, dtype=strategy.torch_dtype)


def tested(network: nn.Module, data: Data) -> dict[str, float]:
    """Return the metrics of a trained network on the test split, which no decision reads."""
    return data.measure(network.eval(), data.test)[1]


def predicting(network: nn.Module, data: Data) -> Cost:
    """Return the cost of one prediction: the parameters that it depends on (not those of an auxiliary head) and its FLOPs."""
    # one example: the cost of a batch grows in proportion
    inputs, _ = data.train.batch(torch.arange(1))
    trainable = [p for p in network.parameters() if p.requires_grad]
    # cuDNN's recurrent layers have no gradient in evaluation mode
    with FlopCounterMode(display=False) as counter, torch.backends.cudnn.flags(enabled=False):
        outputs = network.eval()(inputs)
    # a parameter without a gradient has no influence on the prediction, such as those of an auxiliary head
    slopes = torch.autograd.grad(outputs.sum(), trainable, allow_unused=True) if trainable else ()
    idle = sum(p.numel() for p, slope in zip(trainable, slopes, strict=True) if slope is None)
    return Cost(sum(p.numel() for p in network.parameters()) - idle, counter.get_total_flops())
