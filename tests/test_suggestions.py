"""What a supernet suggests: the architecture of its mixing weights, and the closest decisions made otherwise."""

from __future__ import annotations

import pytest
import torch
from convolutional import SUPERNETS, trained
from hypothesis import given, strategies as st
from nasframe_recurrent import TwoToOne
from recurrent import strategy
from torch import Tensor

from nasframe import Network, Seed
from nasframe.search.suggestions import suggestions
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
    """The first is the strongest of each site. The others have the second one at one site, those with the least difference first."""
    network = drawn(TrainedNetwork.of(strategy(2, 2, 3, TwoToOne(3), nodes=nodes), 0).network, number)
    space, mixing = network.backbone.space(network.structure), mixing_weights(network)
    first, *others = suggestions(network, space)

    assert first == tuple(int(weights.argmax()) for weights in mixing.values())
    changed = [next(i for i, pair in enumerate(zip(first, other, strict=True)) if len({*pair}) > 1) for other in others]
    assert sorted(changed) == [*range(nodes)]
    tops = [weights.topk(2) for weights in mixing.values()]
    margins = [float(top.values[0] - top.values[1]) for top in tops]
    assert [margins[site] for site in changed] == sorted(margins)
    for other, site in zip(others, changed, strict=True):
        assert other == (*first[:site], int(tops[site].indices[1]), *first[site + 1 :])


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
