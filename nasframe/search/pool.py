"""A pool of processes that evaluates trials; with one worker, they are evaluated in this process.

A result is a function of the trial and the strategy alone, so that it does not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.context import BaseContext
from typing import Any

import attrs
import safetensors.torch
from torch import Tensor

from nasframe.errors import RunError
from nasframe.interfaces.evaluator import Outcome, Trained
from nasframe.interfaces.task import Data
from nasframe.plugins import Plugins, discover
from nasframe.search.device import computing, loaded
from nasframe.search.evaluate import Bench, Evaluation, Reference, Trial, evaluate
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.space import Space
from nasframe.structure.structure import Structure

#: what a training imports when it begins: torch's optimisers import the compiler, and tasks the metrics
LATE = ("torch._dynamo", "torchmetrics")
#: seconds between two looks at whether the user wants to stop
POLL = 0.2

Result = Evaluation | Outcome
#: the classes of results, by name
RESULTS: Mapping[str, type[Evaluation] | type[Outcome]] = {cls.__name__: cls for cls in (Evaluation, Outcome)}


@attrs.frozen(eq=False)
class Workers:
    """Where trials are evaluated.

    Attributes:
        count: the number of processes. The results do not depend on it.
        plugins: the plugins that a worker process finds the strategy's parts in; needed for more than one process.
        check: is called several times a second and may raise an exception in order to stop.
    """

    count: int = 1
    plugins: Plugins | None = None
    check: Callable[[], None] = lambda: None


class Pool:
    """Evaluates trials, in the order in which they are submitted; the results arrive in any order.

    Use it in a `with` block. Processes start when the first trial is submitted.

    Args:
        strategy: how to train; its evaluator evaluates the trials of a search.
        data: the data of the strategy's task; each worker process loads a copy when it needs them.
        workers: the number of processes; with 1, everything happens in this one.
        plugins: the plugins that a worker finds the strategy's parts in; needed for more than one.
        space: the space of the search, for trials of a search.
        check: is called several times a second and may raise an exception in order to stop.
    """

    def __init__(
        self,
        strategy: Strategy,
        data: Data,
        *,
        workers: int = 1,
        plugins: Plugins | None = None,
        space: Space | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._strategy, self._data, self._check, self._space = strategy, data, check, space
        self._executor: ProcessPoolExecutor | None = None
        #: what has been submitted and has not been returned: trials of this process, or futures of the others
        self._trials: dict[int, Trial] = {}
        self._futures: dict[Future[bytes], int] = {}
        if workers > 1:
            assert plugins is not None, "worker processes need the plugins"
            names = [plugin.name for plugin in plugins.found]
            supernet = None if space is None else space.supernet.to_json()
            self._executor = ProcessPoolExecutor(workers, process_context(), _start, (strategy.to_toml(), names, supernet))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is None:
            return
        if kind is not None or self._futures:
            # Whoever stops does not wait for trainings that nobody will read. The executor has no public way to end its processes
            # before their work is done.
            for process in list((self._executor._processes or {}).values()):
                process.terminate()
        self._executor.shutdown(wait=kind is None and not self._futures, cancel_futures=True)

    @property
    def outstanding(self) -> frozenset[int]:
        """The numbers of the trials whose results have not been returned."""
        return frozenset(self._trials) | frozenset(self._futures.values())

    def submit(self, number: int, trial: Trial) -> None:
        """Submit a trial, whose result a later call of `next` returns.

        Args:
            number: a number by which its result is known.
            trial: what to evaluate.

        Raises:
            RunError: if no process can be started.
        """
        if self._executor is None:
            self._trials[number] = trial
            return
        # processes start when the first trials are submitted, and not when the pool is made
        with _main_hidden():
            try:
                self._futures[self._executor.submit(_evaluate, _packed(trial))] = number
            except (EOFError, OSError) as error:
                raise RunError(
                    f"no worker process can be started ({type(error).__name__}: {error}); use --workers 1"
                ) from error

    def next(self) -> tuple[int, Any]:
        """Wait for a result and return it with the number of its trial.

        The result is an `Outcome` for a trial of a search, and an `Evaluation` for one of a comparison.

        Raises:
            RunError: if a worker process ended.
        """
        if self._executor is None:
            number = next(iter(self._trials))
            with computing(self._strategy):
                result = _evaluated(self._trials[number], self._strategy, self._space, lambda: self._data, self._check)
            del self._trials[number]
            return number, result
        while not (done := wait(self._futures, timeout=POLL, return_when=FIRST_COMPLETED).done):
            self._check()
        self._check()
        # Of several that are done, the one with the smallest number, for which the others wait.
        future = min(done, key=lambda f: self._futures[f])
        number = self._futures.pop(future)
        try:
            return number, _unpacked_result(future.result(), self._strategy.device)
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process ended in the middle of an evaluation; if memory was short, use fewer: --workers 1"
            ) from error


def evaluations(
    trials: Sequence[Trial],
    strategy: Strategy,
    data: Data,
    *,
    workers: int = 1,
    plugins: Plugins | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Evaluation]:
    """Evaluate the trials of a comparison and yield the results, in the order of the trials.

    Args:
        trials: what to evaluate.
        strategy: how to train.
        data: the data of the strategy's task; each worker process loads a copy.
        workers: the number of processes; with 1, everything happens in this one. The results do not depend on it.
        plugins: the plugins that a worker finds the strategy's parts in; needed for more than one.
        check: is called several times a second and may raise an exception in order to stop.
    """
    # The results are yielded in the order of the trials, whatever the order of their arrival: a run's records do not depend
    # on timing.
    arrived: dict[int, Evaluation] = {}
    with Pool(strategy, data, workers=max(1, min(workers, len(trials))), plugins=plugins, check=check) as pool:
        for number, trial in enumerate(trials):
            pool.submit(number, trial)
        for number in range(len(trials)):
            while number not in arrived:
                other, result = pool.next()
                arrived[other] = result
            yield arrived.pop(number)


def process_context(module: str = "nasframe.search.pool") -> BaseContext:
    """Return the context that starts worker processes: by a fork server where there is one, and afresh elsewhere.

    Args:
        module: the module that the server imports. It has the function that the workers run.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports everything once, and a worker that is forked from it starts in milliseconds.
    # Plugins are left to the workers: code of others may start threads, which a fork does not copy.
    context.set_forkserver_preload([module, *LATE])
    return context


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


