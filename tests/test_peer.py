"""The comparison of growth with GroMo (docs/measurements/peer_growth.py): it measures what it says, and finds faults."""

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
#: the growths of GroMo that preserve the function: one adds zeros only, one is documented as exact
KEEPS = ("optimal updates, scaling factor as built (0)", "drawn in pairs, noise_ratio=0")


def rounding(dtype: str) -> float:
    """The tolerance of `nasframe.change.claim.tolerance`, relative to the scale."""
    return 256 * torch.finfo(getattr(torch, dtype)).eps


class TestOurs:
    @given(name=st.sampled_from(["widening through the map", 'NodeGrowth("gate")']), **networks)
    def test_exact_growth_changes_outputs_by_rounding(self, name: str, width: int, dtype: str) -> None:
        """Exact growths change the outputs by rounding only, in both modes; new entries train, and all moments are kept."""
        growth = peer.our_growth(name, width, dtype, seed=0)
        assert max(growth.distance.values()) <= rounding(dtype)
        assert (growth.reached, growth.kept) == (1.0, 1.0)

    @given(**networks)
    def test_noise_is_within_its_bound(self, width: int, dtype: str) -> None:
        """Growth by noise changes the outputs within the node's bound; new entries train, and all moments are kept."""
        growth = peer.our_growth('NodeGrowth("noise")', width, dtype, seed=0)
        assert min(growth.distance.values()) > rounding(dtype)
        assert 0 < growth.bound <= 1
        assert (growth.reached, growth.kept) == (1.0, 1.0)


@pytest.fixture(scope="class")
def gromo() -> Any:
    return pytest.importorskip("gromo", reason="GroMo is not a dependency; pip install gromo==0.1.0 to measure it")


@pytest.mark.usefixtures("gromo")
class TestTheirs:
    @given(**networks)
    def test_both_start_with_the_same_layers(self, width: int, dtype: str) -> None:
        """Before growth GroMo's network has the outputs, losses and moments of nasframe's."""
        parent = peer.trained(peer.Perceptron(width), dtype, 0).copy()
        ours = peer.ours(parent)
        with peer.defaults(parent.strategy.torch_dtype):
            other = peer.theirs(parent)
            outputs = ours.outputs(False).transpose(0, 1).flatten(0, 1)
            assert (other.outputs(False) - outputs).abs().max() <= rounding(dtype) * outputs.abs().max()
            assert other.losses() == pytest.approx(ours.losses(), rel=rounding(dtype))
            pairs = zip(ours.moments().values(), other.moments().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)

    @given(name=st.sampled_from([*peer.THEIRS]), **networks)
    def test_only_the_growths_that_preserve_the_function_are_exact(self, name: str, width: int, dtype: str) -> None:
        """Growths that preserve the function change it by rounding only, all others by more; no moments are kept."""
        growth = peer.their_growth(name, width, dtype, seed=0)
        for distance in growth.distance.values():
            assert math.isfinite(distance)
            assert (distance <= rounding(dtype)) == (name in KEEPS)
        assert growth.added > 0
        assert growth.kept == 0

    @given(**networks)
    def test_the_line_search_descends(self, width: int, dtype: str) -> None:
        """With its line search GroMo does not increase the training loss, which is the aim of its growth."""
        assert peer.their_growth("optimal updates, line search", width, dtype, seed=0).losses[0] <= rounding(dtype)


def loud(child: Any) -> Any:
    """New units with non-zero outgoing weights."""
    child.network.body.second.weight.data[:, -1] = 1.0
    return child


def dead(child: Any) -> Any:
    """New units with incoming and outgoing weights of zero."""
    for parameter in child.network.body.first.parameters():
        parameter.data[-peer.NEW :] = 0.0
    return child


def forgotten(child: Any) -> Any:
    """A growth that loses the optimiser's state."""
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
        """A widening with one fault differs from a correct one in the number that measures this fault."""

        def growth(make: Callable[[Any], Any]) -> Any:
            parent = peer.trained(peer.Perceptron(3), "float64", 0).copy()
            return peer.measured(peer.ours(parent), partial(lambda p: make(peer.widened(p)), parent))

        assert not seen(growth(lambda child: child))
        assert seen(growth(fault))
