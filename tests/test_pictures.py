"""Pictures show what they should, without overlaps, and the same input gives the same bytes."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import forked
import matplotlib
import numpy as np
import pytest
from full import FULL
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from nasframe_recurrent import TwoToOne
from torch import nn

from nasframe import Candidate, Cell, Node, Operation, Site, Structure
from nasframe.interfaces.part import short_name
from nasframe.pictures import draw_cell, draw_curves, draw_distribution, draw_learning, draw_mixing, draw_paths, mixing as heat
from nasframe.pictures.diagram import diagram
from nasframe.pictures.layout import Placed
from nasframe.pictures.learning import _learning, _range
from nasframe.pictures.mixing import Panel, Sheet, panels_of
from nasframe.records import Changed, EpochEnded, Evaluated, StageEnded, TrialEnded

FORMATS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
DARTS = [(0, ("s0", "s1")), (1, ("s1", "n0")), (2, ("s0", "s1", "n1")), (3, ("s0", "n2"))]

drawn = settings(max_examples=40 if FULL else 5)


@attrs.frozen
class Convolution(Operation):
    name: ClassVar[str] = "convolution"
    arity: ClassVar[int] = 1
    kernel: int = 3
    expansion: tuple[int, ...] = ()

    def build(self, **sizes: int) -> nn.Module:
        return nn.Identity()


@attrs.frozen
class Dear(Operation):
    """An operation whose name looks like a formula of matplotlib."""

    name: ClassVar[str] = "a $dear$ one"
    arity: ClassVar[int] = 1

    def build(self, **sizes: int) -> nn.Module:
        return nn.Identity()


EDGE = (Convolution(), Convolution(5, (1, 2)), Dear())


def edges(nodes: Sequence[tuple[int, Sequence[str]]], operations: Sequence[Operation] = EDGE) -> Structure:
    """Return a cell with a site for each input of each node."""
    ids = itertools.count()
    sites = tuple(
        Site(f"n{node}<{i}", f"n{node}", (i,), tuple(Candidate(next(ids), o) for o in operations))
        for node, inputs in nodes
        for i in inputs
    )
    cell = Cell(tuple(Node(f"n{node}") for node, _ in nodes), sites, len(nodes))
    return Structure(TwoToOne(), (), (("normal", cell),), next(ids))


def chain(nodes: int, layers: int = 1) -> Structure:
    """Return a supernet of Two-to-One."""
    return TwoToOne(layers=layers).initial({"inputs": 3, "outputs": 1}, nodes)


def gated(structure: Structure, node: str, *inherits: str) -> Structure:
    """Return the same structure with a gate at a node of the first cell."""
    type, cell = structure.cells[0]
    nodes = tuple(attrs.evolve(n, inherits=inherits) if n.id == node else n for n in cell.nodes)
    return structure.replace_cell(type, attrs.evolve(cell, nodes=nodes))


def decided(structure: Structure) -> Structure:
    """Return the structure with the first candidate of each site only."""
    for type, cell in structure.cells:
        sites = tuple(attrs.evolve(s, candidates=s.candidates[:1]) for s in cell.sites)
        structure = structure.replace_cell(type, attrs.evolve(cell, sites=sites))
    return structure


def weights(structure: Structure) -> dict[str, list[float]]:
    """Return mixing weights that all differ: 0.01, 0.02, ..."""
    numbers = itertools.count(1)
    return {a: [next(numbers) / 100 for _ in s.candidates] for a, s in structure.sites() if not s.decided}


STRUCTURES = {
    "chain": chain(8),
    "layers": decided(chain(3, layers=2)),
    "gated": gated(chain(3), "n2", "n1"),
    "darts": edges(DARTS),
    "darts decided": decided(edges(DARTS)),
    "darts gated": gated(edges(DARTS), "n3", "n0", "n2"),
    "empty": Structure(TwoToOne(), (), (("layer0", Cell()),)),
}


def texts(path: Path) -> list[str]:
    """Return all texts of an SVG."""
    return ["".join(e.itertext()).strip() for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


def epoch(stage: int, phase: str, updates: int, valid: float | None, train: float | None = None) -> EpochEnded:
    """Return a record of the history."""
    train = valid if train is None else train
    place = {"stage": stage, "phase": phase, "epoch": 0, "updates": updates}
    return EpochEnded(**place, train=train, valid=valid, nodes={"a": stage + 1})


def record(stage: int, kind: str, updates: int) -> Changed:
    """Return a record of the lineage."""
    place = {"stage": stage, "phase": "judge", "epoch": 0, "updates": updates, "nodes": {"a": stage + 1}}
    return Changed(**place, change=kind, by=kind, why="", parent="", child="")


#: pruned at each stage, and once more for the retuning
PHASES = [(0, "search"), (0, "tune"), (1, "search"), (1, "tune"), (1, "retune")]
HISTORY = [
    r
    for i, (stage, phase) in enumerate(PHASES)
    for r in (
        *(epoch(stage, phase, 100 * i + 10 * e, 1 / (10 * i + e) + 0.5) for e in range(1, 11)),
        StageEnded(stage=stage, phase="judge", epoch=0, updates=100 * i + 100, valid=0.5),
    )
]
RECORDS = [(0, "remove", 100), (1, "grow", 200), (1, "remove", 300), (1, "restore", 400), (1, "remove", 400), (1, "fold", 500)]
LINEAGE = [record(*r) for r in RECORDS]
SCORED = [
    attrs.evolve(r, scores={"accuracy": 1 - r.valid / 2, "mse": r.valid * (1 + 1e-6)})
    for r in HISTORY
    if isinstance(r, EpochEnded)
]


def mixed(stage: int, structure: Structure | None) -> EpochEnded:
    """Return a record of the history with mixing weights that all differ."""
    if structure is None:
        return EpochEnded(stage=stage, phase="search", epoch=0, updates=0, train=None)
    named = {
        address: {
            f"{c.id} {short_name(c.operation)}": w for c, w in zip(dict(structure.sites())[address].candidates, ws, strict=True)
        }
        for address, ws in weights(structure).items()
    }
    return EpochEnded(stage=stage, phase="search", epoch=0, updates=0, train=None, mixing=named)


#: two epochs, a growth, two more, and one behind the pruning
JUDGED = StageEnded(stage=0, phase="judge", epoch=0, updates=0, valid=None)
MIXED = [mixed(0, chain(1)), mixed(0, chain(1)), JUDGED, mixed(1, chain(2)), mixed(1, chain(2)), mixed(1, None)]


# ---------------------------------------------------------------------------------------------------------- both pictures


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_suffix_tells_the_format(suffix: str, tmp_path: Path) -> None:
    """A file begins as its format does."""
    draw_cell(STRUCTURES["gated"], None, tmp_path / f"cell{suffix}")
    if FULL or suffix == ".png":
        draw_learning(HISTORY, LINEAGE, tmp_path / f"learning{suffix}")
        draw_mixing(MIXED, tmp_path / f"weights{suffix}")

    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(FORMATS[suffix])


@pytest.mark.parametrize("suffix", FORMATS if FULL else [".svg"])
def test_the_same_input_makes_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    """A caller's settings of matplotlib do not reach the pictures, and they do not change."""
    structure = STRUCTURES["darts gated"]
    for name, settings_of_caller in {
        "plain": {},
        "changed": {"font.size": 20, "svg.fonttype": "path", "lines.linewidth": 9},
    }.items():
        with matplotlib.rc_context(settings_of_caller):
            before = dict(matplotlib.rcParams)
            draw_cell(structure, weights(structure), tmp_path / f"{name}{suffix}")
            draw_learning(SCORED, LINEAGE, tmp_path / f"{name} learning{suffix}", "accuracy")
            draw_mixing(MIXED, tmp_path / f"{name} weights{suffix}")
            assert dict(matplotlib.rcParams) == before

    for picture in ("", " learning", " weights"):
        same = {(tmp_path / f"{name}{picture}{suffix}").read_bytes() for name in ("plain", "changed")}
        assert len(same) == 1, picture


