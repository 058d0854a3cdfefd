"""What a run computes on: its device, its threads, and torch's defaults while it computes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from nasframe.errors import StrategyError
from nasframe.interfaces.task import Data
from nasframe.search.strategy import Strategy


@contextlib.contextmanager
def computing(strategy: Strategy) -> Iterator[None]:
    """Compute with the strategy's threads and torch's defaults, whatever the caller has set; restore these afterwards.

    A default dtype or device, autocast or a disabled gradient of the user's process would change the results without a word.
    On an accelerator the algorithms are deterministic, so that the same seed gives the same bytes; torch warns about an operator
    that has no deterministic form.
    """
    # What belongs to the process of the user is put back afterwards, also after an error.
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(strategy.threads)
    # Not the dtype of the strategy: networks are initialised in float32 and then converted, so that one seed gives the same
    # initial weights in every dtype.
    torch.set_default_dtype(torch.float32)
    kind = torch.device(strategy.device).type
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":  # every call of torch is slower within this context
                stack.enter_context(torch.device("cpu"))
            if kind != "cpu":
                stack.enter_context(_deterministic())
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False  # it would choose the algorithm by measured times
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark


def loaded(strategy: Strategy) -> Data:
    """Return the data of the strategy's task on its device.

    Raises:
        StrategyError: if the device cannot be used here.
    """
    try:
        # A device that is missing is reported here, before the data are read.
        torch.empty(0, device=strategy.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise StrategyError(f"device {strategy.device!r} cannot be used here: {why}; 'cpu' always can") from error
    return strategy.task.load(torch.device(strategy.device), strategy.torch_dtype)
