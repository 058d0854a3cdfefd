"""Mixing weights that are folded into the parameters of the candidate that is left at a site."""

from __future__ import annotations

import attrs
import pytest
import torch
from nasframe_bilevel import FirstOrder
from nasframe_forecasting import Forecasting
from nasframe_growing import Epochs
from nasframe_pruning import Strongest
from nasframe_recurrent import Darts, Relu, ReluEdge, Sum, Tanh, TwoToOne, ZeroEdge

import nasframe
from nasframe import Optimiser
from nasframe.change.claim import tolerance
from nasframe.change.edit import remove_candidates
from nasframe.change.map import Take
from nasframe.search.plan import Change
from nasframe.structure.structure import Structure
from nasframe.testing.trained import TrainedNetwork


def trained(backbone: nasframe.Backbone) -> TrainedNetwork:
    """Return a supernet at float64 after five steps, whose mixing weights have moved."""
    strategy = nasframe.Strategy(
        task=Forecasting(),
        backbone=backbone,
        architect=FirstOrder(Optimiser(learning_rate=0.1)),
        growth=(),
        criterion=Epochs(1),
        pruner=Strongest(),
        dtype="float64",
        nodes=2,
    )
    return TrainedNetwork.of(strategy, steps=5)


def all_but(structure: Structure, name: str) -> dict[nasframe.Address, set[int]]:
    """Return all candidates but those of one operation, by the address of their site."""
    return {a: {c.id for c in site.candidates if c.operation.name != name} for a, site in structure.sites()}


@pytest.fixture(scope="module")
def sparse() -> TrainedNetwork:
    """Return a supernet in which each site has relu and zero."""
    return trained(Darts(hidden=3, operations=(ReluEdge(), ZeroEdge())))


@pytest.mark.parametrize("training", [False, True])
def test_removing_zeros_is_exact_where_mixing_weights_are_folded(sparse: TrainedNetwork, training: bool) -> None:
    """A site whose other candidates are zero computes the same after their removal, which without folding it does not."""
    structure, before = sparse.network.structure, sparse.outputs(training)
    gone = all_but(structure, "relu_edge")
    folded = sparse.after(remove_candidates(structure, gone, fold=True))
    plain = sparse.after(remove_candidates(structure, gone))
    assert folded.claim is not None
    assert folded.claim.kind == "exact"
    assert float((folded.outputs(training) - before).abs().max()) <= tolerance(before)
    assert float((plain.outputs(training) - before).abs().max()) > 1e-3


def test_gradients_follow_the_map(sparse: TrainedNetwork) -> None:
    """The gradient of a folded parameter is that of the parent times the factor by which its moments are carried, 1 / w."""
    folded = sparse.after(
        remove_candidates(sparse.network.structure, all_but(sparse.network.structure, "relu_edge"), fold=True)
    )
    before, after = sparse.gradients(), folded.gradients()
    entries = {name: entry for name, entry in folded.map.items() if isinstance(entry, Take) and entry.gradient != 1.0}
    assert entries
    for name, entry in entries.items():
        assert torch.allclose(after[name], entry.gradient * before[name], rtol=1e-9, atol=1e-12)


def test_the_bound_holds_for_what_is_removed() -> None:
    """A folded site differs from the site before by at most sum_i w_i |o_i| over the removed candidates."""
    mixed = trained(TwoToOne(hidden=3, operations=(Relu(), Tanh())))
    structure = mixed.network.structure
    folded = mixed.after(remove_candidates(structure, all_but(structure, "relu"), fold=True))
    assert folded.claim is not None
    assert folded.claim.kind == "approximate"
    generator = torch.Generator().manual_seed(0)
    x, h = (torch.randn(50, n, generator=generator, dtype=torch.float64) for n in (dict(structure.sizes)["inputs"], 3))
    address = nasframe.Address("layer0/n0")
    weights = {address: mixed.mixing()[address].unbind()}
    ((_, before),), ((_, after),) = (n.network.mixed_operations(address) for n in (mixed, folded))
    difference = float((after({}, x, h) - before(weights, x, h)).detach().abs().max())
    bound = folded.claim.bounds[address]({"x": float(x.abs().max()), "h": float(h.abs().max())})
    assert 0.1 * bound < difference <= bound


def test_operations_that_cannot_be_folded_make_the_removal_lossy() -> None:
    """W x + h is not of degree one in W: its mixing weight stays outside, and the claim is lossy."""
    mixed = trained(TwoToOne(hidden=3, operations=(Sum(), Tanh())))
    structure = mixed.network.structure
    kept = mixed.after(remove_candidates(structure, all_but(structure, "sum"), fold=True))
    assert kept.claim is not None
    assert kept.claim.kind == "lossy"


def test_a_change_that_adds_cannot_fold() -> None:
    """The option belongs to a change that removes only."""
    with pytest.raises(ValueError, match="fold is about a removal alone"):
        Change(prune=True, grow=True, fold=True)
    assert attrs.evolve(Change(derive=True), fold=True).fold