def test_another_process_makes_the_same_bytes_without_pyplot(tmp_path: Path) -> None:
    """Neither the order of a set nor anything of the process gets into a picture.

    In a quick run the process is a copy, whose sets may have the same order as here; a test of the command line has others.
    """
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "sys.modules['matplotlib.pyplot'] = None  # an import is an error\n"
        "from test_pictures import *\n"
        "draw_cell(STRUCTURES['darts'], None, Path('cell.svg')); draw_learning(HISTORY, LINEAGE, Path('learning.svg'))\n"
        "draw_mixing(MIXED, Path('weights.svg'))\n"
    )
    python = [sys.executable, "-W", "error"] if FULL else forked.command()
    command = [*python, "-c", script, str(Path(__file__).parent)]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True)

    here = tmp_path / "here"
    here.mkdir()
    draw_cell(STRUCTURES["darts"], None, here / "cell.svg")
    draw_learning(HISTORY, LINEAGE, here / "learning.svg")
    draw_mixing(MIXED, here / "weights.svg")
    for path in here.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


# --------------------------------------------------------------------------------------------------------------- the cell


@pytest.mark.parametrize("name", STRUCTURES)
def test_all_names_are_in_the_picture(name: str, tmp_path: Path) -> None:
    """The picture names every cell type, node, operation and input, the output, and the states that a node inherits."""
    structure = STRUCTURES[name]
    draw_cell(structure, weights(structure), tmp_path / "cell.svg")

    shown = texts(tmp_path / "cell.svg")
    assert {type for type, _ in structure.cells} | {"output"} <= set(shown)
    assert {n.id for _, n in structure.nodes()} | {i for _, s in structure.sites() for i in s.inputs} - {"h"} <= set(shown)
    assert {f"inherits {', '.join(n.inherits)}" for _, n in structure.nodes() if n.inherits} <= set(shown)
    for operation in {c.operation for _, s in structure.sites() for c in s.candidates}:
        count = sum(c.operation == operation for _, s in structure.sites() for c in s.candidates)
        assert sum(text.split(" ")[0] == operation.name.split(" ")[0] for text in shown) >= count, operation


