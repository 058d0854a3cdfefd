"""Published cells: their networks have the published sizes, and their structure is what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from full import full_only
from hypothesis import given, strategies as st
from nasframe_convolutional import DartsConvolutional
from nasframe_papers import genotypes
from nasframe_papers.genotypes import (
    CELLS,
    OPERATIONS,
    PARAMETERS,
    SETTINGS,
    Genotypes,
    Pairs,
    architecture,
    built,
    images,
    multiply_adds,
    parameters,
)

from nasframe import Operation, Seed, Structure, build, installed
from nasframe.errors import StructureError
from nasframe.network.cost import cost

#: the setting whose networks are built fastest
SMALL = "CIFAR-10, C = 16, L = 8"


def make(name: str) -> Any:
    """Return the operation of a published name."""
    return installed().make("operation", OPERATIONS[name])


@pytest.mark.parametrize("name", CELLS)
def test_published_numbers_of_small_networks_are_reproduced(name: str) -> None:
    """The parameters of the cells in the smallest setting equal the published ones, without and with the auxiliary head."""
    sizes, options = SETTINGS[SMALL]
    found = (parameters(architecture(sizes, **CELLS[name], **options, auxiliary=weight)) for weight in (0.0, 0.4))
    assert (*found,) == PARAMETERS[name][[*SETTINGS].index(SMALL)]


@full_only
def test_every_published_number_is_reproduced() -> None:
    """Parameters and multiply-adds that are counted from networks equal the published ones, without exception.

    Four cells in four settings without and with the auxiliary head, the recurrent cell, the supernet, four multiply-adds.
    """
    table = [*Genotypes().rows(Path(), print)]
    assert [(row["network"], row["setting"], row["what"]) for row in table if row["ours"] != row["paper"]] == []
    of = [row["what"].split(",")[0] for row in table]
    assert {what: of.count(what) for what in of} == {"parameters": 4 * 4 * 2 + 2, "multiply-adds": 4}


@pytest.mark.parametrize(("name", "means"), [("DARTS_V1", 32 * 16**2 + 64 * 8**2 + 64 * 4), ("PR_DARTS_DL1", 64 * 4)])
def test_the_cost_of_a_network_counts_no_means(name: str, means: int) -> None:
    """The cost of a network is UniNAS's count without the outputs of means: those of average poolings and of the head."""
    sizes, options = SETTINGS[SMALL]
    structure = architecture(sizes, **CELLS[name], **options)
    assert cost(built(structure), (1, 3, 32, 32)).flops == 2 * (multiply_adds(structure) - means)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_what_its_name_says(name: str) -> None:
    """Kernel, dilation and number of convolutions are those of the published name; parameter counts do not show dilation."""
    found = [getattr(make(name), field, None) for field in ("kernel", "dilation", "expansion")]
    assert found == [
        int(name[-1]) if name[-1].isdigit() else None,
        *{"sep": (1, (1,)), "dil": (2, ())}.get(name[:3], (None, None)),
    ]


@st.composite
def cells(draw: st.DrawFn) -> Pairs:
    """Return up to four nodes, each with two of the states before it, possibly the same one twice."""
    inputs = [draw(st.integers(0, 1 + place // 2)) for place in range(2 * draw(st.integers(1, 4)))]
    return [(draw(st.sampled_from([*OPERATIONS])), input) for input in inputs]


def read(structure: Structure, type: str) -> list[tuple[Operation, int]]:
    """Return the pairs of a cell."""
    cell = structure.cell(type)
    states = [*structure.backbone.inputs, *(node.id for node in cell.nodes)]
    sites = [site for node in cell.nodes for site in cell.sites if site.node == node.id]
    return [(site.candidates[0].operation, states.index(site.inputs[0])) for site in sites]


class TestArchitecture:
    @given(cells(), cells(), st.integers(1, 4), st.sampled_from(["concatenation", "mean", "loose_ends"]))
    def test_it_is_what_was_published(self, normal: Pairs, reduction: Pairs, depth: int, output: str) -> None:
        """The structure has the published pairs, also after a round trip through JSON, and builds a network with class scores."""
        structure = architecture(images(8, 3), normal, reduction, channels=2, cells=depth, output=output)
        again = Structure.from_json(structure.to_json(), installed().make)

        assert again == structure
        assert structure.decided
        for type, _ in structure.cells:
            assert read(structure, type) == [(make(o), i) for o, i in {"normal": normal, "reduction": reduction}[type]]
        network = build(again, Seed((0,))).double().eval()
        assert network(torch.zeros(2, 3, 8, 8, dtype=torch.float64)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            (
                [("sep_conv_3x3", 0)],
                r"no image cell can be built from \[\('sep_conv_3x3', 0\)\]: give two pairs for each node",
            ),
            ([("conv", 0), ("conv", 1)], "each with one of the operations skip_connect, max_pool_3x3"),
            (
                [("skip_connect", 0), ("skip_connect", 2)],
                "site normal/n0-n0 has the input 'n0', which is neither an input of the cell nor a node before",
            ),
            (
                [("skip_connect", 0), ("skip_connect", -1)],
                "has the input 'i-1', which is neither an input of the cell nor a node before",
            ),
        ],
    )
    def test_refusals(self, pairs: Pairs, message: str) -> None:
        """Half a node, an unknown operation and an input that does not exist are refused with the reason."""
        with pytest.raises(StructureError, match=message):
            architecture(images(8, 3), pairs, pairs)


class TestMutants:
    """Each is a network with one fault, which changes the number of parameters."""

    @staticmethod
    def counted(name: str, **fault: Any) -> bool:
        """Return whether the network of a cell has the published number of parameters."""
        sizes, options = SETTINGS[SMALL]
        published = dict(zip(SETTINGS, PARAMETERS[name], strict=True))[SMALL][0]
        return parameters(architecture(sizes, **CELLS[name], **options, **fault)) == published

    def test_the_form_of_a_search(self) -> None:
        """BatchNorm without scale and shift, as in a search, is noticed."""
        assert self.counted("DARTS_V1")
        assert not self.counted("DARTS_V1", affine=False)

    def test_all_nodes_as_outputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A NASNet cell that outputs all of its nodes, and not only the loose ends, is noticed."""
        assert self.counted("NASNet")
        monkeypatch.setattr(DartsConvolutional, "outputs", lambda self, cell: tuple(node.id for node in cell.nodes))
        assert not self.counted("NASNet")

    def test_a_lost_edge(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lost edge, where two edges have the same states, is noticed."""
        honest = genotypes.cell
        monkeypatch.setattr(
            genotypes, "cell", lambda nodes, ids: honest([[*{s: (d, s) for d, s in node}.values()] for node in nodes], ids)
        )
        assert not self.counted("NASNet")
