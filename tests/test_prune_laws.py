"""Pruning and folding held to their laws on networks that have trained; and mutants, each of which a law must catch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import Darts, IdentityEdge, Sum
from recurrent import make, parents, specimen
from torch import Tensor

from nasframe import Address, Change, Seed, Site, Structure, build
from nasframe.change import map as maps
from nasframe.change.apply import apply, distance, fold_gates, remove_candidates
from nasframe.errors import ChangeError
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.strategies import removals, seeds
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("prune",))
Gone = Mapping[str, frozenset[int]]
Patch = pytest.MonkeyPatch


def gated(parent: TrainedNetwork, times: int, seed: Seed = SEED) -> TrainedNetwork:
    """The search after so many growths behind gates in every cell, some steps after each, so that the gates are ajar."""
    for turn in range(times):
        for cell, _ in parent.network.structure.cells:
            parent = parent.after(NodeGrowth(form="gate").change(parent.network, {"cell": cell}, {}, seed(turn, cell))).train(4)
    return parent


@st.composite
def prunings(draw: st.DrawFn, decide: bool = False) -> tuple[TrainedNetwork, Gone]:
    """A parent that has trained, of some age and with or without gates, and candidates to remove from it."""
    parent = gated(draw(parents(nodes=draw(st.integers(1, 2)))), draw(st.integers(0, 1)), draw(seeds()))
    return parent, draw(removals(parent.network.structure, decide))


@st.composite
def decided(draw: st.DrawFn) -> TrainedNetwork:
    """An architecture with gates, tuned for some steps."""
    parent = gated(draw(parents(nodes=1)), draw(st.integers(1, 2)), draw(seeds()))
    return parent.after(remove_candidates(parent.network, draw(removals(parent.network.structure, True)), SEED)).train(4)


class TestRemoval:
    @given(prunings(), st.booleans())
    def test_removal_is_a_transaction(self, pruning: Any, training: bool) -> None:
        """Removal leaves the parent as it was, in either mode, and shares nothing with it."""
        parent, gone = pruning
        parent.network.train(training)
        assertions.assert_transaction(parent, lambda network: remove_candidates(network, gone, SEED))

    @given(prunings())
    def test_removal_is_masking(self, pruning: Any) -> None:
        """The pruned network is its parent with weight zero at what went, and the rest divided by their sum."""
        assertions.assert_removal_is_masking(*pruning)

    @given(prunings())
    def test_moments_stay_with_their_candidates(self, pruning: Any) -> None:
        """What is left keeps its values and moments to the bit, of the alphas too, by the candidates' ids."""
        parent, gone = pruning
        child = assertions.assert_removal_is_masking(parent, gone)
        _stay(parent, child, gone)

    @given(prunings(decide=True))
    def test_an_architecture_is_the_supernet_at_one_hot(self, pruning: Any) -> None:
        """With one candidate at each site the network, rebuilt from its JSON, is the supernet with one-hot weights."""
        parent, gone = pruning
        child = assertions.assert_removal_is_masking(parent, gone)
        assert child.network.structure.decided
        assert not child.network.alphas
        assertions.assert_reconstructed(child, make)

    @given(parents(nodes=3), st.integers(1, 3))
    def test_the_strongest_stay(self, parent: TrainedNetwork, keep: int) -> None:
        """Of each node so many operations stay and never zero, none lighter than any that went: of the same edge, and from
        other edges while there are enough of them.
        """
        structure, weights = parent.network.structure, parent.mixing()
        gone = Strongest(keep).remove(structure, weights)
        child = assertions.assert_removal_is_masking(parent, gone).network.structure
        for address, _ in child.nodes():
            edges = [
                _weighed(s, weights.get(a, torch.ones(1)), gone.get(a, ()))
                for a, s in structure.sites()
                if _node(a, s) == address
            ]
            stayed, went = ([w for edge in edges for w in edge[i]] for i in (0, 1))
            assert len(stayed) == min(keep, len(stayed + went))
            assert all(max(e[1], default=0.0) <= min(e[0]) for e in edges if e[0])
            several = sum(len(e[0]) > 1 for e in edges)
            assert not several or all(e[0] for e in edges), "two from one edge, and none from another"
            if keep == 1:
                assert max(went, default=0.0) <= min(stayed)

    def test_zero_stays_where_it_is_alone(self) -> None:
        """A node that has nothing but zero keeps one."""
        structure = Darts().initial({"inputs": 1, "outputs": 1}, 1)
        network = build(structure, SEED)
        zeros = remove_candidates(
            network, {"layer0/xh-n0": {c.id for _, s in structure.sites() for c in s.candidates[:4]}}, SEED
        )
        assert Strongest().remove(zeros.child.structure, {}) == {}

    @given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=3), min_size=1, max_size=5))
    def test_dead_nodes_go(self, edges: list[list[int]]) -> None:
        """Of a DARTS cell whose nodes keep some of their edges, just the nodes stay that a path joins to the output."""
        structure = Darts().initial({"inputs": 1, "outputs": 1}, len(edges))
        kept = {f"n{j}": {f"n{i % j}" for i in sources} for j, sources in enumerate(edges) if j}
        gone = {
            a: {c.id for c in s.candidates} for a, s in structure.sites() if s.node in kept and s.inputs[0] not in kept[s.node]
        }
        child = remove_candidates(build(structure, SEED), gone, SEED).child.structure
        reached, todo = set(), [f"n{len(edges) - 1}"]
        while todo:
            reached.add(todo[-1])
            todo.extend(kept.get(todo.pop(), ()))
        assert {n.id for _, n in child.nodes()} == reached
        child.check()

    @pytest.mark.parametrize(
        ("gone", "message"),
        [
            ({"layer0/n9": {0}}, r"there is no site 'layer0/n9'; there are layer0/n0, layer0/n1, layer1/n0"),
            ({"layer0/n0": {0, 77}}, r"layer0/n0 has no candidates \[77\]; it has \[0, 1, 2, 3, 4, 5\]"),
            ({"layer0/n0": set(range(6))}, "all candidates of node layer0/n0 would be removed; keep at least one"),
        ],
    )
    def test_refusals(self, gone: Any, message: str) -> None:
        """An unknown site, an unknown candidate and all candidates of a site are refused, and the parent is as it was."""
        parent = specimen()

        def refused(network: Any) -> Any:
            with pytest.raises(ChangeError, match=message):
                remove_candidates(network, gone, SEED)
            return remove_candidates(network, {"layer0/n0": {0}}, SEED)

        assertions.assert_transaction(parent, refused)


