"""Edits of several sites in one change, stated mixing weights that are checked, and lineages read back without a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import pytest
import torch
from convolutional import image_strategy, small
from nasframe_bilevel import FirstOrder, Softmax
from nasframe_convolutional import SeparableConvolution, Zero
from nasframe_convolutional.morphism import ConvolutionMorphism
from nasframe_growing import NodeGrowth
from nasframe_recurrent import Darts, TwoToOne
from recurrent import BOUNDED, specimen
from torch import Tensor
from toy import PLUGINS, toy_strategy

from nasframe import Address, Bound, Claim, Draw, Edit, Filling, Mixing, Network, Proposal, Search, Seed, Set, Structure, Take
from nasframe.change import apply as changes
from nasframe.change.edit import combine, remove_candidates
from nasframe.errors import ChangeError
from nasframe.interfaces.relaxation import Sites
from nasframe.run.summary import remarks_of
from nasframe.search.loop import Loop
from nasframe.search.replay import replay
from nasframe.structure.editing import remove_from
from nasframe.testing import assertions
from nasframe.testing.compare import differences
from nasframe.testing.saved import saved
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("edits",))
MORPHISM = ConvolutionMorphism()


def images() -> TrainedNetwork:
    """Return a supernet of small cells, with a convolution on each edge, after some steps."""
    return TrainedNetwork.of(image_strategy(backbone=small(operations=(SeparableConvolution(3), Zero()), cells=3)), 4)


def every_edge(structure: Structure, kind: str) -> list[Edit]:
    """Return an edit of the convolution on each edge, each made on the structure that the one before it left."""
    edits: list[Edit] = []
    for address, site in structure.sites():
        left = edits[-1].structure if edits else structure
        request = {"site": address, "candidate": site.candidates[0].id, "kind": kind}
        edits.append(MORPHISM.edit(left, request, {}, SEED))
    return edits


class TestCombine:
    @pytest.mark.parametrize("kind", ["pad", "insert", "crop"])
    def test_one_change_equals_the_chain(self, kind: str) -> None:
        """A change on every edge of a cell has the structure, the numbers and the moments of the single changes in turn."""
        parent = images()
        edits = every_edge(parent.network.structure, kind)
        once = assertions.assert_transaction(parent, lambda _: combine(edits))
        chain = parent
        for edit in edits:
            chain = chain.after(edit)

        assert len(edits) > 3
        assert once.network.structure == chain.network.structure
        assert once.claim == chain.claim
        one, other = saved(once.state), saved(chain.state)
        assert one[0] == other[0]
        assert differences(one[1], other[1]) == []

    def test_growths_by_noise_have_one_bound_for_each_node(self) -> None:
        """Growths of two cells by noise are approximate together, with the bounds of both nodes, which hold."""
        parent, growth = specimen(others=BOUNDED), NodeGrowth(delta=0.01)
        first = growth.edit(parent.network.structure, {"cell": "layer0"}, {}, SEED("first"))
        second = growth.edit(first.structure, {"cell": "layer1"}, {}, SEED("second"))
        child = parent.after(combine([first, second]))

        assert child.claim is not None
        assert [*child.claim.bounds] == ["layer0/n2", "layer1/n2"]
        assertions.assert_within_bounds(child, child.claim.bounds)

    def test_claims(self) -> None:
        """A lossy edit makes the change lossy, exact ones make it exact, and bounds on the same node are added."""
        structure, node = images().network.structure, Address("normal/n0")
        one, two = (Claim.approximate({node: Bound({(): size})}) for size in (1.0, 2.0))
        for claims, expected in (
            ([Claim.exact(), Claim.exact()], Claim.exact()),
            ([Claim.exact(), one, two], Claim.approximate({node: Bound({(): 3.0})})),
            ([one, Claim.lossy()], Claim.lossy()),
        ):
            edits = [Edit(structure, lambda *_, claim=claim: Filling(claim)) for claim in claims]  # type: ignore[misc]
            network = Network(structure)
            assert combine(edits).fill(network, network).claim == expected

    def test_what_two_edits_fill_is_refused(self) -> None:
        """Two edits that fill the same tensor are refused; the message names the tensor and both edits."""
        parent = TrainedNetwork.of(
            image_strategy(backbone=small(operations=(SeparableConvolution(3), SeparableConvolution(5)))), 1
        )
        first, second = (c.id for c in next(parent.network.structure.sites())[1].candidates)
        address = next(parent.network.structure.sites())[0]
        one = MORPHISM.edit(parent.network.structure, {"site": address, "candidate": first, "kind": "insert"}, {}, SEED)
        two = MORPHISM.edit(one.structure, {"site": address, "candidate": second, "kind": "insert"}, {}, SEED)

        with pytest.raises(ChangeError, match=f"edits 0 and 1 of one change both fill alphas.{address}"):
            parent.after(combine([one, two]))

    def test_what_is_new_cannot_be_replaced(self) -> None:
        """A candidate that an edit of the same change added has no weights yet, so it cannot be replaced."""
        parent = images()
        one, *_ = every_edge(parent.network.structure, "pad")
        two, *_ = every_edge(one.structure, "pad")

        with pytest.raises(ChangeError, match="is added and replaced in the same change"):
            parent.after(combine([one, two]))


class TestRemovalAndGrowth:
    def make(self, **options: bool) -> tuple[Search, Search, Structure]:
        """Return a search before and after a removal with a growth in one change, and the structure between."""
        before, after = (Search(toy_strategy(nodes=2)) for _ in range(2))
        for search in (before, after):
            for _, event in zip(range(3), search, strict=False):
                assert event is not None
        structure = after.network.structure
        gone = {address: {site.candidates[0].id} for address, site in structure.sites()}
        left = remove_from(structure, gone)
        growth = after.strategy.growth[0]
        proposals = [(growth, Proposal({"cell": cell}, evidence={"seen": torch.ones(2)})) for cell, _ in left.cells]
        changer = Loop(after.strategy, after.data).changer
        changer.change(
            after.state, gone, proposals, by="test", why="a test", seed=SEED, evidence={"scores": torch.zeros(3)}, **options
        )
        return before, after, left

    def test_it_is_one_change(self) -> None:
        """It has one record, with what was removed and what was added, one distance, and the digests of all evidence."""
        before, after, left = self.make()
        *earlier, record = after.state.lineage

        assert len(earlier) == len(before.state.lineage)
        assert (record.change, record.claim, record.parent) == ("edit", {"kind": "lossy"}, before.network.structure.digest())
        assert record.distance is not None
        assert record.distance > 0
        assert [added["by"] for added in record.request["added"]] == ["node delta=0.05"] * len(left.cells)
        assert {*record.evidence} == {"scores", *(f"growth {n}/seen" for n in range(len(left.cells)))}
        assert {len(cell.nodes) for _, cell in after.network.structure.cells} == {3}

    def test_it_has_the_losses_before_and_after(self) -> None:
        """As for a removal alone, they are the validation losses of its parent and of its child."""
        before, after, _ = self.make()
        loss = Loop(before.strategy, before.data).changer.loss
        record = after.state.lineage[-1]

        assert (record.valid_before, record.valid_after) == (loss(before.network), loss(after.network))
        harmful = attrs.evolve(record, valid_before=1.0, valid_after=9.0)
        assert any("9.0 times as large" in remark for remark in remarks_of(harmful))

    def test_what_stays_keeps_its_numbers(self) -> None:
        """Candidates that stay have their weights, alphas and moments, as after the two changes one after the other."""
        before, after, _ = self.make()
        trained = TrainedNetwork(before.strategy, before.data, before.state)
        gone = {a: {s.candidates[0].id} for a, s in before.network.structure.sites()}
        pruned = saved(trained.after(remove_candidates(before.network.structure, gone)).state)[1]
        found = saved(after.state)[1]
        shared = [name for name in pruned if name in found and found[name].shape == pruned[name].shape]

        assert any(name.startswith("alphas/") for name in shared)
        assert [name for name in shared if not torch.equal(found[name], pruned[name])] == []

    def test_alphas_and_moments_are_reset(self) -> None:
        """With the options all alphas have their initial value, and the optimisers no state."""
        _, after, _ = self.make(reset=("alphas", "moments"))

        assert all(bool((alpha == 0).all()) for alpha in after.network.alphas.values())
        assert not any(optimiser.state for optimiser in after.state.optimisers.values())
        assert after.state.lineage[-1].request["reset"] == ["alphas", "moments"]

    def test_it_is_read_back_and_goes_on(self) -> None:
        """The lineage makes the structure again, and the search runs to its end."""
        _, after, _ = self.make()
        *_, last = replay(after.strategy, after.state.lineage, after.state.evidence, PLUGINS)
        assert last == after.network.structure
        after.run()

    def test_nothing_to_do_is_refused(self) -> None:
        """A change that removes nothing, adds nothing and resets nothing is refused."""
        search = Search(toy_strategy())
        with pytest.raises(ChangeError, match="removes no candidate, carries out no proposal and resets nothing"):
            Loop(search.strategy, search.data).changer.change(search.state, {}, [], by="test", why="a test", seed=SEED)


@attrs.frozen
class OverNode(Softmax):
    """A softmax over all candidates of all edges that enter a node, with the inverse of a softmax for each edge."""

    name: ClassVar[str] = "over_node"
    sums_to_one: ClassVar[bool] = False

    def mixing(self, sites: Sites, alphas: Mapping[str, Tensor], draw: Draw | None) -> Mixing:
        nodes: dict[str, list[Address]] = {}
        for address, site in sites.items():
            nodes.setdefault(f"{address.cell}/{site.node}", []).append(address)
        found: dict[str, Tensor] = {}
        for group in nodes.values():
            joint = torch.cat([alphas[address] for address in group]).softmax(0)
            found |= dict(zip(group, joint.split([len(alphas[address]) for address in group]), strict=True))
        return Mixing({address: found[address] for address in sites})


class TestStatedMixing:
    """The core refuses a change if the child does not have the mixing weights that the edit states."""

    def grown(self) -> TrainedNetwork:
        strategy = toy_strategy(architect=FirstOrder(relaxation=OverNode()), backbone=Darts(hidden=3, output="mean"), nodes=2)
        parent = TrainedNetwork.of(strategy, 3)
        return parent.after(NodeGrowth(delta=0.01).edit(parent.network.structure, {"cell": "layer0"}, {}, SEED), SEED)

    def test_weights_that_are_not_met_are_refused(self) -> None:
        """If the weights of all edges of a node sum to one, those of a new node are less than stated; the message has both."""
        with pytest.raises(
            ChangeError, match=r"states the mixing weights \(.*\) for layer0/\S+, but the filled network has \("
        ):
            self.grown()

    def test_a_core_that_does_not_compare_them_is_detected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the check the change is made."""
        monkeypatch.setattr(changes, "check_mixing", lambda *_: None)
        with pytest.raises(pytest.fail.Exception):
            self.test_weights_that_are_not_met_are_refused()

    def test_weights_that_are_met_are_accepted(self) -> None:
        """Where each node has one site, the same architect gives it the stated weights."""
        parent = TrainedNetwork.of(toy_strategy(architect=FirstOrder(relaxation=OverNode()), backbone=TwoToOne(hidden=3)), 3)
        parent.after(NodeGrowth(delta=0.01).edit(parent.network.structure, {"cell": "layer0"}, {}, SEED), SEED)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_rounding_is_allowed(self, dtype: str) -> None:
        """Mixing weights that are stated at double precision are met in the dtype of the network."""
        parent = TrainedNetwork.of(toy_strategy(dtype=dtype), 3)
        parent.after(NodeGrowth(delta=0.01).edit(parent.network.structure, {"cell": "layer0"}, {}, SEED), SEED)