def test_options_distinguish_operations(tmp_path: Path) -> None:
    """An operation is written with the options that differ from the default."""
    draw_cell(edges([(0, ("s0", "s1"))]), None, tmp_path / "cell.svg")

    assert {"convolution", "convolution kernel=5 expansion=1,2", "a $dear$ one"} <= set(texts(tmp_path / "cell.svg"))


@pytest.mark.parametrize("name", STRUCTURES)
def test_mixing_weights_are_written(name: str, tmp_path: Path) -> None:
    """Every mixing weight is written if they are given, and no number if they are not."""
    structure = STRUCTURES[name]
    given = weights(structure)
    draw_cell(structure, given, tmp_path / "with.svg")
    draw_cell(structure, None, tmp_path / "without.svg")

    assert {f"{w:.2f}" for ws in given.values() for w in ws} == {t for t in texts(tmp_path / "with.svg") if t.startswith("0.")}
    assert not [t for t in texts(tmp_path / "without.svg") if t.startswith("0.")]


@st.composite
def dags(draw: st.DrawFn) -> Structure:
    """Draw a cell of up to seven nodes, each with sites on some of the earlier states, and some with gates."""
    nodes: list[tuple[int, Sequence[str]]] = []
    states = ["s0", "s1"]
    for node in range(draw(st.integers(0, 7))):
        nodes.append((node, draw(st.lists(st.sampled_from(states), min_size=1, max_size=5, unique=True))))
        states.append(f"n{node}")
    structure = edges(nodes, EDGE[: draw(st.integers(1, 3))])
    for node, inputs in nodes:
        if draw(st.booleans()):
            structure = gated(structure, f"n{node}", *inputs)
    return structure


