"""The summary of a run: the network it hands over, how the others fared, and what happened on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nasframe.interfaces.part import short_name
from nasframe.records import Changed, EpochEnded, Evaluated, Record, TrialEnded
from nasframe.run import commits
from nasframe.run.folder import Folder
from nasframe.run.rows import Row, handed_over, rows_of
from nasframe.search.changes import HARM, MARGIN, harmful
from nasframe.search.compare import FOUND, INHERITED, RANDOM, searched
from nasframe.search.loop import grown_by
from nasframe.search.search import Search
from nasframe.search.state import State
from nasframe.structure.structure import Structure

#: the largest number of sites that are named of a change, and of changes in summary.md
SITES, CHANGES = 4, 20
#: what structures with the same operations and widths may differ in
IDS = {"id", "next_id", "next_node"}
#: the kinds of rows of a comparison that the one of the network that is handed over is compared with
KINDS = {"found": "the found cell", "random": "random architectures", "baseline": "the best baseline"}


def verdict(evaluations: Sequence[Evaluated], metric: str, higher_is_better: bool, cell: Mapping[str, str]) -> str:
    """Return two sentences: which network is handed over, and how it compares with the found cell, random ones and the best baseline.

    The network is the best of its row by validation loss, so that its score is no fair value to compare with means: the mean of its row is
    compared.

    Args:
        evaluations: the records of the comparison.
        metric: the name of the score.
        higher_is_better: whether a larger score is better.
        cell: the operations of the network that is handed over, by site.
    """
    best, rows = handed_over(evaluations), {row.name: row for row in rows_of(evaluations)}
    row = rows[best.name]
    count = len(row.evaluations)
    shown = f" ({', '.join(cell.values())})" if 0 < len(cell) <= SITES else ""
    least = f" (the least of {count})" if count > 1 else ""
    valid = "" if best.valid is None else f"validation loss {best.valid:.4g}{least}, "
    again = ", which is the found cell again" if row.name == RANDOM and _is_found(best, evaluations) else ""
    first = f"Handed over: the {best.name}{shown}{again}, {valid}test {metric} {_number(best.scores.get(metric))}."
    # Compared on the test split, which no decision has read; the network itself was chosen by its validation loss.
    mine = row.mean(metric)
    won: dict[bool, list[str]] = {True: [], False: []}
    # with this sign the smaller value is the better one
    sign = -1 if higher_is_better else 1
    for kind, label in KINDS.items():
        # Rows in which every training diverged have no mean, and no chance of being the best.
        scored = [
            (sign * mean, each) for each in rows.values() if _kind(each) == kind and (mean := each.mean(metric)) is not None
        ]
        # rows of one kind are about the same cells, so that they are no rivals
        if kind != _kind(row) and scored and mine is not None:
            theirs, rival = min(scored, key=lambda pair: pair[0])
            name = f"{rival.name}: " if kind == "baseline" else ""
            won[sign * mine < theirs].append(f"{label} ({name}{_cell(rival, metric)})")
    than = [f"better than {' and '.join(won[True])}"] if won[True] else []
    than += [f"not better than {' or '.join(won[False])}"] if won[False] else []
    trainings = f"{count} random architectures" if row.name == RANDOM else f"{count} trainings of it"
    its = f"The mean of {trainings}, {_cell(row, metric)}, is" if count > 1 else "This is"
    if max(len(each.evaluations) for each in rows.values()) == 1:
        its = "From one training of each, which shows little, it is"
    return f"{first} {its} {', but '.join(than)}." if than else first


def _is_found(random: Evaluated, evaluations: Sequence[Evaluated]) -> bool:
    """Return whether a random architecture is the one that the search found."""

    def plain(structure: Mapping[str, Any] | None) -> Any:
        # the ids of candidates depend on what has been grown and removed
        return json.loads(json.dumps(structure), object_hook=lambda table: {k: v for k, v in table.items() if k not in IDS})

    return any(plain(each.structure) == plain(random.structure) for each in evaluations if each.name in (INHERITED, FOUND))


def _kind(row: Row) -> str:
    if row.evaluations[0].structure is None:
        return "baseline"
    return "random" if row.name == RANDOM else "found"


def write(folder: Folder, search: Search) -> str:
    """Write summary.json and summary.md into the run folder and return the text of the latter."""
    state, metric = search.state, search.data.score
    rows = rows_of(state.evaluations)
    best = handed_over(state.evaluations)
    cell = operations(search.network.structure)
    first = verdict(state.evaluations, metric, bool(search.data.metrics()[metric].higher_is_better), cell)
    # The found cell is shown although another one may be handed over: it is what the search was for.
    searched_for = next((e.structure for e in state.evaluations if e.name in (INHERITED, FOUND) and e.structure), None)
    found = operations(Structure.from_dict(searched_for, folder.plugins.make)) if searched_for else None
    plain: dict[str, Any] = {
        "verdict": first,
        "handed over": {"name": best.name, "number": best.number, "valid": best.valid, "test": dict(best.scores)},
        "rows": [row.to_dict() for row in rows],
        "updates": state.updates,
        "counts": search.network.count(),
        "prediction": {"parameters": best.parameters, "flops": best.flops},
        "operations": cell,
        "widths": dict(search.network.backbone.widths(search.network.structure)),
        "found operations": found,
        "changes": changes(state),
        "remarks": [*remarks(state), *stopped_early(state.history, grows=bool(search.strategy.growth))],
    }
    lines = [
        first,
        "",
        # the metrics of the network that is handed over: a training that diverged has none
        *_table(rows, list(best.scores), searched(state)),
        "",
        f"The cell that is handed over{''.join(f', {field} {width}' for field, width in plain['widths'].items())}:",
        "",
        *_listed(plain["operations"]),
        "",
        *(["The cell that the search found:", "", *_listed(found), ""] if found not in (None, plain["operations"]) else []),
        *_changes(plain["changes"]),
        *(f"- {remark}" for remark in plain["remarks"]),
        *([""] if plain["remarks"] else []),
        f"{took(state)} {_size(plain)}",
        "",
    ]
    # Both files hold the same facts, one for programs and one for readers.
    text = "\n".join(lines)
    # summary.md comes last: it marks the run as finished (`Folder.finished`)
    commits.write_file(folder.path / "summary.json", json.dumps(plain, indent=1, allow_nan=False).encode())
    commits.write_file(folder.path / "summary.md", text.encode())
    return text


def remarks(state: State) -> Iterator[str]:
    """Yield a sentence for each thing in a run that may have led it astray."""
    for record in state.history:
        if isinstance(record, EpochEnded) and record.diverged:
            yield record.reason or f"the training diverged in stage {record.stage}, phase {record.phase}"
    # One line for all of them: a search may have thousands of trials.
    if lost := sum(trial.valid is None for trial in state.trials):
        yield f"{lost} of {len(state.trials)} trials diverged"
    for trial in state.trials:
        if trial.cut:
            yield cut_after(trial)
    if state.diverged:
        yield "the training of the pruned network diverged, and so its row has no values"
    for change in state.lineage:
        if isinstance(change, Changed):
            yield from remarks_of(change)


def cut_after(trial: TrialEnded) -> str:
    """Return a sentence about trials that the criterion ended with this one."""
    return f"the limit of updates or time ended the trials after {trial.number + 1}; a larger one tries more architectures"


def stopped_early(history: Sequence[Record], grows: bool) -> Iterator[str]:
    """Yield a sentence if the search was stopped within a stage whose validation loss was still falling.

    Args:
        history: the records of epochs and stages.
        grows: whether the strategy grows the network.
    """
    epochs = [r for r in history if isinstance(r, EpochEnded) and r.moves_alphas]
    if not epochs or epochs[-1].decision != "stop" or epochs[-1].diverged:
        return
    last = epochs[-1]
    losses = [r.valid for r in epochs if r.stage == last.stage and r.valid is not None]
    # one epoch without improvement may be noise
    if losses and min(losses) in losses[-2:]:
        unchanged = "; nothing was grown" if grows and last.stage == 0 else ""
        yield f"stage {last.stage} was ended while the validation loss was still falling ({last.reason}){unchanged}"


def remarks_of(change: Changed) -> Iterator[str]:
    """Yield a sentence for a pruning that did harm, for what it might have kept instead, and for its close decisions."""
    before, after = change.valid_before, change.valid_after
    if before is not None and harmful(before, after):
        became = "is not finite any more" if after is None else f"became {after:.4g}, {after / before:.1f} times as large"
        yield f"{change.why}: the validation loss was {before:.4g} and {became} (reported from {HARM:g} times on)"
    measured = [a for a in change.alternatives if a.valid is not None]
    for one in measured:
        yield (
            f"{change.why}: at {one.site}, {one.kept} was kept over {one.removed} (the mixing weights differ by {one.margin:.3f}); with "
            f"{one.removed} the loss before tuning is {one.valid:.4g}"
        )
    if rest := len(change.alternatives) - len(measured):
        more = " more" if measured else ""
        sites = "site was" if rest == 1 else "sites were"
        yield f"{change.why}: {rest}{more} {sites} decided by differences of mixing weights below {MARGIN}"


def operations(structure: Structure) -> dict[str, str]:
    """Return the operation of each site."""
    return {a: " + ".join(short_name(c.operation) for c in s.candidates) for a, s in structure.sites()}


def _listed(operations: Mapping[str, str]) -> list[str]:
    return [f"- {address}: {names}" for address, names in operations.items()]


def _table(rows: list[Row], metrics: list[str], compared: bool) -> list[str]:
    seeds = max(len(r.evaluations) for r in rows)
    heading = "On the test split:"
    if compared:
        over = (
            f"Mean and standard error on the test split, over {seeds} seeds"
            if seeds > 1
            else "On the test split, from one seed"
        )
        heading = (
            f"{over}. All were trained for at most as many updates as the search; the network with the least validation loss in the "
            "search space is handed over."
        )
    lines = [
        heading,
        "",
        f"| network | parameters | updates | least validation loss | {' | '.join(f'test {m}' for m in metrics)} |",
        f"| --- | ---: | ---: | ---: | {' | '.join('---:' for _ in metrics)} |",
    ]
    for row in rows:
        # Beside the name, because the means are those of the other trainings.
        lost = f" ({row.diverged} diverged)" if row.diverged else ""
        cells = " | ".join(_cell(row, m) for m in metrics)
        # without a validation split nothing has a validation loss
        valid = "" if row.valid() is None and not row.diverged else _number(row.valid())
        lines.append(f"| {row.name}{lost} | {row.parameters} | {row.updates} | {valid} | {cells} |")
    return lines


def difference_of(change: Changed) -> str:
    """Return which operations a change added and removed at the first sites that it changed, as in "layer0/n0 + tanh - relu"."""
    shown = []
    for address in dict.fromkeys([*change.added, *change.removed]):
        words = [address]
        for sign, sides in (("+", change.added), ("-", change.removed)):
            names = [candidate["operation"]["name"] for candidate in sides.get(address, {}).values()]
            words += [sign, *names] if names else []
        shown.append(" ".join(words))
    more = f"; {len(shown) - SITES} more" if len(shown) > SITES else ""
    return "; ".join(shown[:SITES]) + more


def changes(state: State) -> list[dict[str, Any]]:
    """Return where, when and by which part a network grew, with the gains of each growth."""
    names = ("stage", "phase", "epoch", "by", "parameters", "predicted", "realised")
    grown = [r for r in state.lineage if isinstance(r, Changed) and grown_by(r)]
    return [{**{name: getattr(r, name) for name in names}, "sites": difference_of(r)} for r in grown]


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the growths of a search with their gains."""
    if not changes:
        return []
    lines = [
        "The growths. The gain is how much smaller the loss of a training batch was by the growth after one more step:",
        "",
        "| stage | phase | epoch | by | sites | parameters | gain | predicted |",
        "| ---: | --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for each in changes[:CHANGES]:
        place = f"{each['stage']} | {each['phase']} | {each['epoch']} | {each['by']} | {each['sites']} | {each['parameters']}"
        gains = " | ".join("" if each[name] is None else f"{each[name]:.3g}" for name in ("realised", "predicted"))
        lines.append(f"| {place} | {gains} |")
    rest = len(changes) - CHANGES
    return [*lines, "", *([f"{rest} more are in lineage.jsonl.", ""] if rest > 0 else [])]


def took(state: State) -> str:
    """Return a sentence about what the search cost, how many architectures it evaluated, and how often it grew."""
    if not searched(state):
        return f"It was trained for {state.updates} updates."
    done = [f"took {state.updates} updates"]
    if state.trials:
        count = len(state.trials)
        done.append(f"evaluated {count} architecture{'s' * (count > 1)} in trials")
    folded = next((r.request for r in state.lineage if isinstance(r, Changed) and r.change == "fold"), None)
    gates = f" Gates folded: {_names(folded['folded'])}; kept: {_names(folded['kept'])}." if folded else ""
    grown = sum(bool(grown_by(r)) for r in state.lineage if isinstance(r, Changed))
    if state.history:  # without a phase of training nothing could grow
        done.append({0: "did not grow", 1: "grew once"}.get(grown, f"grew {grown} times"))
    return f"The search {', '.join(done[:-1])} and {done[-1]}.{gates}"


def _size(plain: dict[str, Any]) -> str:
    counts, prediction = plain["counts"], plain["prediction"]
    # such as those of an auxiliary head, which a prediction does not depend on
    idle = sum(counts.values()) - prediction["parameters"]
    only = f", of which {idle} serve training alone" if idle else ""
    return (
        f"Parameters: {', '.join(f'{n} {role}' for role, n in counts.items())}{only}. One prediction takes "
        f"{prediction['flops']} FLOPs, two for each multiply-add."
    )


def _names(addresses: list[str]) -> str:
    return ", ".join(addresses) or "none"


def written(value: float) -> str:
    """Return a loss or a score as text: with four decimals, or four digits where it is small or large."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def _number(value: float | None) -> str:
    return "diverged" if value is None else written(value)


def _cell(row: Row, metric: str) -> str:
    mean, error = row.mean(metric), row.error(metric)
    if error is None:
        return _number(mean)
    return f"{_number(mean)} ± " + (f"{error:.4f}" if error >= 5e-5 else f"{error:.2g}")
