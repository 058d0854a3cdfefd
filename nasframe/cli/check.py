"""`nasframe check`: check parts against the laws of the contract."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from nasframe.cli.tables import show
from nasframe.errors import NasframeError

if TYPE_CHECKING:
    from rich.progress import Progress


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--full", is_flag=True, help="Try many cases of each law.")
@click.option("--law", "laws", multiple=True, metavar="ID", help="Try this law only, such as operation.shape; repeatable.")
@click.option("--replay", metavar="CASE", help="Try the failing case of a report again; with one --law and one NAME.")
@click.option("--list", "listing", is_flag=True, help="List the laws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(
    load: Any, /, names: Sequence[str], full: bool, laws: Sequence[str], replay: str | None, listing: bool, as_json: bool
) -> None:
    """Check parts against the laws of their interfaces: the parts of a distribution or plugin NAME, or the part NAME.

    The report explains each violation. The exit status is 1 if there is one.
    """
    _needed()
    if listing:
        rows = _listed()
        click.echo(json.dumps(rows, indent=1)) if as_json else show(rows)
        return
    if not names:
        raise click.UsageError("give the name of a distribution, a plugin or a part to check; `nasframe plugins` lists them")
    # the code of a case says nothing about the law and the part that it belongs to
    if replay is not None and (len(laws), len(names)) != (1, 1):
        raise click.UsageError(f"--replay tries one case: give one --law and one NAME, not {len(laws)} and {len(names)}")
    # Not at the top of the module: it imports torch and hypothesis, and this module is imported for `nasframe --help`.
    from nasframe.testing.check import FULL, QUICK, planned, tried, versions
    from nasframe.testing.report import Report

    profile = FULL if full else QUICK
    with _progress() as progress:
        plan = planned(load(), names, laws or None)
        outcomes = [*plan.problems]
        for of, law in progress.track(plan.tries):
            # `track` has made the only task, whose description follows the law that is being tried.
            progress.update(progress.task_ids[0], description=f"{law.id} on {of}")
            outcomes.append(tried(of, law, profile, replay))
    # The report is printed as a whole, so that equal failures of several parts are shown once.
    report = Report(profile.name, versions(), tuple(outcomes))
    click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False) if as_json else report.text())
    if not report.ok:
        sys.exit(1)


def _needed() -> None:
    """Refuse to check without the packages that checking needs."""
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError as error:
        raise NasframeError('checking parts needs hypothesis: pip install ".[testing]" in the checkout of nasframe') from error


def _lawful() -> tuple[str, ...]:
    """Return the kinds of parts that have laws."""
    from nasframe.plugins import KINDS

    return ("part", *KINDS)


def _listed() -> list[dict[str, str]]:
    from nasframe.testing.law import laws_of

    return [
        {"law": law.id, "statement": law.statement} for law in dict.fromkeys(law for kind in _lawful() for law in laws_of(kind))
    ]


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on standard error if that is a terminal; what a part prints goes there, too, so that the report stays whole."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        contextlib.redirect_stdout(sys.stderr),
    ):
        yield progress