class TestFolding:
    @given(decided())
    def test_folding_is_exact(self, parent: TrainedNetwork) -> None:
        """Gates are folded into sums, with any g that training left, and nothing changes, nor is the parent touched."""
        child = assertions.assert_transaction(parent, lambda network: fold_gates(network, SEED))
        assert parent.network.count()["gates"] > 0
        assertions.assert_exact(parent, child)
        assertions.assert_reconstructed(child, make)

    @given(decided())
    def test_what_cannot_be_folded_is_kept_and_said(self, parent: TrainedNetwork) -> None:
        """Just the nodes that are sums of what they inherit, or that itself, lose their gate; the change says which did, and
        which did not.
        """
        structure, change = parent.network.structure, fold_gates(parent.network, SEED)
        nodes = {a: n for a, n in structure.nodes() if n.inherits}
        sites = {a: [s for b, s in structure.sites() if _node(b, s) == a] for a in nodes}
        own = {a for a, s in sites.items() if len(s) == 1 and s[0].inputs[-1:] == nodes[a].inherits}
        sums = {a for a in own if isinstance(sites[a][0].candidates[0].operation, Sum | IdentityEdge)}
        assert {*change.request["folded"]} == sums
        assert {*change.request["kept"]} == {*nodes} - sums == {a for a, n in change.child.structure.nodes() if n.inherits}
        assert parent.network.count()["gates"] - change.child.count()["gates"] == len(sums)

    def test_undecided_nodes_keep_their_gates(self) -> None:
        """A mixture is not folded, and folding what has no gate is the identity."""
        parent = gated(specimen(), 1)
        change = fold_gates(parent.network, SEED)
        assert change.request == {"folded": [], "kept": ["layer0/n2", "layer1/n2"]}
        assertions.assert_exact(parent, parent.after(change), allowed=0.0)


class TestRule:
    @given(st.lists(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=6), min_size=1, max_size=3))
    def test_alphas_invert_the_weights(self, drawn: list[list[float]]) -> None:
        """From any positive weights come finite alphas, and from these the weights."""
        weights = [torch.tensor(w, dtype=torch.float64) for w in drawn]
        assertions.assert_inverse(FirstOrder(), {f"cell/n{i}": w / w.sum() for i, w in enumerate(weights)})


