"""A space describes the architectures of a supernet by picks, one for each decision."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st
from nasframe_convolutional import AvgPool, DartsConvolutional, Identity, MaxPool, SeparableConvolution, Zero
from nasframe_recurrent import Darts, TwoToOne
from nasframe_recurrent.sized import SizedSpace

from nasframe import Backbone, Network, Seed, Space, Structure
from nasframe.errors import StructureError
from nasframe.structure.editing import remove_from

SERIES = {"inputs": 2, "outputs": 2}
IMAGES = {"channels": 3, "classes": 2, "height": 8, "width": 8}
FEW = (Zero(), Identity(), MaxPool(), SeparableConvolution(3))

BACKBONES: dict[str, tuple[Backbone, dict[str, int]]] = {
    "two_to_one": (TwoToOne(hidden=3), SERIES),
    "two_to_one sized": (TwoToOne(hidden=3, equal="parameters"), SERIES),
    "darts sized": (Darts(hidden=3, equal="parameters"), SERIES),
    "darts last": (Darts(hidden=3), SERIES),
    "darts mean": (Darts(hidden=3, output="mean"), SERIES),
    "images": (DartsConvolutional(channels=2, cells=3, operations=FEW), IMAGES),
    "loose ends": (DartsConvolutional(channels=2, cells=3, output="loose_ends", operations=FEW), IMAGES),
}


def space_of(name: str, nodes: int) -> Space:
    backbone, sizes = BACKBONES[name]
    return backbone.space(backbone.initial(sizes, nodes))


@st.composite
def picked(draw: st.DrawFn) -> tuple[Space, tuple[int, ...]]:
    space = space_of(draw(st.sampled_from([*BACKBONES])), draw(st.integers(1, 4)))
    return space, tuple(draw(st.integers(0, choice.options - 1)) for choice in space.decisions)


@settings(max_examples=60)
@given(picked())
def test_an_architecture_and_its_picks_describe_each_other(drawn: tuple[Space, tuple[int, ...]]) -> None:
    """Any picks give an architecture that can be built; its picks give it again, and are the same unless a node has no use."""
    space, picks = drawn
    architecture = space.architecture(picks)

    assert architecture.decided
    assert space.architecture(space.picks(architecture)) == architecture
    if len([*architecture.nodes()]) == len([*space.supernet.nodes()]):
        assert space.picks(architecture) == picks
    with torch.device("meta"):
        assert len(Network(architecture).alphas) == 0


@settings(max_examples=60)
@given(picked())
def test_what_a_node_keeps(drawn: tuple[Space, tuple[int, ...]]) -> None:
    """A node keeps as many sites as its backbone derives, each with one candidate, which is not zero."""
    space, picks = drawn
    architecture = space.architecture(picks)
    for node, _ in architecture.nodes():
        sites = architecture.sites_of(node)

        assert len(sites) == min(space.keep or 1, len(space.supernet.sites_of(node)))
        assert not any(c.operation.zero for site in sites.values() for c in site.candidates)


@settings(max_examples=60)
@given(picked(), st.integers(0, 2**16))
def test_what_a_backbone_derives_is_in_its_space(drawn: tuple[Space, tuple[int, ...]], seed: int) -> None:
    """Whatever the mixing weights are, the derived architecture has picks; in a space of equal parameters, for another width."""
    supernet, generator = drawn[0].supernet, torch.Generator().manual_seed(seed)
    mixing = {a: torch.rand(len(s.candidates), generator=generator) for a, s in supernet.sites() if not s.decided}
    derived = remove_from(supernet, supernet.backbone.derive(supernet, mixing))  # type: ignore[attr-defined]

    found = drawn[0].architecture(drawn[0].picks(derived))

    assert found.cells == derived.cells
    assert found == derived or isinstance(drawn[0], SizedSpace)


@pytest.mark.parametrize(("name", "nodes"), [("two_to_one", 2), ("darts mean", 3), ("images", 1)])
def test_picks_and_architectures_are_one_to_one(name: str, nodes: int) -> None:
    """No two picks give one architecture, so that uniform picks are uniform architectures."""
    space = space_of(name, nodes)
    everything = itertools.product(*(range(choice.options) for choice in space.decisions))

    assert len({space.architecture(picks) for picks in everything}) == space.size


def test_random_picks_are_uniform() -> None:
    """Every option of every decision is drawn about equally often, independently of the others, and by the seed alone."""
    space = space_of("darts mean", 3)
    torch.manual_seed(0)
    drawn = [space.random(Seed((n,))) for n in range(4000)]
    torch.manual_seed(1)
    counts, expected = Counter(drawn), len(drawn) / space.size

    assert drawn[:5] == [space.random(Seed((n,))) for n in range(5)]
    assert len(counts) == space.size
    # chi-square with size - 1 degrees of freedom: mean size - 1, variance 2 (size - 1)
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(statistic - (space.size - 1)) < 4 * (2 * (space.size - 1)) ** 0.5


def test_wrong_picks_are_refused() -> None:
    """The message names the decision and its range."""
    space = space_of("two_to_one", 2)

    with pytest.raises(StructureError, match="1 picks for 2 decisions"):
        space.architecture([0])
    for wrong in (5, -1, True, 0.0):
        with pytest.raises(StructureError, match=r"the pick of layer0/n1 operation 0 is .*; it must be .* from 0 to 4"):
            space.architecture([0, wrong])  # type: ignore[list-item]


def foreign() -> list[Structure]:
    """Structures that are no architectures of the space of two nodes."""
    one, three = space_of("two_to_one", 1), space_of("two_to_one", 3)
    wider = TwoToOne(hidden=4)
    return [
        space_of("two_to_one", 2).supernet,
        one.architecture([0]),
        three.architecture([0, 0, 0]),
        wider.space(wider.initial(SERIES, 2)).architecture([0, 0]),
        space_of("darts last", 2).architecture([0, 0]),
    ]


@pytest.mark.parametrize("structure", foreign(), ids=["supernet", "fewer", "more", "wider", "other"])
def test_other_structures_have_no_picks(structure: Structure) -> None:
    """A structure that is no architecture of the space is refused."""
    with pytest.raises(StructureError, match="the structure is no architecture of the space"):
        space_of("two_to_one", 2).picks(structure)


def test_a_choice_among_unequal_sites_is_refused() -> None:
    """Without one number of operations for all sites of a node, its decisions would depend on each other."""
    structure = space_of("images", 1).supernet
    address, site = next(iter(structure.sites()))

    with pytest.raises(StructureError, match="needs the same number at each"):
        Space(remove_from(structure, {address: {site.candidates[1].id}}), keep=2)


def test_without_a_refinement_every_site_keeps_a_candidate() -> None:
    """The plain space has one decision for each site, zero among its options."""
    backbone = DartsConvolutional(channels=2, cells=3, operations=(*FEW, AvgPool()))
    space = Space(backbone.initial(IMAGES, 2))

    assert [choice.options for choice in space.decisions] == [5] * 10
    assert sum(c.operation.zero for _, s in space.architecture([0] * 10).sites() for c in s.candidates) == 10