def room(placed: Placed, key: tuple[str, ...]) -> tuple[float, float]:
    """Return the upper and the lower end of a box or rail."""
    half = placed.diagram.height(key) / 2
    return placed.y[key] - half, placed.y[key] + half


@drawn
@given(dags(), st.booleans())
def test_nothing_overlaps(structure: Structure, with_weights: bool) -> None:
    """Boxes and rails of a column keep their distance, columns do as well, and edges go from left to right."""
    shown = weights(structure) if with_weights else {}
    placed = Placed.of(diagram(structure, "normal", shown))
    layer = {k: i for i, column in enumerate(placed.diagram.columns) for k in column}

    for column in placed.diagram.columns:
        for upper, lower in itertools.pairwise(column):
            assert room(placed, lower)[0] - room(placed, upper)[1] > 0.15
    assert all(next_left - right > 0.25 for (_, right), (next_left, _) in itertools.pairwise(placed.edges))
    assert all(layer[s.target] == layer[s.source] + 1 for s in placed.diagram.segments)


@drawn
@given(dags())
def test_edges_meet_their_box_one_below_the_other(structure: Structure) -> None:
    """Edges meet a box in the order of their sources, at different heights of the box."""
    placed = Placed.of(diagram(structure, "normal", {}))

    for key in placed.diagram.boxes:
        arriving = sorted((s for s in placed.diagram.segments if s.target == key), key=placed.ports.__getitem__)
        ends = [placed.ports[s] for s in arriving]
        assert [placed.y[s.source] for s in arriving] == sorted(placed.y[s.source] for s in arriving)
        assert all(room(placed, key)[0] <= end <= room(placed, key)[1] for end in ends)
        assert all(b - a > 0.03 for a, b in itertools.pairwise(ends))


def test_the_edges_of_a_chain_are_level() -> None:
    """The states of Two-to-One are in a row, and the edge of the input is level above them."""
    structure = decided(chain(8))
    placed = Placed.of(diagram(structure, "layer0", {}))
    states = [placed.y["state", name] for name in ("h", *(f"n{i}" for i in range(8)))]
    rails = [placed.y[k] for k in placed.y if k not in placed.diagram.boxes]

    assert max(states) - min(states) < 0.01
    assert max(rails) - min(rails) < 0.01


# ------------------------------------------------------------------------------------------------------ the learning curves


def test_the_legend_names_what_is_drawn(tmp_path: Path) -> None:
    """The legend names losses, phases, changes and axes; the number of nodes is above each growth."""
    draw_learning(HISTORY, LINEAGE, tmp_path / "learning.svg")
    shown = set(texts(tmp_path / "learning.svg"))

    assert {"validation", "phase: search", "phase: tune", "phase: retune", "growth", "pruning"} <= shown
    assert {"updates of the weights", "loss per example", "nodes in a", "1", "2"} <= shown
    assert f"best network of retune, {1 / 50 + 0.5:.4g}" in shown
    assert f"above the axis, up to {1 / 1 + 0.5:.4g}" in shown


@given(st.lists(st.booleans(), min_size=2, max_size=12))
@drawn
def test_curves_are_interrupted_by_trials(kinds: list[bool]) -> None:
    """No line joins the losses before a trial with those after it, and the trials have a part of the background."""
    epochs = [epoch(0, "search", 10 * i, 1 + i) for i, trains in enumerate(kinds, 1) if trains]
    place = {"stage": 0, "phase": "trials", "epoch": 0}
    trials = [
        TrialEnded(**place, updates=10 * i, number=i, picks=(0,), budget=1) for i, trains in enumerate(kinds, 1) if not trains
    ]
    axes = Figure().subplots()
    handles = _learning(axes, epochs, [], trials)
    curves = [[*map(int, np.atleast_1d(line.get_xdata()))] for line in axes.lines if line.get_label() == "validation"]
    drawn = sorted(itertools.chain(*curves))

    assert drawn == [r.updates for r in epochs]
    assert not any(a < trial.updates < b for curve in curves for a, b in itertools.pairwise(curve) for trial in trials)
    assert [handle.get_label() for handle in handles].count("trials") == bool(trials and epochs)


