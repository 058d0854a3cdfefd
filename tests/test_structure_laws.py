"""Structures, which are all that is needed to rebuild a network but its numbers, held to their laws."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
from collections.abc import Mapping, Set
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st
from nasframe_recurrent import TwoToOne
from recurrent import make, specimen, strategies

from nasframe import Address, Seed, Structure, build
from nasframe.errors import StructureError
from nasframe.structure.editing import remove_from
from nasframe.testing import laws
from nasframe.testing.strategies import removals, spoilt

SEED = Seed(("structure",))


@st.composite
def lives(draw: st.DrawFn) -> list[Structure]:
    """A structure, and what it becomes as nodes grow, candidates are removed, and last nodes are cut off."""
    chosen = draw(strategies())
    history = [chosen.backbone.initial(dict(chosen.task.sizes), chosen.nodes)]
    for kind in draw(st.lists(st.sampled_from(["grow", "remove", "cut"]), max_size=6)):
        type, _ = draw(st.sampled_from(history[-1].cells))
        history.append(_next(kind, history[-1], type, draw(removals(history[-1]))))
    return history


class TestStructures:
    @given(lives(), st.booleans())
    def test_json_goes_there_and_back(self, life: list[Structure], inherits: bool) -> None:
        """A structure's JSON makes an equal structure, of the same digest; structures that differ have other digests."""
        for structure in map(_inheriting, life) if inherits else life:
            again = Structure.from_json(structure.to_json(), make)
            assert (again, again.digest(), hash(again)) == (structure, structure.digest(), hash(structure))
        assert len({s.digest() for s in life}) == len({*life})

    @given(lives())
    def test_ids_never_come_back(self, life: list[Structure]) -> None:
        """An id that is gone does not come back, of a candidate or of a node, whatever grows or goes in between."""
        laws.identities(life)

    @settings(max_examples=100)
    @given(lives(), st.data())
    def test_spoilt_json_is_refused_or_read(self, life: list[Structure], data: st.DataObject) -> None:
        """JSON with anything left out or replaced is refused with a StructureError, or else makes a network."""
        text = json.dumps(data.draw(spoilt(life[-1].to_dict())))
        with contextlib.suppress(StructureError):
            structure = Structure.from_json(text, make)
            assert Structure.from_json(structure.to_json(), make) == structure
            build(structure, SEED)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the structure is not JSON"),
            ('{"schema": 1, ', "the structure is not JSON"),
            ("[" * 100_000, "the structure is not JSON"),
            ("null", "not the JSON of a structure"),
            ("[1, 2]", "not the JSON of a structure"),
            ("{}", "not the JSON of a structure .*schema"),
        ],
    )
    def test_what_is_no_json_of_a_structure(self, text: str, message: str) -> None:
        """Text that is no JSON, or not that of an object, is refused."""
        with pytest.raises(StructureError, match=message):
            Structure.from_json(text, make)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (["schema"], 99, "has schema 99; this version reads schema 1"),
            (["next_id"], 3, "candidate ids must be distinct and below next_id = 3"),
            (["cells", "layer0", "next_node"], 0, "next_node of cell 'layer0' is 0, but it has "),
            (["next_id"], -1, "next_id is -1; it must be a whole number of at least 0"),
            (["sizes", "inputs"], 1.5, r"a size is 1\.5; it must be a whole number"),
            (["sizes", "outputs"], 0, "a size is 0; it must be a whole number of at least 1"),
            (["sizes", "inputs"], math.nan, "a size is nan; it must be a whole number"),
            (["backbone", "name"], "three_to_one", "there is no backbone 'three_to_one'; did you mean 'two_to_one'"),
            (["backbone", "hidden"], "many", "hidden is 'many'; it must be a whole number"),
            (["backbone", "height"], 3, "backbone 'two_to_one' has no key 'height'"),
            (["cells", "layer0", "nodes", 1, "id"], "n.1", r"a node's id is 'n\.1'; it must be a text without '\.' and '/'"),
            (["cells", "layer0", "nodes"], [], "site layer0/n0 belongs to 'n0', which is no node of the cell"),
            (["cells", "layer0", "nodes"], [{"id": "n0"}, {"id": "n0"}, {"id": "n1"}], "a node id comes twice"),
            (["cells", "layer0", "sites", 0, "inputs"], ["x"], "has 1 inputs, but operation 'sum' takes 2"),
            (
                ["cells", "layer0", "sites", 0, "inputs", 1],
                "n1",
                "takes 'n1', which is no input of the cell and no node before",
            ),
            (["cells", "layer0", "sites", 0, "candidates"], [], "site layer0/n0 has no candidate; it needs one at least"),
            (["cells", "layer0", "sites", 0, "candidates", 0, "id"], 1, "candidate ids must be distinct"),
            (
                ["cells", "layer0", "sites", 0, "candidates", 0, "name"],
                "sun",
                "there is no operation 'sun'; did you mean 'sum'",
            ),
            (["cells", "layer0", "sites"], [], "cell 'layer0' has no site for its nodes n0, n1; each needs one at least"),
            (["cells", "layer0", "sites", 1, "id"], "n0", "a site id comes twice in cell 'layer0'"),
        ],
    )
    def test_what_no_network_can_be_built_from(self, path: list[Any], value: Any, message: str) -> None:
        """Each kind of damage is refused with its reason."""
        data = specimen().network.structure.to_dict()
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(StructureError, match=message):
            Structure.from_json(json.dumps(data), make)


