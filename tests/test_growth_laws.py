"""Growth by a node: what it does beyond the laws of all morphisms (`nasframe check node`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, given, strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_recurrent import Prod, Sigmoid, Tanh, TwoToOne
from proportional import assert_proportional
from recurrent import BOUNDED, Centred, CentredEdge, parents, specimen

from nasframe import Bound, Claim, Edit, Filling, Network, Optimiser, Seed, Structure
from nasframe.change.apply import apply, distance as measured
from nasframe.change.map import derive_map
from nasframe.errors import ChangeError, ClaimError
from nasframe.network.network import tensors
from nasframe.testing import assertions
from nasframe.testing.assertions import Make
from nasframe.testing.compare import largest
from nasframe.testing.strategies import seeds
from nasframe.testing.trained import TrainedNetwork

SIZES = (5e-2, 5e-3, 5e-4, 5e-5, 5e-6)
SEED = Seed(("growth",))


def growth(form: str, cell: str = "layer0", seed: Seed = SEED, **options: float) -> Make:
    """Return a function that grows a cell by a node."""
    return lambda structure: NodeGrowth(form=form, **options).edit(structure, {"cell": cell}, {}, seed)


def grown(parent: TrainedNetwork, form: str, *where: Any, **options: float) -> TrainedNetwork:
    """Return the network after that growth."""
    return parent.after(growth(form, *where, **options)(parent.network.structure), SEED)


@st.composite
def growths(draw: st.DrawFn, *args: Any, **fixed: Any) -> tuple[TrainedNetwork, str, Seed]:
    """Return a network that has trained, one of its cell types, and a seed."""
    parent = draw(parents(*args, **fixed))
    return parent, draw(st.sampled_from([type for type, _ in parent.network.structure.cells])), draw(seeds())


def test_a_claim_that_is_not_kept_changes_nothing() -> None:
    """A change that claims to be exact but is not is refused, and the parent is as it was."""
    parent = specimen()

    def refused(structure: Structure) -> Edit:
        honest = growth("noise", delta=1e-9)(structure)

        def fill(before: Network, child: Network) -> Filling:
            return attrs.evolve(honest.fill(before, child), claim=Claim.exact())

        liar = apply(parent.network, attrs.evolve(honest, fill=fill), SEED)
        inputs = parent.inputs()
        with pytest.raises(ClaimError, match="claims to be exact, but the output"):
            measured(lambda n: n(inputs, n.mixing()), parent.network, liar.child, liar.claim)
        return growth("gate")(structure)

    assertions.assert_transaction(parent, refused)


class TestClaim:
    @given(growths(), st.integers(1, 2), st.booleans())
    def test_a_gate_preserves_the_bits(self, growths: Any, times: int, fast: bool) -> None:
        """With a gate the outputs are the same bits in both modes if a cell outputs one state and runs in the readable form."""
        parent, *where = growths
        parent.network.fast = fast
        child = parent
        for _ in range(times):
            child = grown(child, "gate", *where)
        one = len(parent.strategy.backbone.outputs(child.network.structure.cell(where[0]))) == 1
        assertions.assert_exact(parent, child, allowed=0.0 if one and not fast else None)

    @given(growths(BOUNDED), st.sampled_from([0.1, 0.001]))
    def test_the_bound_is_tight(self, growths: Any, delta: float) -> None:
        """The largest error found is a sixth of the bound at least, and a third for inputs ten times as large."""
        parent, *where = growths
        child = grown(parent, "noise", *where, delta=delta)
        ((node, bound),) = _claim(child).bounds.items()
        assertions.assert_tight(child, node, bound)

    @given(growths(BOUNDED))
    def test_the_bound_is_proportional_to_the_noise(self, growths: Any) -> None:
        """With sigma = delta the bound is proportional to delta."""
        parent, *where = growths
        claims = {s: _claim(grown(parent, "noise", *where, delta=s)) for s in SIZES}
        assert_proportional("the bound", {s: _at_one(bound) for s, c in claims.items() for bound in c.bounds.values()})

    @given(growths((*BOUNDED, Centred())))
    def test_an_operation_without_magnitude_makes_noise_lossy(self, growths: Any) -> None:
        """With a candidate that does not implement magnitude() the claim is lossy, else approximate; with a gate it is exact."""
        parent, *where = growths
        bounded = all(not isinstance(o, Centred | CentredEdge) for o in parent.strategy.backbone.operations)
        assert _claim(grown(parent, "noise", *where)).kind == ("approximate" if bounded else "lossy")
        assert _claim(grown(parent, "gate", *where)).kind == "exact"


class TestNoise:
    @given(growths(least=1), st.sampled_from(["delta", "sigma", "both"]))
    def test_noise_changes_the_output_in_proportion(self, growths: Any, which: str) -> None:
        """The distance of the outputs is proportional to delta, to sigma and to both, over four decades."""
        parent, *where = growths
        assume(which != "sigma" or isinstance(parent.strategy.backbone, TwoToOne))  # no identity of DARTS has parameters
        options: Callable[[float], dict[str, float]] = {
            "delta": lambda size: {"delta": size, "sigma": 0.0},
            "sigma": lambda size: {"delta": 1e-13, "sigma": size},
            "both": lambda size: {"delta": size},
        }[which]
        children = {s: grown(parent, "noise", *where, **options(s)) for s in SIZES}
        distances = {s: assertions.output_distance(parent, child) for s, child in children.items()}
        assert_proportional(f"the distance by {which}", distances)

    # Adam's first step of a new alpha is its learning rate or, where the gradient is below Adam's eps, next to nothing:
    # proportional on either side, with another factor
    @given(growths(least=1, architect=FirstOrder(Optimiser("sgd", 0.01))))
    def test_noise_changes_the_next_step_in_proportion(self, growths: Any) -> None:
        """The difference between the next steps of parent and child is proportional to delta = sigma."""
        parent, *where = growths
        # of a mean the identity has a share only: such alphas move at another rate, however small the noise
        assume(len(parent.strategy.backbone.outputs(parent.network.structure.cell(where[0]))) == 1)
        children = {s: grown(parent, "noise", *where, delta=s) for s in (1e-5, 1e-6, 1e-7)}
        assert_proportional("the difference", {s: _step_difference(parent, child) for s, child in children.items()})

    @given(growths((Sigmoid(), Tanh(), Prod(), Centred()), batch=8), st.sampled_from(["gate", "noise"]))
    def test_every_new_entry_trains(self, growths: Any, form: str) -> None:
        """Every entry of every new weight, alpha and gate receives a gradient within three steps."""
        parent, *where = growths
        assertions.assert_trainable(grown(parent, form, *where))


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (growth("gate", "layer7"), "there is no cell type 'layer7' to grow; there are layer0, layer1"),
            (growth("noise", delta=0.2), r"delta is 0\.2; with 6 candidates at layer0/n2 it must be above 0 and below 0\.2"),
            (growth("noise", delta=0.0), r"delta is 0\.0; with 6 candidates at layer0/n2 it must be above 0"),
        ],
    )
    def test_impossible_requests(self, make: Make, message: str) -> None:
        """An unknown cell, and noise that leaves no weight for the identity or none for the others, are refused."""
        with pytest.raises(ChangeError, match=message):
            make(specimen().network.structure)

    def test_no_identity(self) -> None:
        """If no operation can be the identity, noise is refused, and the message suggests a gate."""
        structure = TwoToOne(operations=(Tanh(),)).initial({"inputs": 1, "outputs": 1}, 1)
        with pytest.raises(ChangeError, match=r"can act as the identity; .*form = 'gate'"):
            growth("noise")(structure)
        assert len(growth("gate")(structure).structure.cell("layer0").nodes) == 2


@pytest.mark.parametrize("size", [lambda s: s**0.5, lambda s: s**2, lambda s: 0.05, lambda s: s + 1e-4])
def test_what_is_not_proportional_is_detected(size: Callable[[float], float]) -> None:
    """The assertion fails for noise of another order, for constant noise, and if a rest remains."""
    parent = specimen(others=BOUNDED)
    children = {s: grown(parent, "noise", delta=1e-13, sigma=size(s)) for s in SIZES}
    values = {s: assertions.output_distance(parent, child) for s, child in children.items()}
    with pytest.raises(AssertionError, match="the distance from one of the slope"):
        assert_proportional("the distance", values)


def _claim(child: TrainedNetwork) -> Claim:
    assert child.claim is not None
    return child.claim


def _at_one(bound: Bound) -> float:
    return bound({name: 1.0 for inputs in bound.terms for name in inputs})


def _step_difference(parent: TrainedNetwork, child: TrainedNetwork) -> float:
    """Return the largest difference between the changes of a tensor that both networks have, in their next step."""
    changes = []
    for each in (parent, child):
        before, after = each.copy(), each.copy().train(1)
        changes.append({n: t.detach() - tensors(before.network)[n] for n, t in tensors(after.network).items()})
    shared = [name for name in derive_map(parent.network, child.network) if torch.is_floating_point(changes[0][name])]
    return max(largest(changes[1][name] - changes[0][name]) for name in shared)
