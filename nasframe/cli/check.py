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
@click.option("--full", is_flag=True, help="Many cases of each law, not a few.")
@click.option("--law", "laws", multiple=True, metavar="ID", help="Try this law alone, as operation.shape; repeatable.")
@click.option("--replay", metavar="CASE", help="Try the case that broke the law, as it was told; with one --law and one NAME.")
@click.option("--list", "listing", is_flag=True, help="The laws, and what they say.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def check(
    load: Any, /, names: Sequence[str], full: bool, laws: Sequence[str], replay: str | None, listing: bool, as_json: bool
) -> None:
    """Hold parts to the laws of the contract: those of a distribution or a plugin, or a part, called NAME.

    What is broken is told in words; the exit status is 1 where anything is.
    """
    _needed()
    if listing:
        rows = _listed()
        click.echo(json.dumps(rows, indent=1)) if as_json else show(rows)
        return
    if not names:
        raise click.UsageError(
            "say what to check: the name of a distribution, a plugin or a part; `nasframe plugins` lists them"
        )
    if replay is not None and (len(laws), len(names)) != (1, 1):
        raise click.UsageError(f"--replay tries one case again: give one --law and one NAME, not {len(laws)} and {len(names)}")
    from nasframe.testing.check import FULL, QUICK, planned, tried, versions
    from nasframe.testing.report import Report

    profile = FULL if full else QUICK
    with _progress() as progress:
        plan = planned(load(), names, laws or None)
        outcomes = [*plan.told]
        for of, law in progress.track(plan.tries):
            progress.update(progress.task_ids[0], description=f"{law.id} on {of}")
            outcomes.append(tried(of, law, profile, replay))
    report = Report(profile.name, versions(), tuple(outcomes))
    click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False) if as_json else report.text())
    if not report.ok:
        sys.exit(1)


def _needed() -> None:
    """Refuse without what the kit needs beyond nasframe."""
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError as error:
        raise NasframeError('checking parts needs hypothesis: pip install "nasframe[testing]"') from error


def _lawful() -> tuple[str, ...]:
    """Return the kinds of parts of which there are laws."""
    from nasframe.plugins import KINDS

    return ("part", *KINDS)


def _listed() -> list[dict[str, str]]:
    from nasframe.testing.law import laws_of

    return [{"law": law.id, "says": law.says} for law in dict.fromkeys(law for kind in _lawful() for law in laws_of(kind))]


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A line on the standard error where a person looks at it; the standard output is the report's, whatever a part prints."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        contextlib.redirect_stdout(sys.stderr),
    ):
        yield progress
