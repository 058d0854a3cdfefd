"""Print rows as tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as tables, one for each run of rows with the same columns; lists and mappings are left to the JSON."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # a pipe has no width, and rich would break lines at 80 columns
    console = Console(width=None if sys.stdout.isatty() else 200)
    table, columns = None, None
    for row in rows:
        shown = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
        # A reproduction yields rows of several kinds, one kind after the other.
        if [*shown] != columns:
            if table is not None:
                console.print(table)
            columns = [*shown]
            table = Table(*columns, box=None)
        assert table is not None
        table.add_row(*(escape(_text(value)) for value in shown.values()))
    if table is not None:
        console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
