"""The lineage read back: every structure of a run, made again from the records of its changes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nasframe.change.edit import fold_gates, remove_candidates
from nasframe.errors import ChangeError
from nasframe.interfaces.morphism import Morphism, Proposal
from nasframe.interfaces.part import short_name
from nasframe.plugins import Plugins
from nasframe.records import Changed, Started
from nasframe.search.changes import edited
from nasframe.search.plan import Change, Judge, walk
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.address import Address
from nasframe.structure.structure import Structure


def replay(
    strategy: Strategy, lineage: Sequence[Started | Changed], evidence: Mapping[str, Tensor], plugins: Plugins
) -> Iterator[Structure]:
    """Yield the first structure and the one after each change, without data and without a network.

    Args:
        strategy: the strategy of the run, whose morphisms repeat the growths.
        lineage: the records of the run.
        evidence: the tensors that changes were decided by: "<position in the lineage>/<name>".
        plugins: where the parts of the first structure are found.

    Raises:
        ChangeError: if a structure differs from its record.
    """
    first, *changes = lineage
    if not isinstance(first, Started):
        raise ChangeError("the lineage does not begin with the record of the first structure; its beginning is missing")
    structure = Structure.from_dict(first.structure, plugins.make)
    # a restoration goes back to a structure that the run has had before
    seen = {structure.digest(): structure}
    yield structure
    for position, record in enumerate(changes, 1):
        assert isinstance(record, Changed)
        # Both ends of each change are compared, so that an error is found at its record and not at the end.
        if record.parent != structure.digest():
            raise ChangeError(f"record {position} changes {record.parent}, but the structure is {structure.digest()}")
        match record.change:
            # These have the structure of an earlier record; the records do not repeat it.
            case "restore" | "restart":
                structure = seen[record.child]
            # These may have a structure that no record describes, and hold it in full.
            case "hand over" | "trial" | "move":
                structure = Structure.from_dict(record.request["structure"], plugins.make)
            case "grow":
                measured = _under(f"{position}/", evidence)
                structure = (
                    _morphism(strategy, record.by).edit(structure, record.request, measured, Seed(record.seed)).structure
                )
            case "edit":
                growths = [
                    (
                        _morphism(strategy, added["by"]),
                        Proposal(added["request"], evidence=_under(f"{position}/growth {number}/", evidence)),
                    )
                    for number, added in enumerate(record.request["added"])
                ]
                gone = {Address(a): frozenset(ids) for a, ids in record.request["removed"].items()}
                structure = edited(structure, gone, growths, Seed(record.seed)).structure
            case "remove":
                gone = {Address(a): frozenset(ids) for a, ids in record.request.items()}
                # whether mixing weights were folded makes no difference: that concerns tensors
                structure = remove_candidates(structure, gone).structure
            case _:
                structure = fold_gates(structure).structure
        if record.child != structure.digest():
            raise ChangeError(f"record {position} ({record.by}) made {record.child}; now it makes {structure.digest()}")
        seen[structure.digest()] = structure
        yield structure


def _morphism(strategy: Strategy, name: str) -> Morphism:
    # a step of the plan may name its own morphisms
    steps = (step.growth for step in walk(strategy.plan) if isinstance(step, Change | Judge))
    morphisms = [*strategy.growth, *itertools.chain.from_iterable(steps)]
    found = next((morphism for morphism in morphisms if short_name(morphism) == name), None)
    if found is None:
        names = ", ".join(map(short_name, morphisms)) or "none"
        raise ChangeError(f"{name!r} made a change, but is none of the strategy's morphisms, which are {names}")
    return found


def _under(prefix: str, evidence: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in evidence.items() if name.startswith(prefix)}
