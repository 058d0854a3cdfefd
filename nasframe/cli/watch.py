"""What a person sees of a search: a live line or plain lines, and what it took; and how it is asked to stop."""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any

import attrs
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nasframe.search.records import Changed, EpochEnded, Event, StageEnded, Stepped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """The search was asked to stop, and is between two things that are wholly done."""


class Stop:
    """While it is entered, the first Ctrl-C or SIGTERM asks for a clean end, and the second one ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Stop here if it was asked for."""
        if self.asked:
            raise Stopped

    def __enter__(self) -> Stop:
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@attrs.define
class Watch:
    """A consumer of events that prints what a person wants to know."""

    console: Console
    progress: Progress | None = None
    valid: str = ""

    def __call__(self, event: Event) -> None:
        """Move the bar at each update; a line at each epoch (where there is no bar), decision and change."""
        if isinstance(event, Stepped):
            self._move(event)
        elif isinstance(event, EpochEnded):
            self.valid = f", valid {event.record['valid']:.4f}" if "valid" in event.record else ""
            if self.progress is None:
                self.say(_epoch(event))
        elif isinstance(event, StageEnded):
            self.say(f"stage {event.record['stage']}: {event.record['decision']}: {event.record['reason']}")
        elif isinstance(event, Changed):
            self.say(_change(event.record))

    def say(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """What goes on now, where the time it takes is not known: in the bar's place, or a line."""
        if self.progress is None:
            self.say(text)
        else:
            self.progress.update(self.progress.task_ids[0], total=None, description=text)

    def _move(self, event: Stepped) -> None:
        if self.progress is not None:
            text = f"stage {event.stage} {event.phase}, epoch {event.epoch}, train {event.loss:.4f}{self.valid}"
            self.progress.update(self.progress.task_ids[0], completed=event.samples, total=event.size, description=text)


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """A watch for this process's standard output."""
    console = Console()
    if not sys.stdout.isatty():
        yield Watch(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield Watch(console, progress)


def _epoch(event: EpochEnded) -> str:
    r = event.record
    place = f"stage {r['stage']} {r['phase']:<6} epoch {r['epoch']:>3}"
    values = {name: r[name] for name in ("train", "valid") if name in r} | r.get("scores", {})
    return f"{place}  updates {r['updates']:>6}  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def _change(record: Mapping[str, Any]) -> str:
    what = [record["change"]]
    if record["kind"] == "grow":
        what += [f"{key}={value}" for key, value in record["request"].items()]
    claimed = f", {record['claim']['kind']}, distance {record['distance']:.3g}" if "claim" in record else ""
    return f"  {' '.join(what)}: {record['why']}{claimed}"


def spent(seconds: float, device: str) -> str:
    """The time that it took in this process, and the most memory that was held: by the process, or on the device."""
    unit = 1 if sys.platform == "darwin" else 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.device(device).type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    return f"{seconds:.1f} s in this process, {held / 2**20:.0f} MiB of memory at most"