def test_what_did_not_happen_is_not_in_the_legend(tmp_path: Path) -> None:
    """The legend of a search without growth and pruning names neither."""
    draw_learning([epoch(0, "search", 10 * e, 1.0) for e in range(1, 5)], [], tmp_path / "learning.svg")

    assert not {"phase: tune", "phase: retune", "growth", "pruning"} & set(texts(tmp_path / "learning.svg"))


@pytest.mark.parametrize("did", [("added",), ("removed",), ("added", "removed"), ()], ids="-".join)
def test_a_change_of_a_plan_is_a_growth_a_pruning_or_both(did: tuple[str, ...], tmp_path: Path) -> None:
    """What a change added and removed in one transaction is drawn; one that only reset alphas is not."""
    request = {what: ["something"] if what in did else [] for what in ("added", "removed")}
    change = attrs.evolve(record(0, "edit", 20), request=request)
    draw_learning([epoch(0, "explore", 10 * e, 1.0) for e in range(1, 5)], [change], tmp_path / "learning.svg")
    names = {"added": "growth", "removed": "pruning"}

    assert {"growth", "pruning"} & set(texts(tmp_path / "learning.svg")) == {names[what] for what in did}


@pytest.mark.parametrize("outlier", [10.0, 1e4, 1e12])
def test_an_outlier_does_not_compress_the_rest(outlier: float) -> None:
    """An outlier is above the axis, and the other losses use most of it."""
    losses = 0.4 + 0.1 * np.exp(-np.arange(100) / 20)
    _, bottom, top = _range(np.append(losses, outlier))

    assert top < outlier
    assert np.ptp(losses) > 0.25 * (top - bottom)


def test_losses_over_decades_are_on_a_logarithmic_axis() -> None:
    """Losses over several decades have a logarithmic axis that shows all of them."""
    losses = 2.3 * np.exp(-np.arange(100) / 20) + 0.01
    scale, bottom, top = _range(losses)

    assert scale == "log"
    assert bottom < losses.min() < losses.max() < top


@drawn
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_axis_shows_at_least_three_quarters(losses: list[float]) -> None:
    """The axis shows at least three quarters of any losses, including the smallest."""
    _, bottom, top = _range(np.array(losses))

    assert bottom < min(losses) < top
    assert sum(value <= top for value in losses) >= 0.75 * len(losses)
    assert math.isfinite(bottom)
    assert math.isfinite(top)


ODD: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "nothing yet": [],
    "one epoch": [epoch(0, "search", 1, 0.5)],
    "no progress": [epoch(0, "search", e, 0.5) for e in range(1, 9)],
    "below zero": [epoch(0, "search", e, 1.0 - e) for e in range(1, 9)],
    "zero": [epoch(0, "search", e, 0.0) for e in range(1, 9)],
    "decades": [epoch(0, "search", e, 10.0 ** (-e)) for e in range(1, 9)],
    "all diverged": [epoch(0, "search", e, None) for e in range(1, 4)],
    "bad end": [*(epoch(0, "search", e, 0.5) for e in range(1, 9)), epoch(0, "retune", 9, 3824.6, 15166.5)],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_histories_are_drawn(name: str, tmp_path: Path) -> None:
    """Unusual histories are drawn without a warning or an error."""
    draw_learning(ODD[name], [], tmp_path / "learning.png")

    assert (tmp_path / "learning.png").stat().st_size > 0


def test_a_score_has_axes_of_its_own(tmp_path: Path) -> None:
    """A score is drawn below the losses, unless it equals the loss or does not exist."""
    for score in ("accuracy", "mse", "absent"):
        draw_learning(SCORED, LINEAGE, tmp_path / f"{score}.svg", score)
    shown = {path.stem: {*texts(path)} for path in tmp_path.iterdir()}

    assert "validation accuracy" in shown["accuracy"]
    assert shown["mse"] == shown["absent"]
    assert not [text for text in shown["mse"] if text.startswith("validation ")]


