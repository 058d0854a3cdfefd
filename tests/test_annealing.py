"""ASAP removes what falls below its threshold while the temperature falls, and its mixing weights are those of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from nasframe_bilevel import FirstOrder
from nasframe_recurrent import Darts, IdentityEdge, TanhEdge, ZeroEdge
from nasframe_robustness import AnnealedSoftmax, AnnealedThreshold, Asap
from test_relaxation_equations import SITE, by_alphas, close, draw, sites, slopes_of_softmax, softmax
from toy import toy_strategy

from nasframe import Optimiser, Search
from nasframe.records import Changed, EpochEnded
from nasframe.testing.fakes import Scripted

ALPHAS = [0.3, -1.2, 0.8, 0.0]


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_the_mixing_weights_are_those_of_the_paper(progress: float) -> None:
    """Training has exp(alpha_i / T) over its sum, with T = T0 beta^t and the gradient of that; validation has T = 1."""
    T = 1.6 * (0.95**50) ** progress
    weights, slopes, _ = by_alphas(AnnealedSoftmax(1.6, 1.6 * 0.95**50), ALPHAS, draw(0, progress))
    p = softmax([alpha / T for alpha in ALPHAS])

    close(weights, p)
    close(slopes, slopes_of_softmax(p, 1 / T))
    close(AnnealedSoftmax().mixing(sites(4), {SITE: torch.tensor(ALPHAS, dtype=torch.float64)}, None)[SITE], softmax(ALPHAS))


def test_the_search_removes_what_is_below_the_threshold() -> None:
    """After each epoch exactly the candidates with exp(alpha / T) below 0.4 / n of the sum are removed; none in the grace epochs."""
    epochs, architect = 8, FirstOrder(Optimiser(learning_rate=0.1), relaxation=AnnealedSoftmax())
    plan = Asap(epochs=epochs, grace=2, tuning=1).steps()
    search = Search(toy_strategy(architect=architect, nodes=2, growth=(), plan=plan, criterion=Scripted(epochs=99)))
    removed, expected = dict[int, set[tuple[str, str]]](), dict[int, set[tuple[str, str]]]()
    for record in search:
        if isinstance(record, EpochEnded) and record.phase == "search":
            T = 1.6 * (0.12 / 1.6) ** ((record.epoch + 1) / epochs)
            for address, weights in record.mixing.items():
                powers = {name.split()[0]: w ** (1 / T) for name, w in weights.items()}
                weak = {(address, id) for id, power in powers.items() if power / math.fsum(powers.values()) < 0.4 / len(powers)}
                expected.setdefault(record.epoch, set()).update(weak)
        if isinstance(record, Changed) and record.phase == "search" and record.removed:
            # the record of a change has the position at which the search goes on
            removed[record.epoch - 1] = {(address, id) for address, ids in record.removed.items() for id in ids}

    assert {epoch: ids for epoch, ids in expected.items() if ids} == removed != {}
    assert min(removed) >= 2
    assert search.network.structure.decided


def test_a_node_keeps_an_operation() -> None:
    """Zero may be the strongest candidate of every edge; then the strongest operation of the node stays beside it."""
    structure = Darts(hidden=3, operations=(IdentityEdge(), TanhEdge(), ZeroEdge())).initial(
        {"inputs": 2, "outputs": 2}, nodes=2
    )
    scores = {address: torch.tensor([0.01, 0.02, 0.97]) for address, _ in structure.sites()}

    gone = AnnealedThreshold().remove(structure, scores)

    assert gone == {address: {site.candidates[0].id} for address, site in structure.sites()}