def _evaluated(
    trial: Trial, strategy: Strategy, space: Space | None, data: Callable[[], Data], check: Callable[[], None]
) -> Result:
    if not trial.search:
        return evaluate(trial, strategy, data(), check)
    assert space is not None, "a trial of a search needs the space"
    assert isinstance(trial.of, Structure), "a trial of a search is one of an architecture"
    bench = Bench(strategy, space, data, check)
    return strategy.evaluator.evaluate(trial.of, trial.updates, trial.seed, trial.parent, bench)


# A worker receives and returns text and bytes only, so that parts need not be picklable.

# What a worker process holds between trials; in the process of the caller it stays empty.
_work: dict[str, Any] = {}


def _start(strategy: str, names: Sequence[str], supernet: str | None) -> None:
    """Prepare a worker: load the strategy; its data are loaded by the first trial that needs them."""
    import signal

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # the parent decides when to stop, also after Ctrl-C, which all processes of a terminal receive
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plugins = _work["plugins"] = _installed(tuple(names))
    made = _work["strategy"] = Strategy.from_toml(strategy, plugins)
    if supernet is not None:
        _work["space"] = made.backbone.space(Structure.from_json(supernet, plugins.make))


def _end_with_parent() -> None:
    # a parent that was killed cannot end its workers, and they would wait for its next trial without end
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # `sys.exit` would end this thread alone, and the training in the main thread would go on
        os._exit(1)


@cache
def _installed(names: tuple[str, ...]) -> Plugins:
    found = discover()
    return Plugins(tuple(plugin for plugin in found.found if plugin.name in names))


def _evaluate(packed: bytes) -> bytes:
    strategy = _work["strategy"]
    with computing(strategy):
        # Nothing to check: the parent stops a worker by ending its process.
        result = _evaluated(_unpacked(packed, _work["plugins"]), strategy, _work.get("space"), _loaded, lambda: None)
    plain = {f.name: getattr(result, f.name) for f in attrs.fields(type(result)) if f.name != "tensors"}
    return _with_tensors(result.tensors, {"class": type(result).__name__, "fields": plain})


def _loaded() -> Data:
    # once for each process, however many trials it evaluates
    if "data" not in _work:
        _work["data"] = loaded(_work["strategy"])
    data: Data = _work["data"]
    return data


def _packed(trial: Trial) -> bytes:
    structure = trial.of.to_dict() if isinstance(trial.of, Structure) else None
    reference = attrs.asdict(trial.of) if isinstance(trial.of, Reference) else None
    plain = {"structure": structure, "reference": reference, "updates": trial.updates, "seed": trial.seed.key}
    plain |= {"search": trial.search, "parent": None if trial.parent is None else trial.parent.structure.to_dict()}
    return _with_tensors({} if trial.parent is None else trial.parent.tensors, plain)


def _unpacked(data: bytes, plugins: Plugins) -> Trial:
    plain, tensors = _plain(data), safetensors.torch.load(data)

    def structure(name: str) -> Structure:
        return Structure.from_dict(plain[name], plugins.make)

    of = structure("structure") if plain["structure"] else Reference(**plain["reference"])
    parent = Trained(structure("parent"), tensors) if plain["parent"] else None
    return Trial(of, plain["updates"], Seed(tuple(plain["seed"])), plain["search"], parent)


def _unpacked_result(data: bytes, device: str) -> Result:
    plain = _plain(data)
    tensors = {name: tensor.to(device) for name, tensor in safetensors.torch.load(data).items()}
    # JSON has no tuples; the only list of a result is a tuple, the curve
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain["fields"].items()
    }
    return RESULTS[plain["class"]](**values, tensors=tensors)


def _with_tensors(tensors: Mapping[str, Tensor], plain: Any) -> bytes:
    # safetensors refuses tensors that share memory, and takes metadata as text only
    values = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(values, {"plain": json.dumps(plain)})


def _plain(data: bytes) -> Any:
    # The header of the safetensors format: its length in 8 bytes, then JSON. `safetensors.torch.load` does not return the
    # metadata of bytes.
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["plain"])