class TestAddresses:
    words = st.text(st.characters(exclude_characters="/"), min_size=1)

    @given(words, words)
    def test_an_address_is_its_text(self, cell: str, id: str) -> None:
        """An address has its cell type and id, equals its text as a key, and stays an address when it is copied or pickled."""
        address = Address.of(cell, id)
        copies = [Address(str(address)), copy.deepcopy(address), pickle.loads(pickle.dumps(address))]  # noqa: S301
        assert {address: 1} == {f"{cell}/{id}": 1} == json.loads(json.dumps({address: 1}))
        assert all((type(c), c.cell, c.id) == (Address, cell, id) for c in copies)

    @given(lives())
    def test_each_address_finds_its_site(self, life: list[Structure]) -> None:
        """Every site and node has an address of its own, which leads to it; the sites of all nodes are all sites."""
        for structure in life:
            for address, site in structure.sites():
                assert structure.cell(address.cell).site(address.id) is site
            assert len(dict(structure.nodes())) == len([*structure.nodes()])
            of_nodes = [item for node, _ in structure.nodes() for item in structure.sites_of(node).items()]
            assert sorted(of_nodes, key=str) == sorted(structure.sites(), key=str)

    @pytest.mark.parametrize("text", ["", "n0", "/n0", "normal/", "a/b/c"])
    def test_other_text_is_refused(self, text: str) -> None:
        """Text that is not a cell type and an id is no address."""
        with pytest.raises(StructureError, match="is no address of a site or a node; write"):
            Address(text)


class TestMutants:
    """Each is a backbone with one fault; the law named catches it."""

    def test_ids_that_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Identities: a backbone that takes the lowest free id is seen."""
        structure, honest = specimen().network.structure, TwoToOne.grown
        monkeypatch.setattr(TwoToOne, "grown", lambda self, structure, cell: honest(self, _compact(structure), cell))
        last = {[*structure.sites()][-1][0]: frozenset({structure.next_id - 1})}
        removed = _next("remove", structure, "layer0", last)
        with pytest.raises(AssertionError, match="identities: candidate 23 is back"):
            laws.identities([structure, removed, _next("grow", removed, "layer0", {})])


def _next(kind: str, structure: Structure, type: str, gone: Mapping[str, Set[int]]) -> Structure:
    if kind == "grow":
        return structure.backbone.grown(structure, type).structure
    if kind == "cut":
        cell = structure.cell(type)
        sites = tuple(s for s in cell.sites if s.node != cell.nodes[-1].id) if cell.nodes else ()
        return structure.replace_cell(type, attrs.evolve(cell, nodes=cell.nodes[:-1], sites=sites))
    return remove_from(structure, gone)


def _inheriting(structure: Structure) -> Structure:
    """The same with a gate at the last node of each cell."""
    for type, cell in structure.cells:
        if cell.nodes:
            last = attrs.evolve(cell.nodes[-1], inherits=cell.sites[-1].inputs[-1:])
            structure = structure.replace_cell(type, attrs.evolve(cell, nodes=(*cell.nodes[:-1], last)))
    return structure


def _compact(structure: Structure) -> Structure:
    return attrs.evolve(structure, next_id=1 + max(c.id for _, s in structure.sites() for c in s.candidates))
