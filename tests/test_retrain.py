"""Retraining of found architectures, and the random architectures that they are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import attrs
import convolutional
import pytest
import torch
from convolutional import Blobs, image_strategy, small
from hypothesis import given, strategies as st
from nasframe_recurrent import Darts, TwoToOne
from test_checkpoint import Killed
from test_resume import digest
from torch import Tensor
from toy import PLUGINS, toy_strategy

from nasframe import Pruner, Search, Seed, Strategy, Structure, build
from nasframe.errors import RunError, StrategyError, StructureError
from nasframe.records import EpochEnded, Evaluated, Finished
from nasframe.run import commits
from nasframe.run.folder import Folder, found
from nasframe.run.rows import rows_of
from nasframe.search.compare import FOUND, INHERITED, RANDOM, RETRAINED
from nasframe.search.evaluate import predicting
from nasframe.search.random_architecture import random_architecture
from nasframe.testing.saved import revived, saved

SEEDS = st.integers(0, 2**16).map(lambda number: Seed((number,)))
#: strategies with the sizes of their tasks
SPACES = {
    "two_to_one": (toy_strategy(backbone=TwoToOne(hidden=2, layers=2)), {"inputs": 2, "outputs": 2}),
    "darts": (toy_strategy(backbone=Darts(hidden=2)), {"inputs": 2, "outputs": 2}),
    "images": (image_strategy(), {"channels": 1, "classes": 3, "height": 8, "width": 8}),
}


def architecture(strategy: Strategy, sizes: Mapping[str, int], nodes: int = 2, seed: int = 0) -> Structure:
    """Return an architecture of the strategy's space."""
    return random_architecture(strategy, strategy.backbone.initial(sizes, nodes), Seed((seed,)))


# ---------------------------------------------------------------------------------------------------- random architectures


@pytest.mark.parametrize("name", SPACES)
@given(nodes=st.integers(1, 3), seed=SEEDS)
def test_a_random_architecture_is_one_of_its_space(name: str, nodes: int, seed: Seed) -> None:
    """A random architecture has one candidate of the supernet at each site, uses every node, and follows from its seed."""
    strategy, sizes = SPACES[name]
    space = strategy.backbone.initial(sizes, nodes)
    one = random_architecture(strategy, space, seed)
    sites = dict(space.sites())

    assert one.decided
    assert all(set(site.candidates) <= set(sites[address].candidates) for address, site in one.sites())
    for (_, cell), (_, before) in zip(one.cells, space.cells, strict=True):
        assert strategy.backbone.outputs(cell) == strategy.backbone.outputs(before)
        assert cell.reaching(strategy.backbone.outputs(cell)) == cell
    assert not any(c.operation.zero for _, site in one.sites() for c in site.candidates)
    assert one == random_architecture(strategy, space, seed)
    assert build(one, seed).structure == one


