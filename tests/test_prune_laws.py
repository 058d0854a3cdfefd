"""Removing candidates and folding gates, on networks that have trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from nasframe_recurrent import Darts, IdentityEdge, Sum
from recurrent import make, parents, specimen
from torch import Tensor

from nasframe import Address, Seed, Site
from nasframe.change.claim import tolerance
from nasframe.change.edit import fold_gates, remove_candidates
from nasframe.errors import ChangeError
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.compare import largest, require_at_most
from nasframe.testing.strategies import removals, seeds
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("prune",))
Removed = Mapping[Address, frozenset[int]]


def gated(parent: TrainedNetwork, times: int, seed: Seed = SEED) -> TrainedNetwork:
    """Return the network after so many growths with gates in every cell, each followed by some steps, which open the gates."""
    for turn in range(times):
        for cell, _ in parent.network.structure.cells:
            edit = NodeGrowth(form="gate").edit(parent.network.structure, {"cell": cell}, {}, seed(turn, cell))
            parent = parent.after(edit, seed(turn, cell)).train(4)
    return parent


@st.composite
def prunings(draw: st.DrawFn) -> tuple[TrainedNetwork, Removed]:
    """Return a network that has trained, with gates or without, and candidates to remove from it."""
    parent = gated(draw(parents(nodes=draw(st.integers(1, 2)))), draw(st.integers(0, 1)), draw(seeds()))
    return parent, draw(removals(parent.network.structure, draw(st.booleans())))


@st.composite
def decided(draw: st.DrawFn) -> TrainedNetwork:
    """Return an architecture with gates after some steps."""
    parent = gated(draw(parents(nodes=1)), draw(st.integers(1, 2)), draw(seeds()))
    return parent.after(remove_candidates(parent.network.structure, draw(removals(parent.network.structure, True)))).train(4)


class TestRemoval:
    @given(prunings(), st.booleans())
    def test_removal_leaves_the_rest_alone(self, pruning: Any, training: bool) -> None:
        """The parent stays as it is, the other candidates keep their values and moments, and with a softmax their mixing weights
        are divided by the sum.
        """
        parent, removed = pruning
        parent.network.train(training)
        child = assertions.assert_transaction(parent, lambda structure: remove_candidates(structure, removed))
        assertions.assert_moments_follow(parent, child)
        old, new, mixing, after = tensors(parent.network), tensors(child.network), parent.mixing(), child.mixing()
        assert all(torch.equal(value, old[name]) for name, value in new.items() if not name.startswith("alphas."))
        for address, site in parent.network.structure.sites():
            if address in after:
                kept = [i for i, c in enumerate(site.candidates) if c.id not in removed.get(address, ())]
                rest = mixing[address][kept]
                assert torch.equal(new[f"alphas.{address}"], old[f"alphas.{address}"][kept])
                require_at_most("the distance", largest(after[address] - rest / rest.sum()), tolerance(rest))

    @given(prunings())
    def test_removal_is_masking(self, pruning: Any) -> None:
        """The pruned network is its parent with mixing weight zero for what was removed, also with gates."""
        assertions.assert_removal_is_masking(*pruning)

    @given(parents(nodes=3), st.integers(1, 3))
    def test_the_strongest_stay(self, parent: TrainedNetwork, keep: int) -> None:
        """`keep` operations of each node stay, but not zero: the strongest of each edge first, then the strongest of the rest."""
        structure, weights = parent.network.structure, parent.mixing()
        removed = Strongest(keep).remove(structure, weights)
        child = remove_candidates(structure, removed).structure
        for address, _ in child.nodes():
            sites = structure.sites_of(address)
            edges = [_weights(s, weights.get(a, torch.ones(1)), removed.get(a, ())) for a, s in sites.items()]
            stayed, went = ([w for edge in edges for w in edge[i]] for i in (0, 1))
            assert len(stayed) == min(keep, len(stayed + went))
            assert all(max(e[1], default=0.0) <= min(e[0]) for e in edges if e[0])
            several = sum(len(e[0]) > 1 for e in edges)
            assert not several or all(e[0] for e in edges), "two from one edge, and none from another"
            if keep == 1:
                assert max(went, default=0.0) <= min(stayed)

    def test_zero_stays_if_it_is_alone(self) -> None:
        """A node whose only candidate is zero keeps it."""
        structure = Darts().initial({"inputs": 1, "outputs": 1}, 1)
        removed = {Address("layer0/xh-n0"): {c.id for _, s in structure.sites() for c in s.candidates[:4]}}
        zeros = remove_candidates(structure, removed).structure
        assert Strongest().remove(zeros, {}) == {}

    @given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=3), min_size=1, max_size=5))
    def test_dead_nodes_are_removed(self, edges: list[list[int]]) -> None:
        """If the nodes of a DARTS cell keep some of their edges, exactly the nodes with a path to the output stay."""
        structure = Darts().initial({"inputs": 1, "outputs": 1}, len(edges))
        kept = {f"n{j}": {f"n{i % j}" for i in sources} for j, sources in enumerate(edges) if j}
        removed = {
            a: {c.id for c in s.candidates} for a, s in structure.sites() if s.node in kept and s.inputs[0] not in kept[s.node]
        }
        child = remove_candidates(structure, removed).structure
        reached, todo = set(), [f"n{len(edges) - 1}"]
        while todo:
            reached.add(todo[-1])
            todo.extend(kept.get(todo.pop(), ()))
        assert {n.id for _, n in child.nodes()} == reached
        child.check()

    @pytest.mark.parametrize(
        ("removed", "message"),
        [
            ({"layer0/n9": {0}}, r"there is no site 'layer0/n9'; there are layer0/n0, layer0/n1, layer1/n0"),
            ({"layer0/n0": {0, 77}}, r"layer0/n0 has no candidates \[77\]; it has \[0, 1, 2, 3, 4, 5\]"),
            ({"layer0/n0": set(range(6))}, "all candidates of node layer0/n0 would be removed; keep at least one"),
        ],
    )
    def test_refusals(self, removed: Any, message: str) -> None:
        """An unknown site, an unknown candidate and all candidates of a site are refused."""
        with pytest.raises(ChangeError, match=message):
            remove_candidates(specimen().network.structure, removed)


class TestFolding:
    @given(decided())
    def test_folding_is_exact(self, parent: TrainedNetwork) -> None:
        """Folding gates that training has opened changes no output, and leaves the parent as it is."""
        child = assertions.assert_transaction(parent, fold_gates)
        assert parent.network.count()["gates"] > 0
        assertions.assert_exact(parent, child)
        assertions.assert_reconstructed(child, make)

    @given(decided())
    def test_what_cannot_be_folded_is_kept_and_reported(self, parent: TrainedNetwork) -> None:
        """Exactly the nodes that are a sum with what they inherit, or the identity, lose their gate."""
        structure, child = parent.network.structure, parent.after(fold_gates(parent.network.structure)).network
        nodes = {a: n for a, n in structure.nodes() if n.inherits}
        sites = {a: [*structure.sites_of(a).values()] for a in nodes}
        single = {a for a, s in sites.items() if len(s) == 1 and s[0].inputs[-1:] == nodes[a].inherits}
        sums = {a for a in single if isinstance(sites[a][0].candidates[0].operation, Sum | IdentityEdge)}
        assert {a for a, n in child.structure.nodes() if n.inherits} == {*nodes} - sums
        assert parent.network.count()["gates"] - child.count()["gates"] == len(sums)

    def test_undecided_nodes_keep_their_gates(self) -> None:
        """The gate of an undecided node is kept, and then folding changes no bit."""
        parent = gated(specimen(), 1)
        edit = fold_gates(parent.network.structure)
        assert edit.structure == parent.network.structure
        assertions.assert_exact(parent, parent.after(edit), allowed=0.0)


def _weights(site: Site, weights: Tensor, removed: Any) -> tuple[list[float], list[float]]:
    """Return the mixing weights of a site's operations but zero, those that stay and those that are removed."""
    pairs = [(c.id in removed, w) for c, w in zip(site.candidates, weights.tolist(), strict=True) if not c.operation.zero]
    return [w for gone, w in pairs if not gone], [w for gone, w in pairs if gone]
