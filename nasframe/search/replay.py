"""The lineage read back: every structure of a run, made again from the records of its changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from nasframe.change.edit import fold_gates, remove_candidates
from nasframe.errors import ChangeError
from nasframe.interfaces.part import short_name
from nasframe.plugins import Plugins
from nasframe.records import Changed, Started
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
        if record.parent != structure.digest():
            raise ChangeError(f"record {position} changes {record.parent}, but the structure is {structure.digest()}")
        match record.change:
            case "restore" | "restart":
                structure = seen[record.child]
            case "hand over" | "trial":
                structure = Structure.from_dict(record.request["structure"], plugins.make)
            case "grow":
                morphism = next(m for m in strategy.growth if short_name(m) == record.by)
                measured = {k.split("/", 1)[1]: v for k, v in evidence.items() if k.split("/", 1)[0] == str(position)}
                structure = morphism.edit(structure, record.request, measured, Seed(record.seed)).structure
            case "remove":
                gone = {Address(a): frozenset(ids) for a, ids in record.request.items()}
                structure = remove_candidates(structure, gone).structure
            case _:
                structure = fold_gates(structure).structure
        if record.child != structure.digest():
            raise ChangeError(f"record {position} ({record.by}) made {record.child}; now it makes {structure.digest()}")
        seen[structure.digest()] = structure
        yield structure
