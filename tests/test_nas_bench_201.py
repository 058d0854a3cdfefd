"""NAS-Bench-201: its networks have the published sizes, and searches of any kind find cells of its space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from convolutional import Blobs, image_strategy
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import NasBench201
from nasframe_growing import Epochs, Threshold
from nasframe_relaxations import HardGumbel
from nasframe_robustness import DartsPT

from nasframe import Optimiser, Search, Strategy
from nasframe.network.network import unallocated
from nasframe.structure.editing import remove_from

SIZES = {"channels": 3, "classes": 10}


def small(**changes: Any) -> Strategy:
    """Return a search of tiny networks for two epochs, in which the backbone derives the cell."""
    options: dict[str, Any] = {
        "task": Blobs(size=8, height=5, width=6),
        "backbone": NasBench201(channels=1, cells=1),
        "criterion": Epochs(2),
        "pruner": Threshold(below=0.0),
        "growth": (),
        "nodes": 3,
        "batch": 4,
        "optimiser": Optimiser(learning_rate=0.01, epochs=2),
    }
    return image_strategy(**(options | changes))


def test_the_cell_of_3x3_convolutions_has_the_published_number_of_parameters() -> None:
    """With 16 channels and five cells a stage it is 1.531546 million."""
    space = NasBench201(affine=True).space(NasBench201(affine=True).initial(SIZES, 3))
    assert space.size == 15625
    assert sum(p.numel() for p in unallocated(space.architecture((3,) * 6)).parameters()) == 1_531_546


@pytest.mark.parametrize(
    "changes",
    [
        {"architect": FirstOrder()},
        {"architect": FirstOrder(relaxation=HardGumbel())},
        {"plan": DartsPT(epochs=1, tuning=1, alphas=False).steps()},
    ],
    ids=["softmax", "hard_gumbel", "darts_pt"],
)
def test_searches_find_a_cell(changes: dict[str, Any]) -> None:
    """A search of alphas, or of perturbations, ends with a network that has one candidate on each of the six edges."""
    search = Search(small(**changes))
    for _ in search:
        pass
    picks = search.space.picks(search.network.structure)
    assert len(picks) == 6


def test_zero_may_be_the_strongest_candidate() -> None:
    """Each edge keeps the candidate of the largest mixing weight, also where it is zero."""
    backbone = NasBench201(channels=1, cells=1)
    supernet = backbone.initial(SIZES, 3)
    wanted = (0, 3, 1, 0, 4, 2)
    mixing = {a: torch.eye(5)[pick] for (a, _), pick in zip(supernet.sites(), wanted, strict=True)}
    architecture = remove_from(supernet, backbone.derive(supernet, mixing))
    assert wanted == backbone.space(supernet).picks(architecture)
