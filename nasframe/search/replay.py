"""The lineage read back: every structure of a run, made again from its first one and the records of its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from nasframe.change.apply import fold_gates, remove_candidates
from nasframe.errors import ChangeError
from nasframe.network.network import build
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.structure import Structure


def replay(
    strategy: Strategy, first: Structure, lineage: Sequence[Mapping[str, Any]], evidence: Mapping[str, Tensor]
) -> Iterator[Structure]:
    """The structure after each change, without data; one that differs from the record is a ChangeError."""
    structure = first
    seen = {first.digest(): first}
    for position, record in enumerate(lineage):
        if record["parent"] != structure.digest():
            raise ChangeError(f"record {position} changes {record['parent']}, but the structure is {structure.digest()}")
        own = {k.split("/", 1)[1]: v for k, v in evidence.items() if k.split("/", 1)[0] == str(position)}
        structure = _again(strategy, structure, record, own, seen)
        if record["child"] != structure.digest():
            raise ChangeError(
                f"record {position} ({record['change']}) made {record['child']}; now it makes {structure.digest()}"
            )
        seen[structure.digest()] = structure
        yield structure


def _again(
    strategy: Strategy,
    structure: Structure,
    record: Mapping[str, Any],
    evidence: Mapping[str, Tensor],
    seen: Mapping[str, Structure],
) -> Structure:
    if record["kind"] == "restore":
        return seen[record["child"]]
    seed = Seed(tuple(record["seed"]))
    parent, request = build(structure, seed), record["request"]
    if record["kind"] == "grow":
        morphism = next(m for m in strategy.growth if m.name == record["change"])
        return morphism.change(parent, request, evidence, seed).child.structure
    if record["kind"] == "remove":
        return remove_candidates(parent, {address: frozenset(ids) for address, ids in request.items()}, seed).child.structure
    return fold_gates(parent, seed).child.structure
