"""Measuring for a decision: each measured value is stored in the state and is an event, and is not measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from numbers import Real
from typing import Any, TypeVar

from torch import Tensor

from nasframe.errors import StrategyError
from nasframe.records import Measured, Record
from nasframe.search.context import Context, Missing, stored
from nasframe.search.state import State
from nasframe.search.trainer import Trainer
from nasframe.seeds import Seed

T = TypeVar("T")


def asked(
    question: Callable[[Context], T],
    by: str,
    state: State,
    trainer: Trainer,
    *,
    seed: Seed,
    progress: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    currency: str = "stated",
) -> Generator[Record, None, tuple[T, Mapping[str, Tensor]]]:
    """Return the answer of a part that measures, and the remembered values that it used; yield a record of each new value.

    The part is called again after each value, with a new context. Whenever a record is yielded, the state is complete: a search
    that continues from it has the values so far. They are dropped when a record of the decision is kept (`State.keep`).

    Args:
        question: calls the part with a context.
        by: names the part among those that are asked for the same decision.
        state: the state of the run.
        trainer: trains the network of the state.
        seed: the seed of this measurement.
        progress: the completed fraction of the phase; None if it has no fixed length.
        clock: a function that returns the seconds of the run so far.
        currency: what the search compares proposals by.

    Raises:
        StrategyError: if the part does not ask for the same values, in the same order, in each call.
    """
    # A part is an ordinary function, and not a generator, so that it is easy to write. It is run from its beginning for
    # each new value; the values that are known are then returned at once. In this way a search can be interrupted between
    # any two measurements.
    before: list[str] = []  # the keys that the last call of the part asked for
    while True:
        context = Context(
            history=tuple(state.history),
            lineage=tuple(state.lineage),
            position=Record(**state.position),
            progress=progress,
            seed=seed,
            clock=clock,
            currency=currency,
            trainer=trainer,
            training=state,
            measured=state.measured.get(by, {}),
        )
        try:
            # the same draws in each call, so that a part asks for the same values
            with seed("asked").as_global(trainer.device):
                answer = question(context)
            _check_order(by, before, [*context.evidence])
            return answer, context.evidence
        # The part has ended here, wherever in its call it was. Nothing of it is kept but the keys.
        except Missing as missing:
            asks = [*context.evidence, missing.key]
            # otherwise it might ask for new values for ever
            _check_order(by, before, asks)
            before = asks
            key, values = _measure(missing, seed, trainer.device)
        known = state.measured.setdefault(by, {})
        if taken := values.keys() & known.keys():
            raise StrategyError(
                f"the {by} measures {key!r}, and has another value under the key {min(taken)!r}; use a different key for each measurement"
            )
        known.update(values)
        value = values[key]
        yield Measured(**state.position, by=by, key=key, value=None if value.dim() else float(value))


def _check_order(by: str, before: list[str], now: list[str]) -> None:
    if now[: len(before)] != before:
        # None behind the last one is for a part that asked for fewer values than before
        first = next((key for key, other in zip(before, [*now, None], strict=False) if key != other), before[-1])
        raise StrategyError(
            f"the {by} asked for the value {first!r} in one call and not in the next; a part must ask for the same values in the same "
            "order in each call, so let it draw random numbers from `context.seed` and go through sets in a fixed order"
        )


def _measure(missing: Missing, seed: Seed, device: str) -> tuple[str, Mapping[str, Tensor]]:
    """Return the key and the values of what is missing; if measuring it needs another value, of that one."""
    # A measurement may itself ask for remembered values. The innermost one is measured first, and stored; the outer ones
    # are asked for again in the next round.
    waiting: list[str] = []
    while True:
        if missing.key in waiting:
            raise StrategyError(f"measuring {missing.key!r} needs {missing.key!r} itself; give each measured value its own key")
        waiting.append(missing.key)
        try:
            with seed("measured", missing.key).as_global(device):
                found = missing.make()
                if not isinstance(found, Mapping):
                    return missing.key, {missing.key: stored(_value(missing.key, found))}
                values = {f"{missing.key}/{name}": stored(_value(missing.key, value)) for name, value in found.items()}
                return missing.key, {missing.key: stored(len(values)), **values}
        except Missing as inner:
            missing = inner


def _value(key: str, found: Any) -> float | Tensor:
    if isinstance(found, Tensor):
        return found
    if isinstance(found, Real):
        return float(found)
    raise StrategyError(
        f"measuring {key!r} returned a value of the type {type(found).__name__}; let it return a number or a tensor, or, for "
        "`remember_all`, a mapping from names to numbers or tensors"
    )
