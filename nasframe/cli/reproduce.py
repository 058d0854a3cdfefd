"""`nasframe reproduce`: results of papers, made again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nasframe.cli.flags import Spec
from nasframe.interfaces.reproduction import Reproduction
from nasframe.plugins import Plugins
from nasframe.run.commits import write_file


@click.command()
@click.argument("what", type=Spec(), required=False, metavar="NAME[:KEY=VALUE,...]")
@click.option("--list", "listing", is_flag=True, help="What can be made again.")
@click.option("--json", "as_json", is_flag=True, help="The rows as JSON.")
@click.option("--trials", type=int, help="Independent trials, where there are several.")
@click.option("--jobs", type=int, help="Trials side by side, where there are several.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="The folder of data that cannot be shipped, where some are needed."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where rows and pictures go.  [default: runs/reproduce/NAME]")
@click.pass_obj
def reproduce(
    load: Any, /, what: dict[str, Any] | None, listing: bool, as_json: bool, out: Path | None, **options: Any
) -> None:
    """Make a result of a paper again, and set it beside what the paper says.

    Started again with the same folder, it goes on from what is there.
    """
    plugins: Plugins = load()
    if listing or what is None:
        parts: Iterable[Any] = (plugins.get(Reproduction.kind, name) for name in plugins.names(Reproduction.kind))
        rows = [{"name": part.name, "about": part.about} for part in parts]
        click.echo(json.dumps(rows, indent=1)) if as_json else show(rows)
        return
    given = {key: str(value) if isinstance(value, Path) else value for key, value in options.items() if value is not None}
    reproduction = plugins.make(Reproduction.kind, what | given)
    folder = out or Path("runs") / "reproduce" / reproduction.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(reproduction.rows(folder, lambda line: click.echo(line, err=True)))
    write_file(folder / "rows.json", json.dumps(rows, indent=1, allow_nan=False).encode())
    pictures = reproduction.draw(rows, folder)
    if as_json:
        click.echo(json.dumps(rows, indent=1, allow_nan=False))
        return
    show(rows)
    for path in (folder / "rows.json", *pictures):
        click.echo(f"written: {path}")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as tables, one for each run of rows with the same columns; what is long or nested is left to the JSON."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table, columns = None, None
    for row in rows:
        shown = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
        if [*shown] != columns:
            if table is not None:
                console.print(table)
            columns = [*shown]
            table = Table(*columns, box=None)
        assert table is not None
        table.add_row(*map(_text, shown.values()))
    if table is not None:
        console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