def test_without_a_validation_part_nothing_is_the_best(tmp_path: Path) -> None:
    """Without a validation split only the training loss is drawn and named."""
    history = [attrs.evolve(r, valid=None, scores={}) for r in SCORED]
    draw_learning(history, [], tmp_path / "learning.svg", "accuracy")
    shown = {*texts(tmp_path / "learning.svg")}

    assert "training, mean over each epoch" in shown
    assert not [text for text in shown if "validation" in text or "best" in text]


# ---------------------------------------------------------------------------------------------------- weights over time

#: for each epoch, the mixing weights by site and candidate
Epochs = Sequence[Mapping[str, Mapping[int, float]]]


@st.composite
def mixing_histories(draw: st.DrawFn) -> Epochs:
    """Draw up to six epochs with mixing weights of some candidates at some sites."""
    shares = st.dictionaries(st.integers(0, 12), st.floats(0.01, 1), min_size=2, max_size=5)
    sites = st.sampled_from([f"{type}/n{i}" for type in ("normal", "reduction") for i in range(7)])
    return draw(st.lists(st.dictionaries(sites, shares), min_size=1, max_size=6))


def as_history(epochs: Epochs) -> list[EpochEnded]:
    """Return the records of these epochs. Three consecutive ids have the same short name."""
    named = [{a: {f"{i} o k={i // 3}": w for i, w in ws.items()} for a, ws in sites.items()} for sites in epochs]
    return [EpochEnded(stage=0, phase="search", epoch=0, updates=0, train=None, mixing=sites or {}) for sites in named]


def check_panels(epochs: Epochs, found: Mapping[str, Sequence[Panel]]) -> None:
    """Assert that each value is in the row of its candidate and the column of its epoch, that there are no others, and that older
    sites come first.
    """
    for type, panels in found.items():
        oldest = [min(i for sites in epochs for i in sites.get(f"{type}/{panel.site}", ())) for panel in panels]
        assert oldest == sorted(oldest)
        for panel in panels:
            address = f"{type}/{panel.site}"
            ids = sorted({i for sites in epochs for i in sites.get(address, ())})
            expected = [[sites.get(address, {}).get(i, np.nan) for sites in epochs] for i in ids]
            np.testing.assert_array_equal(panel.values, np.array(expected))
            assert panel.candidates == tuple(f"o k={i // 3}" for i in ids)
    assert {f"{t}/{p.site}" for t, panels in found.items() for p in panels} == {a for sites in epochs for a in sites}


@given(mixing_histories())
def test_a_candidate_keeps_its_row(epochs: Epochs) -> None:
    """A candidate keeps its row while others are added and removed, even if several have the same name."""
    check_panels(epochs, panels_of(as_history(epochs)))


def test_fails_if_rows_go_by_position() -> None:
    """The law detects panels in which rows follow the position in the record instead of the id."""
    epochs = [{"normal/n0": {0: 0.5, 3: 0.5}}, {"normal/n0": {3: 0.25, 6: 0.75}}]
    moved = [{a: dict(enumerate(ws.values())) for a, ws in sites.items()} for sites in epochs]

    with pytest.raises(AssertionError):
        check_panels(epochs, panels_of(as_history(moved)))


def room_of(place: heat.Place, names: float) -> tuple[float, float, float, float]:
    """Return the box of a panel with its title, its ticks and the names of its candidates, if they are written."""
    panel = place.panel
    left = place.left - (names if place.named else 0.0)
    return left, place.left + heat.WIDE, place.top - heat.TITLE + 0.05, place.top + panel.height + heat.TICKS - 0.05


@drawn
@given(mixing_histories())
def test_panels_do_not_overlap(epochs: Epochs) -> None:
    """Panels with titles, ticks and names do not overlap, and all are on the sheet, above the legend."""
    groups = panels_of(as_history(epochs))
    sheet = Sheet.of(groups)
    names = max((heat.width_of(n, heat.SMALL) for ps in groups.values() for p in ps for n in p.candidates), default=0.0)
    rooms = [room_of(place, names) for place in sheet.places]

    assert [place.panel for place in sheet.places] == [panel for panels in groups.values() for panel in panels]
    for left, right, top, bottom in rooms:
        assert left > 0
        assert top > 0
        assert right < sheet.width
        assert bottom < sheet.height - heat.FOOT
    for a, b in itertools.combinations(rooms, 2):
        assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]


