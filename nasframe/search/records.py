"""What the loop yields. At each event the state is whole: whatever is written then can be resumed from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Event:
    """Where the search stands."""

    stage: int
    phase: str
    epoch: int
    updates: int


@attrs.frozen
class Stepped(Event):
    """One update of the weights; `samples` of the epoch's `size` examples are behind it."""

    samples: int
    size: int
    loss: float


@attrs.frozen
class EpochEnded(Event):
    """An epoch is over and validated; the record is the history's."""

    record: Mapping[str, Any]


@attrs.frozen
class StageEnded(Event):
    """A stage is over and judged; the record is the history's."""

    record: Mapping[str, Any]


@attrs.frozen
class Changed(Event):
    """The structure changed; the record is the lineage's."""

    record: Mapping[str, Any]


@attrs.frozen
class Finished(Event):
    """The search is over: the state's network is the architecture, with its weights and its validation loss, if there is one."""

    valid: float | None
