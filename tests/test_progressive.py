"""P-DARTS: stages with deeper backbones and fewer candidates, and a limit of the identities in the end."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from convolutional import PLUGINS, Blobs, image_strategy, small
from nasframe_convolutional import Identity, LimitedIdentities, PDarts, SeparableConvolution, StrongestOfSite, Zero

from nasframe import Address, Search, Strategy, Structure
from nasframe.records import Changed, EpochEnded
from nasframe.testing.fakes import Scripted

OPERATIONS = (Zero(), Identity(), SeparableConvolution(3), SeparableConvolution(1))
BACKBONE = small(channels=1, cells=3, operations=OPERATIONS)
SIZES = {"channels": 1, "classes": 2, "height": 4, "width": 4}


def identities(structure: Structure, gone: dict[Address, set[int]] | None = None, cell: str = "normal") -> int:
    """Return the number of identities that a cell type has, without candidates that are removed."""
    sites = [(a, s) for a, s in structure.sites() if a.cell == cell]
    return sum(c.operation == Identity() and c.id not in (gone or {}).get(a, ()) for a, s in sites for c in s.candidates)


def test_each_edge_keeps_its_strongest_candidates() -> None:
    """Zero is among them like any other, but never alone."""
    structure = BACKBONE.initial(SIZES, 1)
    (edge, site), *_ = structure.sites()
    ids = [c.id for c in site.candidates]
    for weights, keep, wanted in (
        ([0.4, 0.1, 0.3, 0.2], 2, {0, 2}),
        ([0.4, 0.1, 0.3, 0.2], 1, {0, 2}),
        ([0.1, 0.2, 0.3, 0.4], 1, {3}),
    ):
        gone = StrongestOfSite(keep).remove(structure, {edge: torch.tensor(weights)})
        assert gone == {edge: {id for i, id in enumerate(ids) if i not in wanted}}
    assert StrongestOfSite(4).remove(structure, {edge: torch.tensor([0.4, 0.1, 0.3, 0.2])}) == {}


@pytest.mark.parametrize("limit", [0, 1, 2, 9])
def test_identities_are_limited(limit: int) -> None:
    """The weakest of those that would be kept lose their weight, one by one; the other cell type stays as it would be derived."""
    structure = BACKBONE.initial(SIZES, 2)
    generator = torch.Generator().manual_seed(0)
    mixing = {a: torch.tensor([0.1, 0.5, 0.2, 0.1]) + 0.1 * torch.rand(4, generator=generator) for a, _ in structure.sites()}
    derived = BACKBONE.derive(structure, mixing)
    assert identities(structure, dict(derived)) == 4

    gone = LimitedIdentities(limit).remove(structure, mixing)

    assert identities(structure, dict(gone)) == min(limit, 4)
    assert identities(structure, dict(gone), "reduction") == 4
    kept = {a: {c.id for c in s.candidates} - gone.get(a, set()) for a, s in structure.sites() if a.cell == "normal"}
    assert sorted(map(len, kept.values())) == [0, 1, 1, 1, 1]


def test_the_stages_of_the_plan() -> None:
    """Each stage has another depth and dropout, fresh weights, and fewer candidates; the cell is trained without dropout."""
    plan = PDarts(
        BACKBONE, cells=(3, 4), identity_dropout=(0.1, 0.4), candidates=(4, 2), epochs=1, grace=0, identities=1
    ).steps()
    strategy = image_strategy(
        plan=plan,
        backbone=BACKBONE,
        task=Blobs(size=4, height=4, width=4),
        nodes=2,
        growth=(),
        criterion=Scripted(epochs=9),
        batch=25,
    )
    assert Strategy.from_toml(strategy.to_toml(), PLUGINS) == strategy
    search = Search(strategy)
    stages = []
    for record in search:
        if isinstance(record, EpochEnded):
            backbone = search.network.backbone
            stages.append(
                (record.phase, backbone.cells, backbone.identity_dropout, max(map(len, record.mixing.values()), default=1))
            )
    moves = [record for record in search.state.lineage if isinstance(record, Changed) and record.change == "move"]

    assert [*dict.fromkeys(stages)] == [("search", 3, 0.1, 4), ("search", 4, 0.4, 2), ("retune", 3, 0.0, 1)]
    assert len(moves) == 3
    assert search.network.structure.decided
    assert identities(search.network.structure) <= 1


def test_stages_must_agree() -> None:
    """Each stage has a number of cells, of candidates, and a rate of dropout."""
    with pytest.raises(ValueError, match=r"candidates is \(8, 5\); it must have one entry for each of 3 stages"):
        attrs.evolve(PDarts(), candidates=(8, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": (5, 0, 17)}, "cells is 0"),
        ({"candidates": (8, 5, 0)}, "keep is 0"),
        ({"identity_dropout": (0.1, 0.4, 7.0)}, "identity_dropout is 7.0"),
        ({"grace": 25}, "make grace smaller than epochs"),
    ],
)
def test_the_entries_of_the_stages_are_checked(options: dict[str, Any], message: str) -> None:
    """What a stage cannot have is refused when the plan is made, before anything reads its steps."""
    with pytest.raises(ValueError, match=message):
        PDarts(**options)
