"""What a supernet suggests: the architecture of its mixing weights, and close decisions made otherwise."""

from __future__ import annotations

import itertools

import pytest
import torch
from convolutional import SUPERNETS, trained
from hypothesis import given, strategies as st
from nasframe_recurrent import TwoToOne
from recurrent import strategy
from torch import Tensor

from nasframe import Network, Seed
from nasframe.search.suggestions import MOST, suggestions
from nasframe.search.trainer import mixing_weights
from nasframe.structure.editing import remove_from
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("suggestions",))


def drawn(network: Network, number: int) -> Network:
    """Return the network with random alphas."""
    generator = SEED(number).generator()
    with torch.no_grad():
        for alpha in network.alphas.values():
            alpha.copy_(torch.randn(alpha.shape, generator=generator, dtype=torch.float64))
    return network


@given(nodes=st.integers(1, 4), number=st.integers(0, 99))
def test_the_closest_decisions_come_first(nodes: int, number: int) -> None:
    """The first is the strongest of each site, then follow those with the second one at one site, then all others.

    Those of least difference to the first come first: it is the sum of the differences of the mixing weights.
    """
    network = drawn(TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(3), nodes=nodes), 0).network, number)
    space, mixing = network.backbone.space(network.structure), mixing_weights(network)
    order = [[*enumerate(weights.argsort(descending=True).tolist())] for weights in mixing.values()]

    def key(cell: tuple[tuple[int, int], ...]) -> tuple[bool, float]:
        difference = sum(float(weights.max() - weights[pick]) for weights, (_, pick) in zip(mixing.values(), cell, strict=True))
        return sum(rank for rank, _ in cell) > 1, difference

    cells = sorted(itertools.product(*order), key=key)[: MOST + 1]
    assert suggestions(network, space) == tuple(tuple(pick for _, pick in cell) for cell in cells)


@pytest.mark.parametrize("number", range(len(SUPERNETS)))
def test_they_are_different_architectures(number: int) -> None:
    """Also where a node chooses among its edges, the first one is what is derived at the end of a search, and none occurs twice."""
    nodes, task, options = SUPERNETS[number]
    network = drawn(trained(nodes, task, **options).network, number)
    structure, space = network.structure, network.backbone.space(network.structure)
    found = suggestions(network, space)
    mixing: dict[str, Tensor] = dict(mixing_weights(network))

    assert space.architecture(found[0]) == remove_from(structure, network.backbone.derive(structure, mixing))
    assert len({*found}) == len(found) > 1
