"""Operators grow: what it does beyond the laws of all morphisms (`nasframe check operator`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import torch
from convolutional import trained
from nasframe_convolutional import Identity, MaxPool, SeparableConvolution, Zero
from nasframe_growing import OperatorGrowth
from nasframe_recurrent import Darts, IdentityEdge, Sigmoid, Sum, Tanh, TanhEdge, TwoToOne, ZeroEdge
from proportional import assert_proportional
from recurrent import BOUNDED, strategy
from torch import Tensor

from nasframe import Claim, Proposal, Seed
from nasframe.change.edit import combine, remove_candidates
from nasframe.errors import ChangeError
from nasframe.records import Changed, EpochEnded
from nasframe.testing import assertions
from nasframe.testing.strategies import cached
from nasframe.testing.trained import TrainedNetwork


@cached
def _recurrent(darts: bool) -> TrainedNetwork:
    operations = (ZeroEdge(), IdentityEdge(), TanhEdge()) if darts else (Sum(), *BOUNDED)
    backbone = Darts(3, operations=operations) if darts else TwoToOne(3, operations=operations)
    return TrainedNetwork.of(strategy(2, 2, 3, backbone, nodes=2, batch=4), 20)


NETWORKS = {
    "two_to_one": lambda: _recurrent(False).copy(),
    "darts_recurrent": lambda: _recurrent(True).copy(),
    "darts_convolutional": lambda: trained(
        channels=2, cells=3, operations=(Zero(), MaxPool(), Identity(), SeparableConvolution(), SeparableConvolution(5))
    ),
}


def weighing(parent: TrainedNetwork, **weights: float) -> TrainedNetwork:
    """Return the network with alphas at which, at each site, these operations have these mixing weights and the others equal ones."""
    for address, site in parent.network.structure.sites():
        rest = [c for c in site.candidates if c.operation.name not in weights]
        each = (1 - sum(weights.values())) / len(rest)
        values = [weights.get(c.operation.name, each) for c in site.candidates]
        parent.network.alphas[address].data.copy_(torch.tensor(values, dtype=torch.float64).log())
    return parent


def proposed(parent: TrainedNetwork, **options: Any) -> list[Proposal]:
    return parent.proposals(OperatorGrowth(**options))


def grown(parent: TrainedNetwork, place: int = 0, **options: Any) -> TrainedNetwork:
    """Return the child of a proposal."""
    seed, proposal = Seed(("grown",)), proposed(parent, **options)[place]
    return parent.after(OperatorGrowth(**options).edit(parent.network.structure, proposal.request, {}, seed), seed)


def candidates(child: TrainedNetwork, place: Mapping[str, Any]) -> list[str]:
    return [c.operation.name for a, s in child.network.structure.sites() if a == place for c in s.candidates]


STRONG = {"two_to_one": "tanh", "darts_recurrent": "tanh_edge", "darts_convolutional": "separable"}


@pytest.mark.parametrize("backbone", NETWORKS)
def test_a_copy_of_the_strongest_is_exact(backbone: str) -> None:
    """In every backbone the strongest operation with parameters gets a copy with half of its mixing weight, and nothing else changes."""
    parent = weighing(NETWORKS[backbone](), **{STRONG[backbone]: 0.4})
    (request, *_), child = [p.request for p in proposed(parent)], grown(parent, sigma=0.0)
    site = request["site"]

    assert candidates(child, site) == [*candidates(parent, site), STRONG[backbone]]
    assert child.claim == Claim.exact()
    assertions.assert_exact(parent, child)
    assertions.assert_gradients_follow(parent, child)
    place = [c.id for a, s in parent.network.structure.sites() if a == site for c in s.candidates].index(request["candidate"])
    assert torch.allclose(child.mixing()[site][[place, -1]], parent.mixing()[site][place] / 2)


@pytest.mark.parametrize("backbone", NETWORKS)
def test_twins_diverge_because_of_the_noise(backbone: str) -> None:
    """After some steps the difference of twins has changed; without noise there is none."""
    parent = weighing(NETWORKS[backbone](), **{STRONG[backbone]: 0.4})
    request = proposed(parent)[0].request

    def difference(child: TrainedNetwork) -> Tensor:
        _, mixture = next(child.network.mixed_operations(request["site"]))
        twins = [mixture.candidates[str(id)] for id in (request["candidate"], parent.network.structure.next_id)]
        return torch.cat([(a - b).detach().flatten() for a, b in zip(*(twin.parameters() for twin in twins), strict=True)])

    for sigma in (0.0, 0.01):
        child = grown(parent, sigma=sigma)
        before, after = difference(child), difference(child.train(10))
        moved = float((after - before).abs().max())

        assert (moved == 0) if sigma == 0 else (moved > 1e-4), (sigma, moved)


SIZES = (1e-1, 1e-2, 1e-3, 1e-4)


@pytest.mark.parametrize("backbone", ["two_to_one", "darts_recurrent"])
def test_a_fresh_copy_moves_the_output_in_proportion_to_its_share(backbone: str) -> None:
    """Distance and bound are proportional to the mixing weight of the copy, and the changed node keeps to the bound."""
    parent = weighing(NETWORKS[backbone](), **{STRONG[backbone]: 0.4})
    children = {share: grown(parent, form="fresh", share=share) for share in SIZES}
    assert_proportional("the distance", {s: assertions.output_distance(parent, child) for s, child in children.items()})
    bounds = {s: child.claim.bounds for s, child in children.items() if child.claim is not None}
    assert_proportional("the bound", {s: sum(b.terms.values()) for s, found in bounds.items() for b in found.values()})
    for child in children.values():
        assertions.assert_within_bounds(child, child.claim.bounds, parent)


def test_a_fresh_copy_without_a_magnitude_is_lossy() -> None:
    """A convolution has no bound, so that the claim is lossy, while its distance is measured."""
    assert grown(NETWORKS["darts_convolutional"](), form="fresh").claim == Claim.lossy()


def test_noise_moves_a_smooth_operation_in_the_second_order() -> None:
    """The twins are theta + eps and theta - eps, so that the output moves by sigma squared and not by sigma."""
    parent = weighing(NETWORKS["two_to_one"](), tanh=0.4)
    moved = {s: assertions.output_distance(parent, grown(parent, sigma=s)) for s in (1e-1, 1e-2, 1e-3)}
    assert_proportional("the distance", {s**2: distance for s, distance in moved.items()})


def test_an_operation_is_drawn_with_the_mixing_weights_as_probabilities() -> None:
    """Over many seeds each operation is chosen as often as its mixing weight says, and the seed decides."""
    parent, counts = weighing(NETWORKS["two_to_one"](), tanh=0.5, sigmoid=0.3), dict[str, int]()
    part, structure = OperatorGrowth(which="drawn"), parent.network.structure
    site = dict(structure.sites())["layer0/n0"]
    weights = {c.id: float(w) for c, w in zip(site.candidates, parent.mixing()["layer0/n0"], strict=True)}
    for n in range(400):
        chosen = part._chosen(site, weights, Seed((n,)))
        counts[chosen.operation.name] = counts.get(chosen.operation.name, 0) + 1
        assert chosen is part._chosen(site, weights, Seed((n,)))

    assert abs(counts["tanh"] / 400 - 0.5) < 0.08
    assert abs(counts["sigmoid"] / 400 - 0.3) < 0.08


def test_only_sites_above_the_threshold_grow() -> None:
    """A threshold is absolute, or in units of 1 / n; what has no parameters never grows, however strong it is."""
    parent = weighing(NETWORKS["two_to_one"](), tanh=0.4)  # of five candidates: twice as much as equal weights

    assert len(proposed(parent, threshold=0.39)) == 2
    assert proposed(parent, threshold=0.41) == []
    assert len(proposed(parent, threshold=1.9, relative=True)) == 2
    assert proposed(parent, threshold=2.1, relative=True) == []
    assert proposed(weighing(NETWORKS["darts_recurrent"](), identity_edge=0.6)) == []
    assert proposed(weighing(NETWORKS["darts_recurrent"](), zero_edge=0.6)) == []


def test_a_full_site_keeps_its_number_of_candidates() -> None:
    """A site with the largest number does not grow, or its weakest other operation makes room, and the mixing weights sum to one."""
    parent = weighing(NETWORKS["two_to_one"](), tanh=0.4, prod=0.01)
    child = grown(parent, most=5, replace=True)
    site = proposed(parent)[0].request["site"]

    assert proposed(parent, most=5) == []
    assert sorted(candidates(child, site)) == ["relu", "sigmoid", "sum", "tanh", "tanh"]
    assert child.claim == Claim.lossy()
    assert abs(float(child.mixing()[site].sum()) - 1) < 1e-12


def test_a_decided_site_grows_to_two() -> None:
    """The operation of an architecture gets an exact copy: Eq. 20."""
    parent = _recurrent(False).copy()
    derived = parent.strategy.backbone.derive(parent.network.structure, parent.mixing())

    architecture = parent.after(remove_candidates(parent.network.structure, derived))
    for address, site in architecture.network.structure.sites():
        if site.candidates[0].operation in (Sigmoid(), Tanh()):
            place = [p.request["site"] for p in proposed(architecture)].index(address)
            child = grown(architecture, place, sigma=0.0)
            assertions.assert_exact(architecture, child)
            assert len(candidates(child, address)) == 2
            assert torch.allclose(child.mixing()[address], torch.tensor([0.5, 0.5], dtype=torch.float64))
            fresh = grown(architecture, place, form="fresh", share=0.1)  # a weight that float32 does not have
            assert torch.allclose(fresh.mixing()[address], torch.tensor([0.9, 0.1], dtype=torch.float64))
            return
    pytest.fail("no site has an activation")


def change(parent: TrainedNetwork, kind: str = "edit", **fields: Any) -> Changed:
    return Changed(**parent.state.position, change=kind, by="test", why="", parent="", child="", **fields)


def test_a_site_grows_again_only_after_its_largest_weight_has_fallen() -> None:
    """A site that stays above the threshold grows once, and again after an epoch in which it was not above it."""
    child = grown(weighing(NETWORKS["two_to_one"](), tanh=0.4), form="fresh", threshold=0.3)
    site, id = "layer0/n0", child.network.structure.next_id - 1
    state = child.state
    state.history.clear()
    state.lineage.append(change(child, added={site: {str(id): {"operation": {"name": "tanh"}}}}))

    def sites() -> list[str]:
        return [p.request["site"] for p in proposed(child, threshold=0.3)]

    def epoch(weight: float) -> EpochEnded:
        mixing = {site: {"1 tanh": weight, f"{id} tanh": 1 - weight}}
        return EpochEnded(**state.position, train=1.0, valid=1.0, moves_alphas=True, mixing=mixing)

    assert site not in sites()
    state.history.append(epoch(0.9))
    assert site not in sites()
    state.history.append(epoch(0.29999))
    assert site not in sites()  # the twin has more than 0.3 now
    state.history[-1] = attrs.evolve(state.history[-1], mixing={site: {f"{n} tanh": 0.25 for n in (1, 2, 3, id)}})
    assert site in sites()


def test_an_operation_is_not_grown_again_after_a_copy_of_it_was_removed() -> None:
    """Growing and pruning do not alternate: the lineage of the site says what was tried; a return to another network does not count."""
    parent = weighing(NETWORKS["two_to_one"](), tanh=0.4)
    gone = {"layer0/n0": {"17": {"operation": {"name": "tanh"}}}}
    for kind, left in (("restore", 2), ("remove", 1)):
        parent.state.lineage.append(change(parent, kind, removed=gone))
        assert len(proposed(parent)) == left


def test_options_that_make_no_sense_are_refused() -> None:
    """A share must leave something to the others, and a replacement needs a number."""
    with pytest.raises(ValueError, match=r"share is 1\.0; it must be above 0 and below 1"):
        OperatorGrowth(share=1.0)
    with pytest.raises(ValueError, match="replace needs a largest number of candidates"):
        OperatorGrowth(replace=True)


def test_a_site_grows_once_in_a_change() -> None:
    """A copy of a candidate that the same change adds is refused, because it has no parameters yet."""
    parent = NETWORKS["two_to_one"]()
    request = proposed(parent)[0].request
    one = OperatorGrowth().edit(parent.network.structure, request, {}, Seed((0,)))
    two = OperatorGrowth().edit(one.structure, request, {}, Seed((1,)))

    with pytest.raises(ChangeError, match="is added in the same change"):
        parent.after(combine([one, two]))
