"""A network computes exactly the candidates that its mixing weights name."""

from __future__ import annotations

import pytest
import torch
from full import FULL
from hypothesis import given, strategies as st
from nasframe_convolutional import DartsConvolutional
from nasframe_recurrent import Darts, TwoToOne
from torch import Tensor

from nasframe import Network, Seed, build
from nasframe.errors import StructureError
from nasframe.network.mixing import Mixing

RECURRENT = {"inputs": 3, "outputs": 2}
IMAGES = {"channels": 2, "classes": 3, "height": 8, "width": 8}
BACKBONES = {
    "two_to_one": (TwoToOne(hidden=4), RECURRENT, (5, 2, 3)),
    "darts_recurrent": (Darts(hidden=4), RECURRENT, (5, 2, 3)),
    "darts_convolutional": (DartsConvolutional(channels=2, cells=3), IMAGES, (3, 2, 8, 8)),
}


def supernet(name: str, nodes: int, seed: int) -> tuple[Network, Tensor]:
    """Return a supernet with random alphas, and inputs."""
    backbone, sizes, shape = BACKBONES[name]
    network = build(backbone.initial(sizes, nodes), Seed((seed,))).double()
    generator = torch.Generator().manual_seed(seed)
    for alpha in network.alphas.values():
        alpha.data.normal_(generator=generator)
    return network, torch.randn(shape, generator=generator, dtype=torch.float64)


def drawn(network: Network, data: st.DataObject) -> Mixing:
    """Return mixing weights of which some candidates are computed, with a graph to the alphas."""
    active = {
        a: tuple(sorted(data.draw(st.sets(st.integers(0, len(alpha) - 1), min_size=1), label=a)))
        for a, alpha in network.alphas.items()
        if data.draw(st.booleans(), label=f"{a} is named")
    }
    return Mixing({a: alpha.softmax(0) for a, alpha in network.alphas.items()}, active)


def derivatives(network: Network, inputs: Tensor, mixing: Mixing) -> list[Tensor]:
    """Return the outputs, the gradients of a loss, and second derivatives."""
    found = network(inputs, mixing)
    assert isinstance(found, Tensor)
    parameters = [*network.parameters()]
    first = torch.autograd.grad(found.square().sum(), parameters, create_graph=True, materialize_grads=True)
    total = torch.stack([g.square().sum() for g in first]).sum()
    return [found, *first, *torch.autograd.grad(total, parameters, materialize_grads=True)]


@pytest.mark.parametrize("name", BACKBONES)
@given(data=st.data(), nodes=st.integers(1, 3 if FULL else 2), seed=st.integers(0, 99))
def test_fast_and_readable_form_agree(name: str, data: st.DataObject, nodes: int, seed: int) -> None:
    """In values, gradients and second derivatives, whichever candidates are computed."""
    network, inputs = supernet(name, nodes, seed)
    active, found = drawn(network, data).active, []
    for network.fast in (True, False):
        mixing = Mixing({a: alpha.softmax(0) for a, alpha in network.alphas.items()}, active)
        found.append(derivatives(network, inputs, mixing))

    for fast, readable in zip(*found, strict=True):
        torch.testing.assert_close(fast, readable, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BACKBONES)
@given(data=st.data(), nodes=st.integers(1, 3), seed=st.integers(0, 99))
def test_only_the_named_candidates_are_computed(name: str, data: st.DataObject, nodes: int, seed: int) -> None:
    """The modules of the others are not called, and the outputs are those with their mixing weights set to zero."""
    network, inputs = supernet(name, nodes, seed)
    network.eval()
    mixing, called = drawn(network, data), set()
    network.fast = False
    for address, site in network.structure.sites():
        for _, mixed in network.mixed_operations(address):
            for place, candidate in enumerate(site.candidates):
                mixed.candidates[str(candidate.id)].register_forward_hook(
                    lambda *_, found=(str(address), place): called.add(found)
                )
    outputs = network(inputs, mixing)

    for address, site in network.structure.sites():
        places = mixing.active.get(address, tuple(range(len(site.candidates))))
        assert {place for at, place in called if at == address} == {*places}
    masked = {a: torch.zeros_like(w).scatter(0, torch.tensor(p), w[list(p)]) for a, w, p in each(mixing)}
    torch.testing.assert_close(outputs, network(inputs, masked))


def each(mixing: Mixing) -> list[tuple[str, Tensor, tuple[int, ...]]]:
    """Return the address, the mixing weights and the active positions of each site."""
    return [(a, w, mixing.active.get(a, tuple(range(len(w))))) for a, w in mixing.items()]


@given(seed=st.integers(0, 99))
def test_a_zero_is_computed(seed: int) -> None:
    """A mixing weight of exactly zero has the gradient that a tiny one has."""
    network, inputs = supernet("two_to_one", 2, seed)
    for network.fast in (True, False):
        slopes = []
        for tiny in (0.0, 1e-9):
            leaves = {a: torch.full_like(alpha, 0.5) for a, alpha in network.alphas.items()}
            for weights in leaves.values():
                weights[0] = tiny
                weights.requires_grad_()
            outputs = network(inputs, leaves)
            assert isinstance(outputs, Tensor)
            slopes.append(torch.cat(torch.autograd.grad(outputs.square().sum(), [*leaves.values()])))

        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-6)
        assert slopes[0][0] != 0


@pytest.mark.parametrize("active", [(), (1, 0), (0, 3), (0, 0), (-1,)])
def test_impossible_positions_are_refused(active: tuple[int, ...]) -> None:
    """No position, positions out of order or twice, and positions that do not exist."""
    with pytest.raises(StructureError, match=r"cell/n0 are .*; they must be positions among its 3 candidates"):
        Mixing({"cell/n0": torch.ones(3)}, {"cell/n0": active})