def test_a_lineage_is_read_back_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is built while the structures of a run are made from its records."""
    search = Search(toy_strategy())
    search.run()

    def refuse(*_: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(Network, "__init__", refuse)
    made = [*replay(search.strategy, search.state.lineage, search.state.evidence, PLUGINS)]

    assert len(made) == len(search.state.lineage)
    assert made[-1].digest() == search.network.structure.digest()


def test_a_removal_beside_a_replacement_keeps_the_alpha() -> None:
    """The replacement of a candidate has its alpha, also where another candidate of the site is removed in the same change."""
    operations = (SeparableConvolution(3), Zero(), SeparableConvolution(5))
    parent = TrainedNetwork.of(image_strategy(backbone=small(operations=operations)), 4)
    address, site = next(parent.network.structure.sites())
    removal = remove_candidates(parent.network.structure, {address: {site.candidates[1].id}})
    request = {"site": address, "candidate": site.candidates[2].id, "kind": "pad"}
    child = parent.after(combine([removal, MORPHISM.edit(removal.structure, request, {}, SEED)]))

    assert torch.equal(child.network.alphas[address], parent.network.alphas[address][[0, 2]])
    assert isinstance(child.map[f"alphas.{address}"], Take)
    assert not any(isinstance(entry, Set) for entry in child.map.values())
