"""The order in which the proposals of several morphisms are tried."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import given, strategies as st
from nasframe_growing import NodeGrowth
from toy import toy_strategy

from nasframe import Morphism, Proposal, Search
from nasframe.interfaces.part import short_name
from nasframe.records import Changed
from nasframe.search.choose import ranked
from nasframe.testing.fakes import Scripted

#: three morphisms, two of which have the same name
MORPHISMS: list[Morphism] = [NodeGrowth("noise"), NodeGrowth("gate"), NodeGrowth("noise", delta=0.001)]
GAINS = st.sampled_from([0.0, 0.0, 1.0, -1.0, math.nan, math.inf])
#: the gains of each morphism's proposals, in the order of the strategy
PROPOSED = st.lists(st.lists(GAINS, max_size=3), min_size=3, max_size=3).map(
    lambda gains: [
        (morphism, Proposal({"number": next(numbers)}, gain=gain))
        for numbers in [itertools.count()]
        for morphism, group in zip(MORPHISMS, gains, strict=True)
        for gain in group
    ]
)
USED = st.dictionaries(st.sampled_from([short_name(morphism) for morphism in MORPHISMS]), st.integers(0, 3))


def worth(proposal: Proposal) -> float:
    return -math.inf if math.isnan(proposal.gain) else proposal.gain


@given(PROPOSED, USED)
def test_the_largest_gain_comes_first(proposed: list[tuple[Morphism, Proposal]], used: dict[str, int]) -> None:
    """Proposals are sorted by gain; a gain that is not a number comes last; none is lost."""
    order = ranked(proposed, used)
    gains = [worth(proposal) for _, proposal in order]

    assert gains == sorted(gains, reverse=True)
    assert {proposal.request["number"] for _, proposal in order} == set(range(len(proposed)))


@given(PROPOSED, USED)
def test_equal_gains_are_ordered_by_use_and_then_by_place(
    proposed: list[tuple[Morphism, Proposal]], used: dict[str, int]
) -> None:
    """Among equal gains the morphism that was used less often comes first, then the earlier one of the strategy."""
    for (left, one), (right, other) in itertools.pairwise(ranked(proposed, used)):
        if worth(one) == worth(other):
            ranks = [(used.get(short_name(m), 0), p.request["number"]) for m, p in ((left, one), (right, other))]
            assert ranks == sorted(ranks)


@given(st.integers(1, 12), st.sampled_from([0.0, 1.0, math.nan]))
def test_morphisms_of_equal_gain_take_turns(growths: int, gain: float) -> None:
    """After any number of growths every morphism has been used equally often, give or take one."""
    used: Counter[str] = Counter()
    for _ in range(growths):
        morphism, _ = ranked([(morphism, Proposal({}, gain=gain)) for morphism in MORPHISMS], used)[0]
        used[short_name(morphism)] += 1

    counts = [used[short_name(morphism)] for morphism in MORPHISMS]
    assert sum(counts) == growths
    assert max(counts) - min(counts) <= 1


def test_a_search_grows_by_each_of_its_morphisms_in_turn() -> None:
    """Two morphisms that do not estimate their gain grow the network alternately."""
    growth = (NodeGrowth("noise"), NodeGrowth("gate"))
    search = Search(toy_strategy(growth=growth, criterion=Scripted(epochs=1, growths=3)))
    search.run()
    made = [record.by for record in search.state.lineage if isinstance(record, Changed) and record.change == "grow"]

    assert made == ["node", "node form=gate", "node"]
