"""SGAS decides the sites in the order of its criteria, which are those of the paper, written out by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from nasframe_bilevel import FirstOrder
from nasframe_recurrent import Darts, IdentityEdge, ReluEdge, TanhEdge, ZeroEdge
from nasframe_robustness import MostCertain, Sgas
from test_measuring import ask
from toy import toy_strategy

from nasframe import Address, Optimiser, Search
from nasframe.records import Changed, EpochEnded
from nasframe.testing.fakes import Scripted

BACKBONE = Darts(hidden=3, operations=(IdentityEdge(), TanhEdge(), ZeroEdge(), ReluEdge()))
QUICK = FirstOrder(Optimiser(learning_rate=0.2))


def shares(weights: Sequence[float]) -> list[float]:
    """Return the mixing weights without the third, that of zero, divided by their sum."""
    kept = [w for i, w in enumerate(weights) if i != 2]
    return [w / math.fsum(kept) for w in kept]


def criteria(weights: Sequence[float], past: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return S_EI, S_SC and S_SS of an edge."""
    p = shares(weights)
    entropy = -math.fsum(x * math.log(x) for x in p)
    overlaps = [math.fsum(map(min, p, shares(before))) for before in past]
    importance = math.fsum(w for i, w in enumerate(weights) if i != 2)
    return importance, 1 - entropy / math.log(3), math.fsum(overlaps) / len(overlaps) if overlaps else 1.0


@pytest.mark.parametrize("stability", [0, 2])
def test_the_criteria_are_those_of_the_paper(stability: int) -> None:
    """The largest score of each edge is the product of its scaled criteria, and that of the site is the operation of largest weight."""
    search = Search(toy_strategy(backbone=BACKBONE, architect=QUICK, nodes=3, growth=(), criterion=Scripted(epochs=9)))
    epochs: list[EpochEnded] = []
    for record in search:
        if isinstance(record, EpochEnded):
            epochs.append(record)
        if len(epochs) == 4:
            break
    weights = [{edge: [*values.values()] for edge, values in record.mixing.items()} for record in epochs]
    edges = [address for address, _ in search.network.structure.sites()]
    assert len(edges) == 4
    rows = [criteria(weights[-1][edge], [w[edge] for w in weights[-1 - stability : -1]]) for edge in edges]
    columns = [*zip(*rows, strict=True)]
    wanted = [
        math.prod((v - min(c)) / (max(c) - min(c)) for v, c in zip(row, columns[: 3 if stability else 2], strict=False))
        for row in rows
    ]

    scores, _, _ = ask(search, MostCertain(stability=stability).scores)

    found = torch.stack([scores[edge] for edge in edges])
    torch.testing.assert_close(found.max(1).values, torch.tensor(wanted, dtype=found.dtype))
    for edge, row in zip(edges, found.tolist(), strict=True):
        w = weights[-1][edge]
        assert max((0, 1, 3), key=w.__getitem__) == max((0, 1, 3), key=row.__getitem__)


def test_a_node_keeps_so_many_edges() -> None:
    """A decided edge closes its node when it is the last that the node keeps; zero is not kept while there is another operation."""
    structure = BACKBONE.initial({"inputs": 2, "outputs": 2}, nodes=3)
    edges = dict(structure.sites())
    scores = {address: torch.tensor([0.1, 0.2, 0.9, 0.3]) for address in edges}
    last = [address for address, site in edges.items() if site.node == "n2"]
    scores[last[0]] = torch.tensor([0.1, 0.4, 0.9, 0.3])

    one, two = (MostCertain(keep=keep).remove(structure, scores) for keep in (1, 2))

    assert two == {last[0]: {edges[last[0]].candidates[i].id for i in (0, 2, 3)}}
    assert one == {**two, **{address: {c.id for c in edges[address].candidates} for address in last[1:]}}


def test_the_plan_decides_one_edge_after_the_other() -> None:
    """The supernet trains before the first decision and after each; in the end each node has as many edges as it keeps."""
    plan = Sgas(warmup=2, between=1, tuning=1, keep=1).steps()
    search = Search(
        toy_strategy(backbone=BACKBONE, architect=QUICK, nodes=3, growth=(), plan=plan, criterion=Scripted(epochs=9))
    )
    search.run()
    decisions = [record for record in search.state.lineage if isinstance(record, Changed) and record.change == "remove"]
    phases = [record.phase for record in search.state.history if isinstance(record, EpochEnded)]

    assert len(decisions) == 3
    assert phases == ["search"] * 5 + ["tune"]
    assert sorted(Address(a).cell for a, _ in search.network.structure.sites()) == ["layer0"] * 3
    assert not any(site.candidates[0].operation.zero for _, site in search.network.structure.sites())
