"""Laws of structures: their JSON form, ids, addresses and refusals."""

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
from recurrent import make, specimen, strategies

from nasframe import Address, Seed, Structure, build
from nasframe.errors import StructureError
from nasframe.structure.editing import remove_from
from nasframe.testing import assertions
from nasframe.testing.strategies import damaged, removals

SEED = Seed(("structure",))


@st.composite
def histories(draw: st.DrawFn) -> list[Structure]:
    """Draw a structure and its successors: nodes are added, candidates are removed, and last nodes are cut off."""
    chosen = draw(strategies())
    history = [chosen.backbone.initial(dict(chosen.task.sizes), chosen.nodes)]
    for kind in draw(st.lists(st.sampled_from(["grow", "remove", "cut"]), max_size=6)):
        type, _ = draw(st.sampled_from(history[-1].cells))
        history.append(_next(kind, history[-1], type, draw(removals(history[-1]))))
    return history


class TestStructures:
    @given(histories(), st.booleans())
    def test_json_round_trip(self, history: list[Structure], inherits: bool) -> None:
        """Reading the JSON of a structure gives an equal structure with the same digest; different structures have different digests."""
        for structure in map(_inheriting, history) if inherits else history:
            again = Structure.from_json(structure.to_json(), make)
            assert (again, again.digest(), hash(again)) == (structure, structure.digest(), hash(structure))
        assert len({s.digest() for s in history}) == len({*history})

    @given(histories())
    def test_ids_are_never_used_again(self, history: list[Structure]) -> None:
        """The id of a removed candidate or node is never used again."""
        assertions.assert_ids_not_reused(history)

    @settings(max_examples=30)
    @given(histories(), st.data())
    def test_damaged_json_is_refused_or_read(self, history: list[Structure], data: st.DataObject) -> None:
        """JSON with a missing or replaced value is refused with a StructureError, or describes a network that can be built."""
        text = json.dumps(data.draw(damaged(history[-1].to_dict())))
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
    def test_text_that_is_not_a_structure(self, text: str, message: str) -> None:
        """Text that is not JSON, or not the JSON of a structure, is refused."""
        with pytest.raises(StructureError, match=message):
            Structure.from_json(text, make)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (["schema"], 99, "has schema 99; this version reads schema 1"),
            (["next_id"], 3, "candidate ids must be distinct and below next_id = 3"),
            (["cells", "layer0", "next_node"], 0, "next_node of cell 'layer0' is 0, but the cell has "),
            (["next_id"], -1, "next_id is -1; it must be a whole number of at least 0"),
            (["sizes", "inputs"], 1.5, r"a size is 1\.5; it must be a whole number"),
            (["sizes", "outputs"], 0, "a size is 0; it must be a whole number of at least 1"),
            (["sizes", "inputs"], math.nan, "a size is nan; it must be a whole number"),
            (["backbone", "name"], "three_to_one", "there is no backbone 'three_to_one'; did you mean 'two_to_one'"),
            (["backbone", "hidden"], "many", "hidden is 'many'; it must be a whole number"),
            (["backbone", "height"], 3, "backbone 'two_to_one' has no key 'height'"),
            (
                ["cells", "layer0", "nodes", 1, "id"],
                "n.1",
                r"a node's id is 'n\.1'; it must be a text that is not empty and has neither",
            ),
            (["cells", "layer0", "nodes"], [], "site layer0/n0 belongs to 'n0', which is not a node of the cell"),
            (
                ["cells", "layer0", "nodes"],
                [{"id": "n0"}, {"id": "n0"}, {"id": "n1"}],
                "cell 'layer0' has two nodes with the same id",
            ),
            (["cells", "layer0", "sites", 0, "inputs"], ["x"], "has 1 inputs, but operation 'sum' needs 2"),
            (
                ["cells", "layer0", "sites", 0, "inputs", 1],
                "n1",
                "has the input 'n1', which is neither an input of the cell nor a node before n0",
            ),
            (["cells", "layer0", "sites", 0, "candidates"], [], "site layer0/n0 has no candidate; it needs at least one"),
            (["cells", "layer0", "sites", 0, "candidates", 0, "id"], 1, "candidate ids must be distinct"),
            (
                ["cells", "layer0", "sites", 0, "candidates", 0, "name"],
                "sun",
                "there is no operation 'sun'; did you mean 'sum'",
            ),
            (["cells", "layer0", "sites"], [], "cell 'layer0' has no site for its nodes n0, n1; each needs at least one"),
            (["cells", "layer0", "sites", 1, "id"], "n0", "cell 'layer0' has two sites with the same id"),
        ],
    )
    def test_each_kind_of_damage_is_refused(self, path: list[Any], value: Any, message: str) -> None:
        """The message of each refusal says what is wrong."""
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

    @given(histories())
    def test_each_address_finds_its_site(self, history: list[Structure]) -> None:
        """Every site and node has its address, by which it is found; the sites of all nodes are all sites."""
        for structure in history:
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


def _next(kind: str, structure: Structure, type: str, gone: Mapping[str, Set[int]]) -> Structure:
    if kind == "grow":
        return structure.backbone.grown(structure, type).structure
    if kind == "cut":
        cell = structure.cell(type)
        sites = tuple(s for s in cell.sites if s.node != cell.nodes[-1].id) if cell.nodes else ()
        return structure.replace_cell(type, attrs.evolve(cell, nodes=cell.nodes[:-1], sites=sites))
    return remove_from(structure, gone)


def _inheriting(structure: Structure) -> Structure:
    """Return the same structure with a gate at the last node of each cell."""
    for type, cell in structure.cells:
        if cell.nodes:
            last = attrs.evolve(cell.nodes[-1], inherits=cell.sites[-1].inputs[-1:])
            structure = structure.replace_cell(type, attrs.evolve(cell, nodes=(*cell.nodes[:-1], last)))
    return structure
