"""Networks that grow by layers and cells: exactly, and with everything that comes after a growth."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from convolutional import Blobs, image_strategy, small
from full import FULL
from nasframe_convolutional import DartsConvolutional, Identity, SeparableConvolution, Zero
from nasframe_growing import DepthGrowth, NodeGrowth
from nasframe_recurrent import Darts, TwoToOne
from recurrent import strategy
from test_resume import check_resumes_everywhere
from torch import Tensor
from toy import PLUGINS, toy_strategy

from nasframe import Backbone, Network, Search, Seed, Strategy, Structure, build
from nasframe.change.edit import fold_gates, remove_candidates
from nasframe.errors import ChangeError, StructureError
from nasframe.interfaces.part import to_plain
from nasframe.network.mixing import readable
from nasframe.pictures import draw_cell
from nasframe.records import Changed, from_json, to_json
from nasframe.search.replay import replay
from nasframe.testing import assertions
from nasframe.testing.fakes import Noise
from nasframe.testing.trained import TrainedNetwork

GROWTH = DepthGrowth()
SIZES = {"inputs": 2, "outputs": 2}
OPERATIONS = (Identity(), SeparableConvolution(3), Zero())
BACKBONES: dict[str, Backbone] = {
    "two_to_one": TwoToOne(3, 1, 0.4),
    "last": Darts(3, 2, 0.4),
    "mean": Darts(3, 1, output="mean"),
    "later": Darts(3, 1, output="later"),
    "concatenation": DartsConvolutional(2, 4, operations=OPERATIONS),
    "mean of nodes": DartsConvolutional(1, 6, "mean", operations=OPERATIONS),
}
IMAGES = Noise((("channels", 1), ("classes", 2), ("height", 6), ("width", 6)), (-1, 1, 6, 6), (-1, 2))


def trained(backbone: Backbone, steps: int = 5) -> TrainedNetwork:
    """Return a network of a backbone that has trained."""
    return _trained(backbone, steps).copy()


@cache
def _trained(backbone: Backbone, steps: int) -> TrainedNetwork:
    task = {"task": IMAGES} if isinstance(backbone, DartsConvolutional) else {}
    return TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4, **task), steps)


def deeper(parent: TrainedNetwork, place: int = 0) -> TrainedNetwork:
    """Return the network with one more layer or cell."""
    return parent.after(GROWTH.edit(parent.network.structure, {"place": place}, {}, Seed((place,))))


def opened(network: Network, g: float) -> Network:
    """Set all gates of a network, and return it."""
    with torch.no_grad():
        for _, gate in network.gates():
            gate.g.fill_(g)
    return network


#: of each kind of body one in a quick run
SOME: dict[str, Backbone] = {
    "two_to_one": BACKBONES["two_to_one"],
    "later": BACKBONES["later"],
    "mean of nodes": attrs.evolve(BACKBONES["mean of nodes"], cells=4),
}
SOME = BACKBONES if FULL else SOME


@pytest.mark.parametrize("backbone", SOME.values(), ids=SOME)
def test_growths_one_after_another(backbone: Backbone) -> None:
    """Depth, a node and depth again are exact in both modes, gradients and moments follow, and the fast form remains right."""
    parent = trained(backbone)
    for turn, growth in enumerate((GROWTH, NodeGrowth("gate"), GROWTH)):
        structure = parent.network.structure
        # the last place, and the type that the new layer or cell has
        type = "normal" if isinstance(backbone, DartsConvolutional) else structure.cells[-1][0]
        request = {"place": len(structure.backbone.deepened(structure)) - 1} if growth is GROWTH else {"cell": type}
        child = parent.after(growth.edit(structure, request, {}, Seed((turn,))))
        assertions.assert_exact(parent, child)
        assertions.assert_gradients_follow(parent, child)
        assertions.assert_moments_follow(parent, child)
        parent = child.train(3 if FULL else 1)
    assertions.assert_fast_form(parent, second=not isinstance(backbone, DartsConvolutional))
    assertions.assert_reconstructed(parent, PLUGINS.make)


def test_dropout_is_applied_once() -> None:
    """In training mode an added layer passes on what was dropped below it, and drops nothing more."""
    parent = trained(TwoToOne(3, 1, 0.4))

    torch.testing.assert_close(deeper(parent).outputs(True), parent.outputs(True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1])
def test_open_gates_make_the_ordinary_stack_of_cells(place: int) -> None:
    """At g = 1 an added cell has the outputs of the two cells before it as inputs, and so have the cells behind it."""
    child = deeper(deeper(trained(BACKBONES["mean of nodes"]), place), place)
    network = opened(child.network, 1.0).eval()
    body: Any = network.body
    mixing = {address: [*weights] for address, weights in child.mixing().items()}
    states: list[Tensor] = [*body.stem(child.inputs())]
    behind = (1, 5)[place]
    for number, cell in enumerate(body.cells):
        for module in (cell, *(added.cell for added in body.added if number == behind)):
            states.append(module(mixing, *states[-2:]))

    torch.testing.assert_close(readable(body, child.inputs(), child.mixing()), body.head(states[-1]), rtol=1e-12, atol=1e-12)


def test_open_gates_make_an_ordinary_layer() -> None:
    """At g = 1 an added layer computes what a layer without gates computes."""
    child = deeper(trained(TwoToOne(3)))
    structure = child.network.structure
    ungated = structure
    for type, cell in structure.cells:
        ungated = ungated.replace_cell(type, attrs.evolve(cell, nodes=tuple(attrs.evolve(n, inherits=()) for n in cell.nodes)))
    plain = build(ungated, Seed((0,)), like=child.network)
    plain.load_state_dict({name: t for name, t in child.network.state_dict().items() if ".gates." not in name})
    found, wanted = (n.eval()(child.inputs(), child.mixing()) for n in (opened(child.network, 1.0), plain))

    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


RUNS = {
    "recurrent": toy_strategy(growth=(GROWTH, NodeGrowth("gate")), seeds=1),
    "images": image_strategy(task=Blobs(6), backbone=small(cells=4, operations=OPERATIONS), growth=(GROWTH,), seeds=1),
}


def test_resumed_at_every_event() -> None:
    """A search that grows by layers and nodes, prunes and folds ends in the same bytes from every event."""
    assert check_resumes_everywhere(toy_strategy(growth=(GROWTH, NodeGrowth("gate")))) >= 24


@pytest.mark.parametrize("strategy", RUNS.values(), ids=RUNS)
def test_a_whole_search(strategy: Strategy) -> None:
    """It grows exactly, derives an architecture, folds what can be folded, is replayed from its records, and is compared."""
    search = Search(strategy)
    changes = [event for event in search if isinstance(event, Changed)]
    grown = [change for change in changes if change.by == "depth"]
    assert grown
    assert all(change.claim["kind"] == "exact" and change.distance == 0 for change in grown)
    assert search.network.structure.decided
    kept = {gate.address for _, gate in search.network.gates()}
    assert kept == {*next(change for change in changes if change.change == "fold").request["kept"]} != set()
    lineage = [from_json(to_json(record)) for record in search.state.lineage]
    assert [*replay(strategy, lineage, search.state.evidence, PLUGINS)][-1] == search.network.structure

    depth = search.network.structure.backbone
    for _ in search.compare(plugins=PLUGINS):
        pass
    random = [e.structure for e in search.state.evaluations if e.name.startswith("random")]
    assert random
    assert all(structure["backbone"] == to_plain(depth) for structure in random)


def architecture(name: str) -> Network:
    """Return an architecture that was deepened twice, with gates that are partly open."""
    network = deeper(deeper(trained(BACKBONES[name]))).network
    structure = network.structure
    removed = network.backbone.derive(structure, network.mixing())
    found = fold_gates(remove_candidates(structure, removed).structure).structure
    return opened(build(found, Seed((0,))).eval(), 0.3)


@pytest.mark.parametrize("name", ["two_to_one", "concatenation", *["later"] * FULL])
def test_architectures_are_exported_and_drawn(name: str, tmp_path: Path) -> None:
    """torch.export captures a deepened architecture, its cells can be drawn, and its parameters are counted."""
    network = architecture(name)
    x = torch.randn(3, 4, 2) if name != "concatenation" else torch.randn(4, 1, 6, 6)
    program = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-5)

    assert sum(network.count().values()) == sum(p.numel() for p in network.parameters())
    assert network.count()["gates"] == len([*network.gates()]) > 0
    draw_cell(network.structure, None, tmp_path / "cells.svg")
    assert (tmp_path / "cells.svg").stat().st_size > 0


def test_retraining_needs_a_backbone_of_the_same_depth() -> None:
    """Cells of two layers fit a backbone of two layers, and the error for another one names the backbone that they fit."""
    structure = architecture("two_to_one").structure
    with pytest.raises(StructureError, match=r"found in, such as two_to_one hidden=3 layers=3 dropout=0\.4"):
        structure.with_backbone(TwoToOne(8), SIZES)

    assert structure.with_backbone(TwoToOne(8, 3), SIZES).cells == structure.cells


@pytest.mark.parametrize("place", [None, True, -1, 1, "0", 0.0])
def test_other_places_are_refused(place: Any) -> None:
    """A place is one of the numbers that the backbone offers."""
    with pytest.raises(ChangeError, match="the backbone offers 1 places, counted from 0"):
        GROWTH.edit(TwoToOne(3).initial(SIZES, 1), {"place": place}, {}, Seed((0,)))


def test_a_network_without_a_place_is_refused_before_the_search() -> None:
    """Behind a reduction no cell can start as the identity."""
    structure: Structure = small(cells=3).initial({"channels": 1, "classes": 2, "height": 6, "width": 6}, 1)
    with pytest.raises(ChangeError, match="offers no place where a layer or a cell could start as the identity"):
        GROWTH.admits(structure)


@pytest.mark.parametrize("added", [(0,), (2,), (4,), ["3"], (True,), 3])
def test_cells_are_added_behind_normal_cells(added: Any) -> None:
    """Of four cells, the last one is the only normal cell behind which a cell can be added."""
    with pytest.raises(ValueError, match=r"With 4 cells these are \[3\]"):
        small(cells=4, added=added)
