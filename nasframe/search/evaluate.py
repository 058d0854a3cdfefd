"""Evaluation: a structure or a baseline is trained from scratch with a budget and a seed, and its outcome is returned.

Comparisons, and the reproductions of papers, use it. An outcome is a function of the trial and the strategy alone, so that
evaluations can run in several processes and give the same results as in one.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.context import BaseContext
from typing import Any

import attrs
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasframe.errors import RunError
from nasframe.interfaces.task import Data
from nasframe.network.cost import Cost
from nasframe.network.network import build
from nasframe.plugins import Plugins, discover
from nasframe.search.batches import batches
from nasframe.search.device import computing, loaded
from nasframe.search.state import copied, fill, placed
from nasframe.search.strategy import Strategy
from nasframe.search.trainer import Trainer, Training, weights_of
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure

#: epochs without improvement after which an evaluation stops, the same for all
PATIENCE = 20
#: seconds between two looks at whether the user wants to stop
POLL = 0.2


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
    """What to evaluate.

    Attributes:
        of: an architecture of the search space, or a baseline of the task.
        updates: the largest number of updates of the weights.
        seed: the seed of the initial weights, of the order of the examples and of all noise.
    """

    of: Structure | Reference
    updates: int
    seed: Seed


@attrs.frozen(eq=False)
class Outcome:
    """The result of a trial.

    Attributes:
        parameters, flops: the cost of one prediction.
        updates: the number of updates of the weights that were made.
        valid: the least validation loss; None if there is no validation split or the training diverged.
        scores: the task's metrics on the test split.
        diverged: whether the training diverged before it had a finite validation loss.
        curve: the validation loss after each epoch.
        tensors: the parameters and buffers of the network as it was when its validation loss was least.
    """

    parameters: int
    flops: int
    updates: int
    valid: float | None
    scores: Mapping[str, float | None]
    diverged: bool
    curve: tuple[float | None, ...]
    tensors: Mapping[str, Tensor]


def evaluate(trial: Trial, strategy: Strategy, data: Data, check: Callable[[], None] = lambda: None) -> Outcome:
    """Train what the trial names and return the outcome.

    Args:
        trial: what to evaluate.
        strategy: how to train it.
        data: the data of the strategy's task.
        check: is called after each step and may raise an exception in order to stop.
    """
    return train(module_of(trial, strategy, data), strategy, data, updates=trial.updates, seed=trial.seed, check=check)


def train(
    network: nn.Module,
    strategy: Strategy,
    data: Data,
    *,
    updates: int,
    seed: Seed,
    patience: int = PATIENCE,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train a network with the strategy's batches and optimiser, and return the outcome.

    Training stops when the validation loss has not improved for `patience` epochs, or after so many updates; a learning
    rate that falls does so over these. A network without trainable parameters is only measured. The network ends as it was
    when its validation loss was least, or, without a validation split, as it was last. It is then evaluated on the test split, once.

    Args:
        network: an architecture, or any module that maps the inputs of the task to its outputs.
        strategy: how to train it.
        data: the data.
        updates: the largest number of updates of the weights.
        seed: the seed of the order of the examples and of all noise.
        patience: the number of epochs without improvement after which training stops.
        check: is called after each step and may raise an exception in order to stop.
    """
    optimiser = strategy.optimiser
    if optimiser.epochs:
        # the learning rate falls over the epochs of this budget, and not over those of a phase of the search
        optimiser = attrs.evolve(optimiser, epochs=max(1, math.ceil(updates / updates_per_epoch(strategy, data))))
    fresh = Trainer(data, strategy.architect, optimiser, strategy.batch, strategy.device)
    training = Training(network, fresh.optimisers(network))
    best, curve, since = copied(network), list[float | None](), 0
    valid: float | None = None
    diverged, trainable = False, bool(weights_of(network))
    if not trainable and data.validation.size:
        valid = fresh.measure(network)[0]
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
        if valid is None or measured.valid is None or measured.valid < valid:
            best, valid, since = copied(network), measured.valid, 0
    fill(network, best)
    return Outcome(
        **attrs.asdict(predicting(network, data)),
        updates=training.updates,
        valid=valid,
        scores={} if diverged else tested(network, data),
        diverged=diverged,
        curve=tuple(curve),
        tensors=best,
    )


def updates_per_epoch(strategy: Strategy, data: Data) -> int:
    """Return the number of updates of the weights in an epoch."""
    return len(batches(torch.arange(data.train.size), strategy.batch))


def module_of(trial: Trial, strategy: Strategy, data: Data) -> nn.Module:
    """Return the network of a trial with its initial weights."""
    seed = trial.seed("build")
    if isinstance(trial.of, Structure):
        return placed(strategy, build(trial.of, seed))
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


