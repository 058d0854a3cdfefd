"""The summary of a run: the found cell, how it was found, and how it compares."""

from __future__ import annotations

import json
from typing import Any

from nasframe.run import checkpoint
from nasframe.run.compare import FOUND, INHERITED, Row
from nasframe.run.folder import Folder
from nasframe.search.search import Search


def verdict(rows: list[Row], metric: str, higher_is_better: bool) -> str:
    """One sentence: the found network, trained anew, against the best of the references."""
    found = next(r for r in rows if r.name == FOUND)
    references = [r for r in rows if r.name not in (FOUND, INHERITED)]
    sign = -1 if higher_is_better else 1
    best = min(references, key=lambda r: sign * r.mean(metric))
    wins = sign * found.mean(metric) < sign * best.mean(metric)
    return (
        f"The found cell {'beats' if wins else 'loses to'} {best.name}, the best reference: "
        f"test {metric} {_value(found, metric)} against {_value(best, metric)}."
    )


def write(folder: Folder, search: Search, rows: list[Row]) -> str:
    """Write summary.json and summary.md; the text of the latter."""
    score = search.data.score
    first = verdict(rows, score, bool(search.data.metrics()[score].higher_is_better))
    text = "\n".join([first, "", *_table(rows, list(rows[0].values)), "", *_found(search), ""])
    plain: dict[str, Any] = {
        "verdict": first,
        "rows": [row.to_dict() for row in rows],
        "updates": search.state.updates,
        "counts": search.network.count(),
        "operations": operations(search),
    }
    checkpoint.write_file(folder.path / "summary.json", json.dumps(plain, indent=1, allow_nan=False).encode())
    checkpoint.write_file(folder.path / "summary.md", text.encode())
    return text


def operations(search: Search) -> dict[str, str]:
    """The operation of each site."""
    return {a: " + ".join(c.operation.name for c in s.candidates) for a, s in search.network.structure.sites()}


def _table(rows: list[Row], metrics: list[str]) -> list[str]:
    seeds = max(len(r.updates) for r in rows)
    lines = [
        f"On the test part, mean and standard error over {seeds} seeds; all trained for at most as many updates as the search:",
        "",
        f"| network | parameters | updates | {' | '.join(f'test {m}' for m in metrics)} |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in metrics)} |",
    ]
    for row in rows:
        updates = f"{sum(row.updates) / len(row.updates):.0f}"
        lines.append(f"| {row.name} | {row.parameters} | {updates} | {' | '.join(_value(row, m) for m in metrics)} |")
    return lines


def _found(search: Search) -> list[str]:
    state, counts = search.state, search.network.count()
    folded = next((r["request"] for r in state.lineage if r["change"] == "fold"), None)
    gates = f" Gates folded: {_names(folded['folded'])}; kept: {_names(folded['kept'])}." if folded else ""
    return [
        "The found cell:",
        "",
        *(f"- {address}: {names}" for address, names in operations(search).items()),
        "",
        f"The search took {state.updates} updates and grew {state.stage} times. Parameters: "
        + ", ".join(f"{n} {role}" for role, n in counts.items())
        + f".{gates}",
    ]


def _names(addresses: list[str]) -> str:
    return ", ".join(addresses) or "none"


def _value(row: Row, metric: str) -> str:
    error = row.error(metric)
    return f"{row.mean(metric):.4f}" + (f" ± {error:.4f}" if error is not None else "")
