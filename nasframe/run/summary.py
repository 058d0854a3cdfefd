"""The summary of a run: the found cell, how it was found or trained, and how it compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from nasframe.interfaces.part import label
from nasframe.run import commits as checkpoint
from nasframe.run.compare import FOUND, INHERITED, RETRAINED, Row, predicting, searched
from nasframe.run.folder import Folder
from nasframe.search.search import Search
from nasframe.structure.structure import Structure


def verdict(rows: list[Row], metric: str, higher_is_better: bool) -> str:
    """One sentence: the found cell, trained anew, against the best of all others."""
    found = next(r for r in rows if r.name in (FOUND, RETRAINED))
    others = [r for r in rows if r.name not in (FOUND, RETRAINED, INHERITED)]
    if not others:
        return f"The found cell: test {metric} {_value(found, metric)}."
    sign = -1 if higher_is_better else 1
    best = min(others, key=lambda r: sign * r.mean(metric))
    wins = sign * found.mean(metric) < sign * best.mean(metric)
    return (
        f"The found cell {'beats' if wins else 'does not beat'} the best of the others ({best.name}): "
        f"test {metric} {_value(found, metric)} against {_value(best, metric)}."
    )


def write(folder: Folder, search: Search, rows: list[Row]) -> str:
    """Write summary.json and summary.md; the text of the latter."""
    score, network = search.data.score, search.network
    first = verdict(rows, score, bool(search.data.metrics()[score].higher_is_better))
    plain: dict[str, Any] = {
        "verdict": first,
        "rows": [row.to_dict() for row in rows],
        "updates": search.state.updates,
        "counts": network.count(),
        "prediction": attrs.asdict(predicting(network, search.data)),
        "operations": operations(network.structure),
    }
    how = _search(search) if searched(search) else f"It was trained for {search.state.updates} updates."
    lines = [
        first,
        "",
        *_table(rows, _heading(search, rows)),
        "",
        "The found cell:",
        "",
        *(f"- {address}: {names}" for address, names in plain["operations"].items()),
        "",
        f"{how} {_size(plain)}",
        "",
    ]
    text = "\n".join(lines)
    checkpoint.write_file(folder.path / "summary.json", json.dumps(plain, indent=1, allow_nan=False).encode())
    checkpoint.write_file(folder.path / "summary.md", text.encode())
    return text


def operations(structure: Structure) -> dict[str, str]:
    """The operation of each site."""
    return {a: " + ".join(label(c.operation) for c in s.candidates) for a, s in structure.sites()}


def _heading(search: Search, rows: list[Row]) -> str:
    if not searched(search):
        return "On the test part:"
    seeds = max(len(r.updates) for r in rows)
    return (
        f"On the test part, mean and standard error over {seeds} seeds; all trained for at most as many updates as the search:"
    )


def _table(rows: list[Row], heading: str) -> list[str]:
    metrics = list(rows[0].values)
    lines = [
        heading,
        "",
        f"| network | parameters | updates | {' | '.join(f'test {m}' for m in metrics)} |",
        f"| --- | ---: | ---: | {' | '.join('---:' for _ in metrics)} |",
    ]
    for row in rows:
        updates = f"{sum(row.updates) / len(row.updates):.0f}"
        lines.append(f"| {row.name} | {row.parameters} | {updates} | {' | '.join(_value(row, m) for m in metrics)} |")
    return lines


def _search(search: Search) -> str:
    state = search.state
    folded = next((r["request"] for r in state.lineage if r["change"] == "fold"), None)
    gates = f" Gates folded: {_names(folded['folded'])}; kept: {_names(folded['kept'])}." if folded else ""
    return f"The search took {state.updates} updates and grew {state.stage} times.{gates}"


def _size(plain: Mapping[str, Any]) -> str:
    counts, prediction = plain["counts"], plain["prediction"]
    idle = sum(counts.values()) - prediction["parameters"]
    only = f", of which {idle} serve training alone" if idle else ""
    return (
        f"Parameters: {', '.join(f'{n} {role}' for role, n in counts.items())}{only}. One prediction takes "
        f"{prediction['flops']} FLOPs, two for each multiply-add."
    )


def _names(addresses: list[str]) -> str:
    return ", ".join(addresses) or "none"


def _value(row: Row, metric: str) -> str:
    error = row.error(metric)
    return f"{row.mean(metric):.4f}" + (f" ± {error:.4f}" if error is not None else "")