class TestMutants:
    """Each is a change with one fault; the law named catches it."""

    def test_alphas_by_position(self, monkeypatch: Patch) -> None:
        """Masked: alphas that are taken by position, and not by their candidates' ids, are seen."""
        monkeypatch.setattr(maps, "_index", _by_position)
        with pytest.raises(AssertionError, match="masked: the distance of the pruned from the masked network in evaluation"):
            assertions.assert_removal_is_masking(specimen(), {"layer0/n0": {0}})

    def test_the_wrong_candidate(self, monkeypatch: Patch) -> None:
        """Masked: removing the neighbour of what was to go is seen."""
        monkeypatch.setattr(
            assertions,
            "remove_candidates",
            lambda n, gone, s: remove_candidates(n, {a: {i + 1 for i in g} for a, g in gone.items()}, s),
        )
        with pytest.raises(AssertionError, match="masked: the distance of the pruned from the masked network in evaluation"):
            assertions.assert_removal_is_masking(specimen(), {"layer0/n0": {0}})

    def test_moments_by_position(self, monkeypatch: Patch) -> None:
        """Moments stay: those of alphas that are taken by position are seen."""
        monkeypatch.setattr(
            maps.Take, "moment", lambda self, source, power: source[: len(self.index[0])] if self.index else source
        )
        parent, gone = specimen(), {"layer0/n0": frozenset({0})}
        with pytest.raises(AssertionError, match=r"stay: exp_avg/alphas\.layer0/n0 is another one"):
            _stay(parent, parent.after(remove_candidates(parent.network, gone, SEED)), gone)

    @pytest.mark.parametrize("factor", [lambda g: 1.0, lambda g: g**2, lambda g: 0.0], ids=["1", "g^2", "0"])
    def test_a_gate_that_is_not_folded(self, factor: Callable[[float], float]) -> None:
        """Exactness detects parameters that are multiplied by something else than the gate; the transaction does so as well."""
        parent = gated(specimen(), 1)
        sums = {a: frozenset(c.id for c in s.candidates if not isinstance(c.operation, Sum)) for a, s in _sites(parent)}
        parent = parent.after(remove_candidates(parent.network, sums, SEED))
        with pytest.raises(AssertionError, match="exact: the distance of the outputs in evaluation mode"):
            assertions.assert_exact(parent, parent.after(_folded(parent, factor)))
        change = _folded(parent, factor)
        apply(parent.network, change, FirstOrder().invert)
        with pytest.raises(ChangeError, match="claims to be exact, but the output differs by"):
            distance(lambda network: network(parent.inputs()), parent.network, change.child, change.claim)

    def test_json_without_gates(self, monkeypatch: Patch) -> None:
        """Reconstructed: a JSON that forgets what a node inherits is seen."""
        honest = Structure.to_dict
        monkeypatch.setattr(Structure, "to_dict", lambda self: _without_inherits(honest(self)))
        with pytest.raises(AssertionError, match="reconstructed: the structure is another one after a round"):
            assertions.assert_reconstructed(gated(specimen(), 1), make)

    @pytest.mark.parametrize(
        ("alphas", "message"),
        [
            (lambda self, weights: dict(weights), "inverse: the distance of the weights of cell/n0"),
            (lambda self, weights: {a: w.log() / 0 for a, w in weights.items()}, "inverse: the alphas of cell/n0 are"),
            (lambda self, weights: {}, "inverse: there are alphas for"),
        ],
    )
    def test_a_rule_that_is_not_inverted(self, alphas: Any, message: str, monkeypatch: Patch) -> None:
        """Inverse: weights in the place of alphas, alphas that are not finite, and none at all are seen."""
        monkeypatch.setattr(FirstOrder, "invert", alphas)
        with pytest.raises(AssertionError, match=message):
            assertions.assert_inverse(FirstOrder(), {"cell/n0": torch.tensor([0.9, 0.1]).double()})


def _folded(parent: TrainedNetwork, factor: Callable[[float], float]) -> Change:
    """Fold the gates as if each had the value `factor(g)` instead of g."""
    other = parent.copy().network
    for _, gate in other.gates():
        gate.g.data.fill_(factor(float(gate.g.detach())))
    return fold_gates(other, SEED)


def _node(address: Address, site: Site) -> Address:
    return Address.of(address.cell, site.node)


def _weighed(site: Site, weights: Tensor, gone: Any) -> tuple[list[float], list[float]]:
    """The weights of a site's operations but zero, those that stay and those that go."""
    pairs = [(c.id in gone, w) for c, w in zip(site.candidates, weights.tolist(), strict=True) if not c.operation.zero]
    return [w for went, w in pairs if not went], [w for went, w in pairs if went]


def _sites(trained: TrainedNetwork) -> list[tuple[str, Any]]:
    return [*trained.network.structure.sites()]


def _stay(parent: TrainedNetwork, child: TrainedNetwork, gone: Gone) -> None:
    kept = {a: [i for i, c in enumerate(s.candidates) if c.id not in gone.get(a, ())] for a, s in _sites(parent)}
    before = _numbers(parent)
    for name, value in _numbers(child).items():
        old, rows = before[name], kept.get(name.split("alphas.")[-1])
        assertions.demand(
            "stay", torch.equal(value, old if rows is None or not old.dim() else old[rows]), f"{name} is another one"
        )


def _numbers(trained: TrainedNetwork) -> dict[str, Tensor]:
    """Every tensor of the network, and every entry of the optimisers' states, by name."""
    named = {p: n for n, p in trained.network.named_parameters()}
    states = [(named[p], s) for o in trained.state.optimisers.values() for p, s in o.state.items()]
    moments = {f"{key}/{name}": value for name, state in states for key, value in state.items() if torch.is_tensor(value)}
    return tensors(trained.network) | moments


def _by_position(before: Any, after: Any, name: str, device: Any) -> Tensor | None:
    return None if before == after else torch.arange(len(after.labels))


def _without_inherits(data: dict[str, Any]) -> dict[str, Any]:
    for cell in data["cells"].values():
        cell["nodes"] = [{"id": node["id"]} for node in cell["nodes"]]
    return data
