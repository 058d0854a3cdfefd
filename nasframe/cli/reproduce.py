"""`nasframe reproduce`: compute results of papers again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nasframe.cli.flags import OptionsCommand, PartType, with_options
from nasframe.cli.tables import show

if TYPE_CHECKING:
    from nasframe.plugins import Plugins


@click.command(
    cls=OptionsCommand,
    epilog="Each option of the reproduction is a flag, too; `nasframe plugins NAME` lists them.",
)
@click.argument("what", type=PartType(), required=False, metavar="NAME[:OPTION=VALUE,...]")
@click.option("--list", "listing", is_flag=True, help="List the results that can be computed again.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder for rows and pictures.  [default: runs/reproduce/NAME]"
)
@click.pass_obj
def reproduce(
    load: Any, /, what: dict[str, Any] | None, listing: bool, as_json: bool, out: Path | None, options: dict[str, str | None]
) -> None:
    """Compute a result of a paper again, and print it beside the number of the paper.

    A second call with the same folder goes on from what is there.
    """
    from nasframe.interfaces.reproduction import Reproduction
    from nasframe.run.commits import write_errors, write_file

    plugins: Plugins = load()
    if listing or what is None:
        parts: Iterable[Any] = (plugins.get(Reproduction.kind, name) for name in plugins.names(Reproduction.kind))
        rows = [{"name": part.name, "about": part.about} for part in parts]
        click.echo(json.dumps(rows, indent=1)) if as_json else show(rows)
        return
    described = with_options({Reproduction.kind: what}, options, plugins)
    reproduction = plugins.make(Reproduction.kind, described[Reproduction.kind])
    folder = out or Path("runs") / "reproduce" / reproduction.name
    # Before the hours of computing: a folder that cannot be made is refused at once.
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Messages go to standard error, so that standard output is the JSON alone.
    rows = list(reproduction.rows(folder, lambda line: click.echo(line, err=True)))
    # Before the pictures: a fault in drawing must not cost the results of hours.
    write_file(folder / "rows.json", json.dumps(rows, indent=1, allow_nan=False).encode())
    with write_errors(folder):
        pictures = reproduction.draw(rows, folder)
    if as_json:
        click.echo(json.dumps(rows, indent=1, allow_nan=False))
        return
    show(rows)
    for path in (folder / "rows.json", *pictures):
        click.echo(f"written: {path}")
