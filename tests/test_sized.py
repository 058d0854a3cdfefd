"""Architectures of equal parameters: fewer nodes, or smaller operations, have more units."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from nasframe_growing import Epochs, MaxNodes
from nasframe_recurrent import Darts, Sum, Tanh, TwoToOne
from nasframe_recurrent.backbone import Recurrent
from nasframe_sampling import Finals, RandomSearch, RegularisedEvolution, SinglePath, SuccessiveHalving
from toy import toy_strategy

from nasframe import Search, Space, Structure
from nasframe.errors import StrategyError, StructureError
from nasframe.network.network import count_parameters
from nasframe.search.compare import RANDOM

SIZES = {"inputs": 2, "outputs": 3}


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Space, tuple[int, ...]]:
    """Draw a space of equal parameters and picks of it."""
    kind = draw(st.sampled_from([TwoToOne, Darts]))
    limit = draw(st.none() | st.integers(1, 400))
    backbone = kind(hidden=draw(st.integers(1, 5)), layers=draw(st.integers(1, 2)), equal="parameters", parameters=limit)
    space = backbone.space(backbone.initial(SIZES, draw(st.integers(1, 3))))
    return space, tuple(draw(st.integers(0, choice.options - 1)) for choice in space.decisions)


def wider(structure: Structure) -> Structure:
    """Return the structure with one unit more."""
    backbone = structure.backbone
    assert isinstance(backbone, Recurrent)
    return attrs.evolve(structure, backbone=attrs.evolve(backbone, hidden=(backbone.hidden or 0) + 1))


@settings(max_examples=15)
@given(spaces())
def test_an_architecture_is_as_wide_as_its_parameters_allow(drawn: tuple[Space, tuple[int, ...]]) -> None:
    """It has at most so many parameters, and with one unit more it would have more; one unit is always allowed."""
    space, picks = drawn
    architecture = space.architecture(picks)
    limit = architecture.backbone.parameters  # type: ignore[attr-defined]

    assert count_parameters(architecture) <= limit or architecture.backbone.hidden == 1  # type: ignore[attr-defined]
    assert count_parameters(wider(architecture)) > limit


@settings(max_examples=15)
@given(spaces())
def test_the_limit_of_a_supernet(drawn: tuple[Space, tuple[int, ...]]) -> None:
    """Without a number, no architecture of the supernet with its width has more parameters than the limit, and one has as many."""
    backbone = attrs.evolve(drawn[0].supernet.backbone, parameters=None)
    supernet = attrs.evolve(drawn[0].supernet, backbone=backbone)
    plain = Space(supernet, keep=1)
    counts = [count_parameters(plain.architecture(picks)) for picks in some_of(plain)]
    limit = backbone.space(supernet).parameters

    assert max(counts) <= limit
    assert max(counts) == limit or plain.size > len(counts)


def some_of(space: Space) -> list[tuple[int, ...]]:
    """Return the first picks of a space, of which a small space has no others."""
    return [*itertools.islice(itertools.product(*(range(choice.options) for choice in space.decisions)), 30)]


def test_a_space_of_two_nodes_has_the_cells_of_one_node() -> None:
    """Each of the 25 cells of two nodes and of the 5 of one node is described once, and one of a single node has the most units."""
    backbone = TwoToOne(hidden=4, equal="parameters")
    space = backbone.space(backbone.initial(SIZES, 2))
    found = [space.architecture(picks) for picks in itertools.product(range(5), range(6))]

    assert space.size == 30
    assert len({*found}) == 30
    assert [len(each.cell("layer0").nodes) for each in found].count(1) == 5
    tanh, twice = (space.architecture(picks).backbone.hidden for picks in ((1, 5), (1, 1)))  # type: ignore[attr-defined]
    assert tanh > twice == 4


def test_other_widths_have_no_picks() -> None:
    """A structure of the space's cells with another number of units is refused, and so are other cells."""
    backbone = TwoToOne(hidden=4, equal="parameters")
    space = backbone.space(backbone.initial(SIZES, 2))
    longer = backbone.space(backbone.initial(SIZES, 3)).architecture([0, 0, 0])

    for other in (wider(space.architecture([0, 5])), longer, space.supernet):
        with pytest.raises(StructureError, match="the structure is no architecture of the space"):
            space.picks(other)


def test_a_limit_without_equal_parameters_is_refused() -> None:
    """A number that would have no effect is an error."""
    with pytest.raises(ValueError, match="parameters is 100 and equal is 'units'"):
        TwoToOne(parameters=100)


def test_trials_of_other_widths_inherit_nothing_from_a_supernet() -> None:
    """A plan whose trials start from the weights of the supernet is refused before anything is trained."""
    plan = SinglePath(epochs=1, architect=RandomSearch(trials=2, updates=1)).steps()
    with pytest.raises(StrategyError, match="have other widths; give the backbone equal = 'units'"):
        Search(
            toy_strategy(backbone=TwoToOne(hidden=3, equal="parameters"), plan=plan, criterion=Epochs(1), nodes=2, growth=())
        )


def test_a_child_of_another_width_begins_with_fresh_weights() -> None:
    """Evolution that inherits weights goes on with them where the widths are the same."""
    architect = RegularisedEvolution(population=2, sample=1, trials=5, updates=1, inherit=True)
    search = Search(
        toy_strategy(
            backbone=TwoToOne(hidden=3, equal="parameters"), architect=architect, plan="trials", nodes=2, growth=(), in_flight=1
        )
    )
    search.run()

    assert sum(trial.parent is not None for trial in search.state.trials) == 3


def test_a_search_compares_networks_of_equal_parameters() -> None:
    """All trials and the random architectures of the comparison come from the space of the largest supernet."""
    backbone = TwoToOne(hidden=3, operations=(Sum(), Tanh()), equal="parameters")
    plan = Finals(epochs=1, architect=SuccessiveHalving(candidates=6, suggested=1, updates=1)).steps()
    search = Search(toy_strategy(backbone=backbone, plan=plan, criterion=Epochs(1) | MaxNodes(2), seeds=4))
    search.run()
    limit = search.network.backbone.parameters  # type: ignore[attr-defined]
    rows = [record for record in search.compare(workers=1) if record.kind == "evaluation" and record.name == RANDOM]

    assert len({trial.picks for trial in search.state.trials}) == 6
    assert count_parameters(search.network.structure) <= limit
    assert all(record.parameters <= limit for record in rows)
    # whatever was found, of one node or two
    assert {len(record.structure["cells"]["layer0"]["nodes"]) for record in rows} == {1, 2}
