"""Show the progress of a search, the time and memory that it took, and stop it when the user asks for it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

import attrs
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nasframe.records import Changed, EpochEnded, Evaluated, Finished, Record, Refused, StageEnded, Stepped, TrialEnded
from nasframe.run.summary import cut_after, difference_of, remarks_of, written

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):  # not an error: the user asked for it, and `except Exception` must not swallow it
    """Raised where a run stops because the user asked for it."""


class Stop:
    """While it is entered, the first Ctrl-C or SIGTERM requests a clean stop, and the second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self.waiting = True

    def check(self) -> None:
        """Raise Stopped if a stop was requested."""
        if self.requested:
            raise Stopped

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Stopped from the signal itself while the context is open, for work that may be broken off anywhere."""
        # The flag first: a signal that comes before it is seen by `check`, and one that comes after it raises by itself.
        self.waiting = False
        try:
            self.check()
            yield
        finally:
            self.waiting = True

    def __enter__(self) -> Stop:
        # the handlers of the caller come back at the end: `main` may run within another program
        self.before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        # Normally only a flag: the loop looks at it between two records, where the state is complete and can be committed.
        self.requested = True
        if not self.waiting:
            raise Stopped


@attrs.define
class Watch:
    """A consumer of events that prints the progress of a search."""

    console: Console
    progress: Progress | None = None
    valid: str = ""

    def __call__(self, event: Record) -> None:
        """Move the bar at each update; print a line for each epoch (where there is no bar), decision and change."""
        if isinstance(event, Stepped):
            self._move(event)
        elif isinstance(event, EpochEnded):
            self.valid = f", valid {written(event.valid)}" if event.valid is not None else ""
            if self.progress is None:
                self.say(_epoch(event))
        elif isinstance(event, TrialEnded):
            self._show(f"trials, {event.number + 1} evaluated")
            self.say(_trial(event))
            if event.cut:
                self.say(f"  warning: {cut_after(event)}")
        elif isinstance(event, StageEnded):
            self.say(f"stage {event.stage}: {event.decision}: {event.reason}")
        elif isinstance(event, Refused):
            self.say(f"  {event.by}: no growth: {event.why}")
        elif isinstance(event, Changed):
            self.say(_change(event))
            for remark in remarks_of(event):
                self.say(f"  warning: {remark}")
        elif isinstance(event, Finished):
            self._show("comparing networks")
        elif isinstance(event, Evaluated):
            self._show(f"comparing networks, {event.number + 1} evaluated")
            loss = "diverged" if event.diverged else "" if event.valid is None else f"valid {written(event.valid)}"
            self.say(f"  evaluated {event.number}: {event.name}  {loss}{'  (the best so far)' if event.best else ''}")

    def say(self, text: str) -> None:
        """Print a line of text above the progress bar."""
        # As it is: rich would read brackets as its markup, colour numbers, and break long lines.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self, text: str, completed: int = 0, total: int | None = None) -> None:
        """Show what is being done in the bar, which moves to and fro where there is no total."""
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=completed, total=total, description=text)

    def _move(self, event: Stepped) -> None:
        loss = "diverged" if event.loss is None else written(event.loss)
        self._show(
            f"stage {event.stage} {event.phase}, epoch {event.epoch}, train {loss}{self.valid}", event.samples, event.size
        )


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Yield a watch that prints on standard output, with a bar where that is a terminal."""
    console = Console()
    # A pipe or a file gets a line for each epoch; a bar would fill it with control characters.
    if not sys.stdout.isatty():
        yield Watch(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield Watch(console, progress)


def _epoch(event: EpochEnded) -> str:
    place = f"stage {event.stage} {event.phase:<6} epoch {event.epoch:>3}"
    values = {"train": event.train, "valid": event.valid, **event.scores}
    shown = "  ".join(f"{name} {written(value)}" for name, value in values.items() if value is not None)
    return f"{place}  updates {event.updates:>6}  {'diverged' if event.diverged else shown}"


def _trial(event: TrialEnded) -> str:
    values = {"valid": event.valid, **event.scores}
    shown = "  ".join(f"{name} {written(value)}" for name, value in values.items() if value is not None)
    parent = "" if event.parent is None else f"  parent {event.parent}"
    best = "  (the best so far)" if event.best else ""
    place = f"trial {event.number:>4}  budget {event.budget}  updates {event.updates:>6}"
    return f"{place}  {'diverged' if event.valid is None else shown}{parent}{best}"


def _change(event: Changed) -> str:
    # The request says where the network grew, which the name of the morphism does not.
    what = [event.by]
    if event.change == "grow":
        what += [f"{key}={value}" for key, value in event.request.items()]
    sites = f" ({difference})" if event.change == "edit" and (difference := difference_of(event)) else ""
    claimed = f", {event.claim['kind']}, distance {event.distance:.3g}" if event.claim and event.distance is not None else ""
    gained = ""
    if event.predicted is not None and event.realised is not None:
        gained = f", gain {event.realised:.3g} (predicted {event.predicted:.3g})"
    return f"  {' '.join(what)}: {event.why}{sites}{claimed}{gained}"


def spent(seconds: float, device: str) -> str:
    """Return a line with the time that the search took in this process and the most memory that was held."""
    # Time and memory are printed and not kept: the files of a run have the same bytes on a slower machine.
    held = peak_memory(device)
    memory = "" if held is None else f", {held / 2**20:.0f} MiB of memory at most"
    return f"{seconds:.1f} s in this process{memory}"


def peak_memory(device: str) -> int | None:
    """Return the most memory that was held on the device, in bytes: on the CPU by the process; None where it is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # POSIX only
    except ModuleNotFoundError:
        return None
    # ru_maxrss is in bytes on macOS and in KiB on Linux
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
