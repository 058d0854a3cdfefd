"""Elimination removes the candidate without which the validation loss is least."""

from __future__ import annotations

import pytest
import torch
from nasframe_recurrent import Darts, IdentityEdge, Prod, Sum, Tanh, TwoToOne, ZeroEdge
from nasframe_robustness import LeastNeeded
from recurrent import strategy

from nasframe.change.edit import remove_candidates
from nasframe.testing.trained import TrainedNetwork


def test_a_score_is_the_loss_after_the_removal() -> None:
    """The loss of the child without the candidate, whose alphas are those of the parent; the least one is removed."""
    trained = TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(3, operations=(Sum(), Tanh(), Prod())), nodes=2, batch=8), 10)
    structure, data = trained.network.structure, trained.data

    scores, _ = trained.measured(LeastNeeded().scores)

    losses = {}
    for address, site in structure.sites():
        for candidate, score in zip(site.candidates, scores[address].tolist(), strict=True):
            child = trained.after(remove_candidates(structure, {address: {candidate.id}})).network.eval()
            mixing = {a: w.detach() for a, w in child.mixing().items()}
            losses[address, candidate.id] = data.mean_loss(lambda x, c=child, m=mixing: c(x, m), data.validation)
            assert score == pytest.approx(losses[address, candidate.id], rel=1e-9)
    address, candidate = min(losses, key=losses.__getitem__)
    assert LeastNeeded().remove(structure, scores) == {address: {candidate}}


def test_a_candidate_with_all_of_the_weight_is_not_removed() -> None:
    """Without it nothing is left to scale, which is no loss, and no error."""
    trained = TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(3, operations=(Sum(), Tanh())), nodes=1, batch=8), 1)
    (alpha,) = trained.network.alphas.values()
    alpha.data.copy_(torch.tensor([1e4, 0.0]))

    scores, _ = trained.measured(LeastNeeded().scores)

    ((address, site),) = trained.network.structure.sites()
    assert scores[address].isfinite().tolist() == [False, True]
    assert LeastNeeded().remove(trained.network.structure, scores) == {address: {site.candidates[1].id}}


def test_one_of_each_site() -> None:
    """The least of each site; the only operation beside zero is not removed, whatever its score."""
    structure = Darts(hidden=3, operations=(IdentityEdge(), ZeroEdge())).initial({"inputs": 2, "outputs": 2}, nodes=2)
    scores = {address: torch.tensor([0.0, float("nan")]) for address, _ in structure.sites()}

    gone = LeastNeeded("site").remove(structure, scores)

    assert gone == {address: {site.candidates[1].id} for address, site in structure.sites()}