def outcomes(
    trials: Sequence[Trial],
    strategy: Strategy,
    data: Data,
    *,
    workers: int = 1,
    plugins: Plugins | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Evaluate the trials and yield their outcomes, in the order of the trials.

    Args:
        trials: what to evaluate.
        strategy: how to train.
        data: the data of the strategy's task; each worker process loads a copy.
        workers: the number of processes; with 1, everything happens in this one. The outcomes do not depend on it.
        plugins: the plugins that a worker finds the strategy's parts in; needed for more than one.
        check: is called several times a second and may raise an exception in order to stop.
    """
    if workers == 1 or len(trials) < 2:
        for trial in trials:
            with computing(strategy):
                outcome = evaluate(trial, strategy, data, check)
            yield outcome
        return
    assert plugins is not None, "worker processes need the plugins"
    names = [plugin.name for plugin in plugins.found]
    with _pool(min(workers, len(trials)), (strategy.to_toml(), names)) as pool:
        # processes start when the first trials are submitted, and not when the pool is made
        with _main_hidden():
            try:
                futures = [pool.submit(_evaluate, _packed(trial)) for trial in trials]
            except (EOFError, OSError) as error:
                raise RunError(
                    f"no worker process can be started ({type(error).__name__}: {error}); use --workers 1"
                ) from error
        # in the order of the trials, whatever order the workers finish in
        for future in futures:
            yield _awaited(future, check, strategy)


def process_context(module: str = "nasframe.search.evaluate") -> BaseContext:
    """Return the context that starts worker processes: by a fork server where there is one, and afresh elsewhere.

    Args:
        module: the module that the server imports. It has the function that the workers run.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # the server imports torch once, and each worker starts in milliseconds
    context.set_forkserver_preload([module])
    return context


@contextlib.contextmanager
def _pool(workers: int, arguments: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, process_context(), _start, arguments)
    try:
        yield pool
    except BaseException:
        # whoever stops does not wait for trainings that nobody will read
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the caller's main module while worker processes start.

    A worker would import it, although it needs nothing of it, and so run a script that has no `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _awaited(future: Future[bytes], check: Callable[[], None], strategy: Strategy) -> Outcome:
    while not wait([future], timeout=POLL).done:
        check()
    check()
    try:
        return _unpacked(future.result(), strategy)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process ended in the middle of an evaluation; if memory was short, use fewer: --workers 1"
        ) from error


# A worker receives and returns text and bytes only, so that parts need not be picklable.

_work: dict[str, Any] = {}


def _start(strategy: str, names: Sequence[str]) -> None:
    """Prepare a worker: load the strategy; its data are loaded with the first trial."""
    import signal

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # the parent decides when to stop, also after Ctrl-C, which all processes of a terminal receive
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work["plugins"] = _installed(tuple(names))
    _work["strategy"] = Strategy.from_toml(strategy, _work["plugins"])


def _end_with_parent() -> None:
    # a parent that was killed cannot end its workers, and they would wait for its next trial without end
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _installed(names: tuple[str, ...]) -> Plugins:
    found = discover()
    return Plugins(tuple(plugin for plugin in found.found if plugin.name in names))


def _evaluate(packed: str) -> bytes:
    # the data are loaded once in each worker, with the first trial: a large data set need not cross the process boundary
    strategy, plugins = _work["strategy"], _work["plugins"]
    with computing(strategy):
        if "data" not in _work:
            _work["data"] = loaded(strategy)
        values = json.loads(packed)
        structure = values["structure"]
        of = Structure.from_dict(structure, plugins.make) if structure else Reference(**values["reference"])
        outcome = evaluate(Trial(of, values["updates"], Seed(tuple(values["seed"]))), strategy, _work["data"])
    plain = {f.name: getattr(outcome, f.name) for f in attrs.fields(Outcome) if f.name != "tensors"}
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in outcome.tensors.items()}
    return safetensors.torch.save(tensors, {"outcome": json.dumps(plain)})


def _packed(trial: Trial) -> str:
    structure = trial.of.to_dict() if isinstance(trial.of, Structure) else None
    reference = attrs.asdict(trial.of) if isinstance(trial.of, Reference) else None
    return json.dumps({"structure": structure, "reference": reference, "updates": trial.updates, "seed": trial.seed.key})


def _unpacked(data: bytes, strategy: Strategy) -> Outcome:
    # the safetensors format: 8 bytes with the length of the header, the header as JSON, then the tensors
    length = int.from_bytes(data[:8], "little")
    plain = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["outcome"])
    tensors = {name: tensor.to(strategy.device) for name, tensor in safetensors.torch.load(data).items()}
    return Outcome(**{**plain, "curve": tuple(plain["curve"])}, tensors=tensors)