@attrs.frozen
class Watched(Pruner):
    """A pruner that removes nothing and records the mixing weights that it receives."""

    name = "watched"
    seen: list[Mapping[str, Tensor]] = attrs.field(factory=list)

    def remove(self, structure: Structure, mixing: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        self.seen.append(mixing)
        return {}


def check_even(candidates: int) -> None:
    """Check that each mixing weight has the distribution of a coordinate on the simplex, P(w > x) = (1 - x)^(n - 1)."""
    operations, pruner = TwoToOne().operations[:candidates], Watched()
    strategy = toy_strategy(backbone=TwoToOne(operations=operations), pruner=pruner)
    space = strategy.backbone.initial({"inputs": 1, "outputs": 1}, 1)
    for number in range(400):
        random_architecture(strategy, space, Seed((number, "even")))
    weights = torch.stack([w for seen in pruner.seen for w in seen.values()])
    assert torch.allclose(weights.sum(1), torch.ones(400, dtype=weights.dtype))
    for column in weights.T:
        below = 1 - (1 - column.sort().values) ** (candidates - 1)
        away = (below - (torch.arange(400) + 0.5) / 400).abs().max()
        assert away < 1.95 / 400**0.5, f"{away:.3f} from even"  # Kolmogorov and Smirnov: once in a thousand


@pytest.mark.parametrize("candidates", [2, 3, 5])
def test_weights_are_drawn_evenly(candidates: int) -> None:
    """The mixing weights of a random architecture are uniform on the simplex."""
    check_even(candidates)


def test_fails_if_mixing_weights_are_not_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform numbers divided by their sum, which crowd in the middle of the simplex, are noticed."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator: self.uniform_(generator=generator))

    with pytest.raises(AssertionError, match="from even"):
        check_even(3)


def test_undecided_sites_keep_their_proportions() -> None:
    """What a pruner leaves undecided, the backbone decides by the same mixing weights, normalised again."""
    strategy, sizes = SPACES["images"]
    space = strategy.backbone.initial(sizes, 1)
    draws = torch.empty(space.next_id, dtype=torch.float64).exponential_(generator=Seed((3,)).generator())
    heaviest = {max((draws[c.id].item(), c.id) for c in s.candidates if not c.operation.zero)[1] for _, s in space.sites()}
    one = random_architecture(attrs.evolve(strategy, pruner=Watched()), space, Seed((3,)))

    assert {c.id for _, s in one.sites() for c in s.candidates} == heaviest


@pytest.mark.parametrize("strategy", [toy_strategy(seeds=2), image_strategy(task=Blobs(6), seeds=2)], ids=["toy", "images"])
def test_the_comparison_has_random_architectures(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison has a random architecture for each seed, with as many nodes as the found one and the same training."""
    made: list[tuple[Structure, Structure]] = []

    def recorded(strategy: Strategy, space: Structure, seed: Seed) -> Structure:
        made.append((space, random_architecture(strategy, space, seed)))
        return made[-1][1]

    monkeypatch.setattr("nasframe.search.compare.random_architecture", recorded)
    search = Search(strategy)
    search.run()
    nodes = [(type, len(cell.nodes)) for type, cell in search.network.structure.cells]
    for _ in search.compare():
        pass
    rows = {row.name: row for row in rows_of(search.state.evaluations)}
    sizes = [sum(p.numel() for p in build(structure, Seed((0,))).parameters()) for _, structure in made]

    assert [*rows][:3] == [INHERITED, FOUND, RANDOM]
    assert [[(type, len(cell.nodes)) for type, cell in space.cells] for space, _ in made] == [nodes, nodes]
    assert [e.parameters for e in rows[RANDOM].evaluations] == sizes
    assert len(rows[RANDOM].evaluations) == len(rows[FOUND].evaluations) == 2


# ------------------------------------------------------------------------------------------------------------- retraining


def image_retraining(**changes: Any) -> Strategy:
    """Return a retraining of two epochs with auxiliary head, drop path, augmentation and a falling rate, on all images."""
    changed = {
        "task": Blobs(size=10, flips=True, validated=False),
        "backbone": small(channels=3, cells=3, affine=True, auxiliary=0.4, drop_path=0.3),
        "optimiser": attrs.evolve(image_strategy().optimiser, epochs=2),
        "criterion": attrs.evolve(image_strategy().criterion, epochs=2),
    }
    return image_strategy(**(changed | changes))


def image_cells() -> Structure:
    """Return image cells of two nodes, as a search may find them."""
    return architecture(*SPACES["images"])


def test_a_retraining_puts_the_cells_into_another_backbone() -> None:
    """Retraining keeps sites and operations, takes width, depth and heads from its strategy, and starts untrained."""
    strategy, cells = image_retraining(), image_cells()
    search = Search.retraining(strategy, cells)
    structure = search.network.structure

    assert structure.cells == cells.cells
    assert structure.backbone == strategy.backbone
    assert search.state.updates == 0
    search.run()
    assert {r.phase for r in search.state.history} == {"retune"}
    start, restored = search.state.lineage
    assert (start.kind, restored.kind, restored.change) == ("start", "change", "restore")
    assert search.state.updates == 4


def test_a_retraining_resumes_at_every_event() -> None:
    """A retraining ends with the same bytes when it is resumed from any event."""
    search = Search.retraining(image_retraining(), image_cells())
    strategy = search.strategy
    dumps = [saved(search.state), *(saved(search.state) for _ in search)]
    expected = digest(search.state)
    for number, (text, tensors) in enumerate(dumps):
        torch.manual_seed(number)
        again = Search(strategy, state=revived(text, tensors, strategy, convolutional.PLUGINS))
        again.run()
        assert digest(again.state) == expected, f"resumed at event {number}"


def test_without_a_validation_part_the_last_network_counts() -> None:
    """Without a validation split no record has a validation loss, and the network is the one after the last step."""
    search, weights = Search.retraining(image_retraining(), image_cells()), {}
    for event in search:
        if isinstance(event, EpochEnded):
            assert (event.valid, event.scores) == (None, {})
            weights = {name: p.detach().clone() for name, p in search.network.named_parameters()}

    assert isinstance(event, Finished)
    assert event.valid is None
    assert all(torch.equal(p, weights[name]) for name, p in search.network.named_parameters())


def begun(path: Path) -> Folder:
    """Return the folder of a retraining before its first step."""
    strategy, sizes = SPACES["two_to_one"]
    search = Search.retraining(strategy, architecture(strategy, sizes))
    return Folder.create(path, search.strategy, PLUGINS, search.state)


def run(folder: Folder, events: int | None = None) -> Search:
    """Continue the run for some events, or to the end."""
    search, keeper = folder.search()
    keeper.every = 1
    for event in itertools.islice(search, events):
        keeper(event)
    return search


def check_resumed(broken: Folder, whole: Folder) -> None:
    """Check that an interrupted retraining continues as a retraining, and ends with the same bytes."""
    expected, actual = run(whole), run(Folder.open(broken.path, PLUGINS))
    assert {r.phase for r in actual.state.history if isinstance(r, EpochEnded)} == {"retune"}
    assert digest(actual.state) == digest(expected.state)
    assert (whole.path / "metrics.jsonl").read_bytes() == (broken.path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("events", [0, 1, 3, 4])
def test_a_killed_retraining_resumes_as_a_retraining(tmp_path: Path, events: int) -> None:
    """A retraining that is killed before or after any step continues as a retraining."""
    broken = begun(tmp_path / "broken")
    run(broken, events)

    check_resumed(broken, begun(tmp_path / "whole"))


def test_fails_if_the_first_state_is_not_saved(tmp_path: Path) -> None:
    """A folder with the strategy only is noticed."""
    broken = Folder.create(tmp_path / "broken", SPACES["two_to_one"][0], PLUGINS)

    with pytest.raises(AssertionError):
        check_resumed(broken, begun(tmp_path / "whole"))


@pytest.mark.parametrize("step", range(12))
def test_the_folder_of_a_retraining_is_never_that_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """If the process is killed while it creates the folder, the folder is that of a retraining or of no run."""
    left = [step]

    def fatal(path: Path, data: bytes, original: Any = commits._write) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        original(path, data)

    monkeypatch.setattr(commits, "_write", fatal)
    try:
        begun(tmp_path / "run")
    except Killed:
        with pytest.raises(RunError, match=r"it contains no strategy\.toml"):
            Folder.open(tmp_path / "run", PLUGINS)
        return
    assert Folder.open(tmp_path / "run", PLUGINS).search()[0].state.phase == "retune"


def test_the_test_split_is_read_at_the_end() -> None:
    """Neither training nor the preparation of the comparison reads the test split."""
    search = Search.retraining(image_retraining(), image_cells())
    batch, reads = search.data.test.batch, []
    object.__setattr__(search.data.test, "batch", lambda index: (reads.append(index), batch(index))[1])
    search.run()
    assert reads == []
    first = next(search.compare())

    assert (first.name, set(first.scores)) == (RETRAINED, {"accuracy"})
    assert len(reads) == 1


def test_only_baselines_that_are_not_trained_are_compared_with_a_retraining() -> None:
    """A retrained network is compared with the task's references that have no trainable parameters."""
    strategy, sizes = SPACES["two_to_one"]
    search = Search.retraining(strategy, architecture(strategy, sizes))
    references = {"still": torch.nn.Identity, "trained": lambda: torch.nn.Linear(2, 2)}
    object.__setattr__(search.data, "references", lambda parameters: references)
    search.run()

    assert [r.name for r in search.compare() if isinstance(r, Evaluated)] == [RETRAINED, "still"]


@given(st.integers(1, 3), st.sampled_from([1, 3]))
def test_an_auxiliary_head_does_not_predict(channels: int, cells: int) -> None:
    """An auxiliary head does not count to the size of a network, because predictions do not depend on it."""
    _, sizes = SPACES["images"]
    backbones = [small(channels=channels, cells=cells, auxiliary=weight) for weight in (0.0, 0.4)]
    structures = [random_architecture(image_strategy(backbone=b), b.initial(sizes, 1), Seed((0,))) for b in backbones]
    plain, aided = (build(structure, Seed((0,))).double() for structure in structures)
    data = Blobs().load(torch.device("cpu"), torch.float64)

    assert predicting(plain, data) == predicting(aided, data)
    assert predicting(plain, data).parameters == sum(p.numel() for p in plain.parameters())
    assert predicting(aided, data).parameters < sum(p.numel() for p in aided.parameters())


def test_only_an_architecture_that_fits_is_retrained(tmp_path: Path) -> None:
    """What is not an architecture, has another backbone or cannot be read is refused with the reason."""
    strategy, sizes = SPACES["images"]
    with pytest.raises(StructureError, match="have several candidates each"):
        Search.retraining(strategy, strategy.backbone.initial(sizes, 1))
    with pytest.raises(StructureError, match="give a backbone of the kind that the cells were found in"):
        Search.retraining(strategy, architecture(*SPACES["darts"]))
    with pytest.raises(StrategyError, match="cannot be used here"):
        Search.retraining(attrs.evolve(strategy, device="cuda:99"), image_cells())
    with pytest.raises(RunError, match=r"architecture.json cannot be read: .* give a file that a run wrote"):
        found(tmp_path, PLUGINS)
    (tmp_path / "architecture.json").write_text("{}")
    for path in (tmp_path, tmp_path / "architecture.json"):
        with pytest.raises(StructureError, match="not the JSON of a structure"):
            found(path, PLUGINS)


def test_an_architecture_is_found_in_a_folder_or_a_file(tmp_path: Path) -> None:
    """An architecture is read from the folder of a run or from a file."""
    cells = image_cells()
    (tmp_path / "architecture.json").write_text(cells.to_json())

    assert found(tmp_path, convolutional.PLUGINS) == found(tmp_path / "architecture.json", convolutional.PLUGINS) == cells
