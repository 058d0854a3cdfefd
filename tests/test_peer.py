"""The measurement of growth beside a peer's (docs/measurements/peer_growth.py): that it measures, and what it says in kind."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, strategies as st

SPEC = importlib.util.spec_from_file_location(
    "peer_growth", Path(__file__).parents[1] / "docs" / "measurements" / "peer_growth.py"
)
assert SPEC is not None
assert SPEC.loader is not None
peer = sys.modules["peer_growth"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(peer)
peer.UPDATES = 20

networks = {"width": st.sampled_from([1, 3]), "dtype": st.sampled_from(["float64", "float32"])}
#: of GroMo's, those that are meant to keep the function: one adds nothing but zeros, one is documented to
KEEPS = ("optimal updates, scaling factor as built (0)", "drawn in pairs, noise_ratio=0")


def rounding(dtype: str) -> float:
    """The tolerance of `nasframe.tolerance` relative to the scale."""
    return 256 * torch.finfo(getattr(torch, dtype)).eps


class TestOurs:
    @given(name=st.sampled_from(["widening through the map", 'NodeGrowth("gate")']), **networks)
    def test_what_is_exact_moves_by_rounding(self, name: str, width: int, dtype: str) -> None:
        """The exact growths move the outputs by rounding at most, in both modes; all that is new trains, all moments are kept."""
        growth = peer.our_growth(name, width, dtype, seed=0)
        assert max(growth.distance.values()) <= rounding(dtype)
        assert (growth.reached, growth.kept) == (1.0, 1.0)

    @given(**networks)
    def test_noise_is_within_its_bound(self, width: int, dtype: str) -> None:
        """The noise moves the outputs, within the bound of the node; all that is new trains, all moments are kept."""
        growth = peer.our_growth('NodeGrowth("noise")', width, dtype, seed=0)
        assert min(growth.distance.values()) > rounding(dtype)
        assert 0 < growth.bound <= 1
        assert (growth.reached, growth.kept) == (1.0, 1.0)


@pytest.fixture(scope="class")
def gromo() -> Any:
    return pytest.importorskip("gromo", reason="GroMo is no dependency; pip install gromo==0.1.0 to measure it")


@pytest.mark.usefixtures("gromo")
class TestTheirs:
    @given(**networks)
    def test_it_has_the_same_layers(self, width: int, dtype: str) -> None:
        """Before it grows, GroMo's network computes what ours does, with the same losses and the same moments."""
        parent = peer.trained(peer.Perceptron(width), dtype, 0).copy()
        own = peer.ours(parent)
        with peer.defaults(parent.strategy.torch_dtype):
            other = peer.theirs(parent)
            outputs = own.outputs(False).transpose(0, 1).flatten(0, 1)
            assert (other.outputs(False) - outputs).abs().max() <= rounding(dtype) * outputs.abs().max()
            assert other.losses() == pytest.approx(own.losses(), rel=rounding(dtype))
            pairs = zip(own.moments().values(), other.moments().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

    @given(name=st.sampled_from([*peer.THEIRS]), **networks)
    def test_it_is_measured(self, name: str, width: int, dtype: str) -> None:
        """What is meant to keep the function moves it by rounding at most, and the rest by more; no optimiser follows."""
        growth = peer.their_growth(name, width, dtype, seed=0)
        for distance in growth.distance.values():
            assert math.isfinite(distance)
            assert (distance <= rounding(dtype)) == (name in KEEPS)
        assert growth.added > 0
        assert growth.kept == 0

    @given(**networks)
    def test_the_line_search_descends(self, width: int, dtype: str) -> None:
        """By its line search the training loss does not rise: that is what its growth is for."""
        assert peer.their_growth("optimal updates, line search", width, dtype, seed=0).losses[0] <= rounding(dtype)


def loud(child: Any) -> Any:
    """New units that are taken in at once."""
    child.network.body.second.weight.data[:, -1] = 1.0
    return child


def dead(child: Any) -> Any:
    """New units that take in nothing and are not taken in."""
    for parameter in child.network.body.first.parameters():
        parameter.data[-peer.NEW :] = 0.0
    return child


def forgotten(child: Any) -> Any:
    """An optimiser that does not follow."""
    return attrs.evolve(child, optimisers=[])


class TestMutants:
    @pytest.mark.parametrize(
        ("fault", "seen"),
        [
            (loud, lambda growth: growth.distance["evaluation"] > 1e-3 < growth.distance["training"]),
            (dead, lambda growth: growth.reached == 0),
            (forgotten, lambda growth: growth.kept == 0),
        ],
    )
    def test_each_fault_is_measured(self, fault: Callable[[Any], Any], seen: Callable[[Any], bool]) -> None:
        """A widening with one fault is told from an honest one by the number that is about it."""

        def growth(make: Callable[[Any], Any]) -> Any:
            parent = peer.trained(peer.Perceptron(3), "float64", 0).copy()
            return peer.measured(peer.ours(parent), partial(lambda p: make(peer.widened(p)), parent))

        assert not seen(growth(lambda child: child))
        assert seen(growth(fault))
