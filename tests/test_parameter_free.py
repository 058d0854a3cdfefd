"""DARTS+ stops a search by the operations without parameters that it would choose."""

from __future__ import annotations

import pytest
import torch
from nasframe_recurrent import Darts, IdentityEdge, TanhEdge, ZeroEdge
from nasframe_robustness import ParameterFree
from nasframe_robustness.parameter_free import READING, parameter_free_share
from test_measuring import ask, begun
from toy import toy_strategy

from nasframe import Search
from nasframe.records import EpochEnded
from nasframe.testing.fakes import Scripted

BACKBONE = Darts(hidden=3, layers=2, operations=(TanhEdge(), IdentityEdge(), ZeroEdge()))


def test_the_share_is_that_of_the_architecture() -> None:
    """Each node keeps its strongest operation, where zero does not count, and the layer with most identities decides."""
    search = begun(backbone=BACKBONE, nodes=3, growth=(), criterion=Scripted(epochs=9))
    alphas = dict(search.network.alphas)
    for address, alpha in alphas.items():
        alpha.data.copy_(torch.tensor([1.0, 0.0, 2.0]))  # tanh, identity, zero
        if address in ("layer1/xh-n0", "layer1/n1-n2"):
            alpha.data.copy_(torch.tensor([0.0, 1.0, -1.0]))

    share, _, _ = ask(search, parameter_free_share)

    assert share == pytest.approx(2 / 3)
    alphas["layer1/n0-n2"].data[0] = 9.0
    assert ask(search, parameter_free_share)[0] == pytest.approx(1 / 3)


def test_the_phase_ends_at_the_share() -> None:
    """It ends with the first epoch whose share is not below that of the criterion, and no other phase does."""

    def decided(share: float, phase: str = "search") -> str | None:
        history = [
            EpochEnded(stage=0, phase=phase, epoch=0, updates=1, train=1.0, moves_alphas=True, readings={READING: share})
        ]
        return ParameterFree(0.25).decide(None, history, [])[1].next

    assert (decided(0.2), decided(0.25), decided(0.5), decided(0.5, "tune")) == (None, "end", "end", None)
    search = Search(
        toy_strategy(backbone=BACKBONE, nodes=2, growth=(), criterion=ParameterFree(0.0) | toy_strategy().criterion)
    )
    first = next(record for record in search if isinstance(record, EpochEnded))
    assert first.decision == "end"
    assert (first.reason or "").endswith("of the operations that would be chosen have no parameters")