def test_weights_are_drawn_by_name(tmp_path: Path) -> None:
    """Cell type, sites, operations, scale and colours are named; a panel with the same candidates as the one before is not."""
    draw_mixing(MIXED, tmp_path / "grown.svg")
    draw_mixing(MIXED[:2], tmp_path / "still.svg")
    grown, still = (texts(tmp_path / f"{name}.svg") for name in ("grown", "still"))
    operations = [c.operation.name for _, site in chain(1).sites() for c in site.candidates]

    assert {"layer0", "n0", "n1", *operations, "0", "0.40", "growth", "not a candidate"} <= {*grown}
    assert all(grown.count(name) == 1 for name in operations)
    assert not {"n1", "growth", "not a candidate"} & {*still}


@pytest.mark.parametrize("history", [[], MIXED[:1], [mixed(0, None)]], ids=["nothing yet", "one epoch", "all decided"])
def test_short_histories_of_weights_are_drawn(history: Sequence[Mapping[str, Any]], tmp_path: Path) -> None:
    """Unusual histories are drawn without a warning or an error."""
    draw_mixing(history, tmp_path / "mixing.png")

    assert (tmp_path / "mixing.png").stat().st_size > 0


def curves(number: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return falling curves with standard errors."""
    return {f"a $dear$ curve {i}": ([1 / (t + i + 1) for t in range(5)], [0.01 * i] * 5) for i in range(number)}


def test_every_curve_is_in_the_legend(tmp_path: Path) -> None:
    """Every curve is in the legend with its exact name; the same input gives the same bytes."""
    draw_curves(curves(8), tmp_path / "a.svg", x="epochs", y="loss")
    assert {*curves(8), "epochs", "loss"} <= {*texts(tmp_path / "a.svg")}
    draw_curves(curves(8), tmp_path / "b.svg", x="epochs", y="loss")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_paths_are_drawn_with_their_ends(tmp_path: Path) -> None:
    """Each path, the line and the goal are named; the same input gives the same bytes."""
    paths = {"one": [(0.0, 1.0), (1.0, 1.0)], "two": [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]}
    for name in ("a.svg", "b.svg"):
        draw_paths(paths, tmp_path / name, x="alpha", y="w", line=("w = alpha", (0.0, 0.0), (1.0, 1.0)), goal=(1.0, 1.0))

    assert {"one", "two", "w = alpha", "solution (1.0, 1.0)", "alpha", "w"} <= {*texts(tmp_path / "a.svg")}
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_distribution_shows_each_network_that_did_not_diverge(tmp_path: Path) -> None:
    """Each kind of network and each budget of trials has a row, and the mark of the found cell and of the best loss a legend."""
    rows = [("found cell", 0.2, True), ("a $dear$ one", 0.3, False), ("a $dear$ one", None, False)]
    evaluations = [
        Evaluated(stage=0, phase="done", epoch=0, updates=9, number=i, name=name, valid=valid, best=best)
        for i, (name, valid, best) in enumerate(rows)
    ]
    trials = [
        TrialEnded(
            stage=0, phase="trials", epoch=i, updates=9, number=i, picks=(i % 2,), budget=budget, valid=valid, best=i in (0, 2)
        )
        for i, (budget, valid) in enumerate([(3, 0.5), (3, None), (6, 0.4)])
    ]
    draw_distribution(evaluations, trials, tmp_path / "distribution.svg")
    texts = {element.text for element in ElementTree.parse(tmp_path / "distribution.svg").iter() if element.text}  # noqa: S314

    assert {"found cell", "trials of budget 6", "trials of budget 3", "handed over", "found cell in its trials"} <= texts
    assert any("dear" in text for text in texts)
