"""Growth by a node, held to its laws on networks that have trained; and mutants, each of which a law must catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from hypothesis import assume, given, strategies as st
from nasframe_bilevel import FirstOrder
from nasframe_growing import NodeGrowth
from nasframe_recurrent import Prod, Relu, Sigmoid, Sum, Tanh, TwoToOne
from recurrent import BOUNDED, Centred, CentredEdge, parents, specimen
from torch import nn

import nasframe.search.state
from nasframe import Bound, Change, Claim, Gate, Network, Optimiser, Seed, Set
from nasframe.change import optimisers
from nasframe.change.apply import apply, distance as measured
from nasframe.errors import ChangeError, ClaimError
from nasframe.testing import assertions
from nasframe.testing.assertions import Make
from nasframe.testing.strategies import seeds
from nasframe.testing.trained import TrainedNetwork

SIZES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SEED = Seed(("growth",))


def growth(form: str, cell: str = "layer0", seed: Seed = SEED, **options: float) -> Make:
    """How a cell grows by a node."""
    return lambda network: NodeGrowth(form=form, **options).change(network, {"cell": cell}, {}, seed)


def grown(parent: TrainedNetwork, form: str, *where: Any, **options: float) -> TrainedNetwork:
    """The search after that growth."""
    return parent.after(growth(form, *where, **options)(parent.network))


@st.composite
def growths(draw: st.DrawFn, *args: Any, **fixed: Any) -> tuple[TrainedNetwork, str, Seed]:
    """A parent that has trained, one of its cell types, and a seed."""
    parent = draw(parents(*args, **fixed))
    return parent, draw(st.sampled_from([type for type, _ in parent.network.structure.cells])), draw(seeds())


forms = st.sampled_from(["gate", "noise"])


class TestTransaction:
    @given(growths(), forms, st.booleans())
    def test_growth_is_a_transaction(self, growths: Any, form: str, training: bool) -> None:
        """Growth leaves the parent as it was, in either mode, and shares nothing with it."""
        parent, *where = growths
        parent.network.train(training)
        assertions.assert_transaction(parent, growth(form, *where))

    @given(growths())
    def test_proposals_cost_what_they_add(self, growths: Any) -> None:
        """A proposal's cost is the number of parameters by which the child is larger, and proposing changes nothing."""
        parent, *_ = growths
        for form in ("gate", "noise"):
            for proposal in NodeGrowth(form=form).propose(parent.network):
                child = assertions.assert_transaction(parent, growth(form, proposal.request["cell"]))
                assert proposal.cost == _count(child.network) - _count(parent.network)

    def test_a_claim_that_is_not_kept_changes_nothing(self) -> None:
        """A change that claims to be exact and is not is refused, and the parent is as it was."""
        parent = specimen()

        def refused(network: Network) -> Change:
            liar = attrs.evolve(growth("noise", delta=1e-9)(network), claim=Claim.exact())
            apply(network, liar, parent.strategy.architect.invert)
            rule, inputs = parent.strategy.architect.mixing, parent.inputs()
            with pytest.raises(ClaimError, match="claims to be exact, but the output differs by"):
                measured(lambda n: n(inputs, rule(dict(n.alphas))), network, liar.child, liar.claim)
            return growth("gate")(network)

        assertions.assert_transaction(parent, refused)


class TestClaim:
    @given(growths(), st.integers(1, 2), st.booleans())
    def test_behind_a_gate_nothing_moves(self, growths: Any, times: int, fast: bool) -> None:
        """Behind a gate a node changes the output by no more than rounding, in evaluation and in training mode, however often
        it is done; by no bit where the cell puts out one state, one operation after the other.
        """
        parent, *where = growths
        parent.network.fast = fast
        child = parent
        for _ in range(times):
            child = grown(child, "gate", *where)
        one = len(parent.strategy.backbone.outputs(child.network.structure.cell(where[0]))) == 1
        assertions.assert_exact(parent, child, allowed=0.0 if one and not fast else None)

    @given(growths(BOUNDED))
    def test_noise_keeps_its_bound(self, growths: Any) -> None:
        """The new node puts out its last input up to the bound that was claimed for it before any data were seen."""
        parent, *where = growths
        change = assertions.assert_no_forward(parent, growth("noise", *where))
        assert change.claim.kind == "approximate"
        assertions.assert_within_bounds(parent.after(change), change.claim.bounds)

    @given(growths(BOUNDED), st.sampled_from([0.1, 0.001]))
    def test_the_bound_is_not_vacuous(self, growths: Any, delta: float) -> None:
        """No inputs of the norms that the node sees exceed the bound, and some reach a sixth of it; ten times larger, a third."""
        parent, *where = growths
        _tight(parent, growth("noise", *where, delta=delta))

    @given(growths(BOUNDED))
    def test_the_bound_falls_with_the_noise(self, growths: Any) -> None:
        """The bound goes to zero in proportion to delta = sigma."""
        parent, *where = growths
        claims = {s: growth("noise", *where, delta=s)(parent.network).claim for s in SIZES}
        assertions.assert_linear("the bound", {s: _at_one(bound) for s, c in claims.items() for bound in c.bounds.values()})

    @given(growths((*BOUNDED, Centred())))
    def test_nothing_is_claimed_of_strangers(self, growths: Any) -> None:
        """With an operation that does not tell its magnitude the noise is lossy; without one it is approximate."""
        parent, *where = growths
        told = all(not isinstance(o, Centred | CentredEdge) for o in parent.strategy.backbone.operations)
        assert growth("noise", *where)(parent.network).claim.kind == ("approximate" if told else "lossy")
        assert growth("gate", *where)(parent.network).claim.kind == "exact"


class TestDistance:
    @given(growths(least=1), st.sampled_from(["delta", "sigma", "both"]))
    def test_noise_moves_the_output_in_proportion(self, growths: Any, which: str) -> None:
        """The network's distance is linear in delta alone, in sigma alone, and in both, over four decades."""
        parent, *where = growths
        assume(which != "sigma" or isinstance(parent.strategy.backbone, TwoToOne))  # no identity of DARTS has parameters
        children = {s: grown(parent, "noise", *where, **noise(which, s)) for s in SIZES}
        assertions.assert_linear(
            f"the distance by {which}", {s: assertions.output_distance(parent, child) for s, child in children.items()}
        )


def noise(which: str, size: float) -> dict[str, float]:
    """Noise of that size, of the weights, of the identity's own parameters, or of both."""
    return {"delta": {"delta": size, "sigma": 0.0}, "sigma": {"delta": 1e-13, "sigma": size}, "both": {"delta": size}}[which]


class TestTraining:
    @given(growths((Sigmoid(), Tanh(), Prod(), Centred()), batch=8), forms)
    def test_all_that_is_new_learns(self, growths: Any, form: str) -> None:
        """Every entry of every new weight, alpha and gate receives a gradient within three steps."""
        parent, *where = growths
        assertions.assert_trainable(parent, grown(parent, form, *where))

    @given(growths((Relu(), Tanh()), batch=8), forms)
    def test_relus_that_are_on_learn(self, growths: Any, form: str) -> None:
        """So do the parameters of a ReLU, if it is on for any example."""
        parent, *where = growths
        child = grown(parent, form, *where)
        assume(_on(parent, child))
        assertions.assert_trainable(parent, child, every=False)

    @given(growths())
    def test_behind_a_gate_the_others_train_on(self, growths: Any) -> None:
        """Behind a gate all else moves in its next step as it would have, moments, step counts and decay included."""
        parent, *where = growths
        child = grown(parent, "gate", *where)
        assertions.assert_gradients_follow(parent, child)
        assertions.assert_moments_follow(parent, child)

    # Adam's first step of a new alpha is its learning rate or, where the gradient is below Adam's eps, next to nothing:
    # proportional on either side, with another factor
    @given(growths(least=1, architect=FirstOrder(Optimiser("sgd", 0.01))))
    def test_noise_disturbs_the_others_in_proportion(self, growths: Any) -> None:
        """With noise the next step of all else differs from what it would have been in proportion to delta = sigma."""
        parent, *where = growths
        # of a mean the identity has a share only: such alphas move by their own rate, however small the noise
        assume(len(parent.strategy.backbone.outputs(parent.network.structure.cell(where[0]))) == 1)
        assertions.assert_linear("the difference of the next step", _differences(parent, where))


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
            make(specimen().network)

    def test_no_identity(self) -> None:
        """Where no operation can be the identity, noise is refused, and a gate is named as the way out."""
        network = nasframe.build(TwoToOne(operations=(Tanh(),)).initial({"inputs": 1, "outputs": 1}, 1), SEED)
        with pytest.raises(ChangeError, match="can act as the identity; grow it with form = 'gate'"):
            growth("noise")(network)
        assert growth("gate")(network).claim.kind == "exact"


Patch = pytest.MonkeyPatch


class TestMutants:
    """Each is a growth with one fault; the law named catches it."""

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (lambda n: _scale(n.body.head.weight, 1 + 1e-15), "changed the parent's network/body.head.weight"),
            (lambda n: n.train(not n.training), "changed the parent's state, mode/"),
            (lambda n: n.body.head.bias.requires_grad_(False), "changed the parent's .*requires_grad/body.head.bias"),
            (
                lambda n: setattr(n.body.head.bias, "grad", torch.ones(2).double()),
                "changed the parent's gradient/body.head.bias",
            ),
            (lambda n: torch.rand(1), "changed the parent's global generator"),
        ],
    )
    def test_a_parent_that_is_touched(self, fault: Callable[[Any], Any], message: str) -> None:
        """Transaction: the parent's values, mode and gradients, and the global generator, stay."""

        def make(network: Network) -> Change:
            change = growth("gate")(network)
            fault(network)
            return change

        with pytest.raises(AssertionError, match=message):
            assertions.assert_transaction(specimen(), make)

    def test_shared_values(self) -> None:
        """Transaction: the child's tensors are its own."""

        def make(network: Network) -> Change:
            change = growth("gate")(network)
            change.child.body.head.weight.data = network.body.head.weight.data
            return change

        with pytest.raises(AssertionError, match=r"shares the storage of body\.head\.weight"):
            assertions.assert_transaction(specimen(), make)

    def test_shared_moments(self, monkeypatch: Patch) -> None:
        """Transaction: so are its moments."""
        monkeypatch.setattr(torch.Tensor, "clone", lambda self, **options: self)
        with pytest.raises(AssertionError, match="shares the storage of step"):
            assertions.assert_transaction(specimen(), growth("gate"))

    def test_another_dtype(self) -> None:
        """Transaction: the child has the parent's dtype."""
        with pytest.raises(AssertionError, match="not its parent's mode, dtype"):
            assertions.assert_transaction(specimen(), lambda n: _with(growth("gate")(n), lambda c: c.float()))

    @pytest.mark.parametrize(
        ("fault", "mode"),
        [
            (lambda change: _override(change, "gates.n2.g", torch.tensor(1e-12)), "evaluation"),
            (lambda change: _override(change, "head.bias", torch.zeros(2)), "evaluation"),
            (lambda change: _with(change, lambda child: setattr(child.body.dropout, "p", 0.39)), "training"),
        ],
    )
    def test_what_is_not_exact(self, fault: Callable[[Change], Change], mode: str) -> None:
        """Exact: a gate that is ajar, a tensor that is lost, and a difference in training mode alone are seen."""
        parent = specimen()
        with pytest.raises(AssertionError, match=f"exact: the distance of the outputs in {mode} mode"):
            assertions.assert_exact(parent, parent.after(fault(growth("gate")(parent.network))))

    def test_lost_buffers(self, monkeypatch: Patch) -> None:
        """Exact: a map that forgets the buffers is seen, as the parent's have moved."""
        monkeypatch.setattr("nasframe.change.map.tensors", lambda network: dict(network.named_parameters()))
        parent = specimen()
        with pytest.raises(AssertionError, match="exact: the distance of the outputs in evaluation mode"):
            assertions.assert_exact(parent, grown(parent, "gate"))

    @pytest.mark.parametrize(
        ("operation", "method"),
        [(Sum, "identity_error"), (Sigmoid, "magnitude"), (Tanh, "magnitude"), (Relu, "magnitude"), (Prod, "magnitude")],
    )
    def test_a_bound_that_forgets_an_operation(self, operation: type, method: str, monkeypatch: Patch) -> None:
        """Tight: a bound without one operation's part is exceeded, where that operation is alone with the sum."""
        parent = specimen(others=() if operation is Sum else (operation(),))
        monkeypatch.setattr(operation, method, lambda self, module: Bound({}))
        with pytest.raises(AssertionError, match="tight: the largest error found of layer0/n2, at"):
            _tight(parent, growth("noise", sigma=0.1 if operation is Sum else 0.0))

    def test_a_bound_for_the_average(self) -> None:
        """Bounded: a bound that holds at some steps, and not at each, is exceeded at one."""
        parent = specimen(others=BOUNDED)
        change = growth("noise")(parent.network)
        child = parent.after(change)
        calls = assertions.node_calls(child, "layer0/n2")
        mean = Bound({(): sum(call.error for call in calls) / len(calls)})
        with pytest.raises(AssertionError, match="bounded: the error of layer0/n2 at its call"):
            assertions.assert_within_bounds(child, {"layer0/n2": mean})

    def test_a_vacuous_bound(self, monkeypatch: Patch) -> None:
        """Tight: a bound that is ten times too large exceeds what any inputs reach."""
        honest = Bound.of
        monkeypatch.setattr(Bound, "of", lambda self, names: honest(self, names) * 10)
        with pytest.raises(AssertionError, match="tight: the bound of layer0/n2, at 1 times"):
            _tight(specimen(others=BOUNDED), growth("noise"))

    def test_a_bound_from_data(self) -> None:
        """Blind: a morphism that runs the network is seen."""
        parent = specimen()

        def make(network: Network) -> Change:
            network(parent.inputs(), parent.mixing())
            return growth("noise")(network)

        with pytest.raises(AssertionError, match="blind: Network was run"):
            assertions.assert_no_forward(parent, make)

    @pytest.mark.parametrize("size", [lambda s: s**0.5, lambda s: s**2, lambda s: 0.05, lambda s: s + 1e-4])
    def test_noise_of_another_order(self, size: Callable[[float], float]) -> None:
        """Linear: noise of another order, that does not fall, or that leaves a rest is seen."""
        parent = specimen(others=BOUNDED)
        values = {s: assertions.output_distance(parent, grown(parent, "noise", delta=1e-13, sigma=size(s))) for s in SIZES}
        with pytest.raises(AssertionError, match="linear: the distance from one of the slope"):
            assertions.assert_linear("the distance", values)

    def test_weights_of_zero(self) -> None:
        """Alive: weights of exactly zero preserve the function and never train."""
        parent = specimen()
        change = growth("noise", sigma=0.0)(parent.network)
        dead = torch.full((6,), -1e4).index_fill(0, torch.tensor(0), 0.0)
        child = parent.after(_override(change, "alphas.layer0/n2", dead, ""))
        assertions.assert_exact(parent, child)
        with pytest.raises(AssertionError, match=r"alive: no gradient reached alphas\.layer0/n2, .*W_h"):
            assertions.assert_trainable(parent, child)

    def test_a_gate_that_is_stuck(self, monkeypatch: Patch) -> None:
        """Alive: behind a gate that does not train nothing does."""
        monkeypatch.setattr(Gate, "forward", lambda self, inherited, own: inherited + self.g.detach() * (own - inherited))
        parent = specimen()
        with pytest.raises(AssertionError, match=r"alive: no gradient reached alphas\.layer0/n2, .*gates\.n2\.g"):
            assertions.assert_trainable(parent, grown(parent, "gate"))

    @pytest.mark.parametrize("method", ["sgd", "adam", "adamw"])
    @pytest.mark.parametrize("fault", ["dropped", "shifted"])
    def test_moments_that_do_not_follow(self, method: str, fault: str, monkeypatch: Patch) -> None:
        """Undisturbed, and Linear of the noise: moments that are dropped, or that are a neighbour's, are seen."""
        parent = specimen(method)
        monkeypatch.setattr(nasframe.search.state, "carry", {"dropped": lambda *_: None, "shifted": _shifted}[fault])
        with pytest.raises(AssertionError, match="undisturbed: the difference between the next steps of"):
            assertions.assert_moments_follow(parent, grown(parent, "gate"))
        with pytest.raises(AssertionError, match="linear: the distance from one of the slope"):
            assertions.assert_linear("the difference of the next step", _differences(parent, ["layer0", SEED]))

    def test_a_gradient_that_goes_otherwise(self) -> None:
        """Follows: a node that lets half of its gradient through is seen, though it puts out the same."""
        parent = specimen()
        child = grown(parent, "gate")
        child.network.body.layers[0].gates["n2"].register_full_backward_hook(lambda module, into, out: (into[0] / 2, into[1]))
        assertions.assert_exact(parent, child, allowed=0.0)
        with pytest.raises(AssertionError, match=r"follows: the distance of the gradient\^1 of "):
            assertions.assert_gradients_follow(parent, child)


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _at_one(bound: Bound) -> float:
    return bound({name: 1.0 for inputs in bound.terms for name in inputs})


def _differences(parent: TrainedNetwork, where: Any) -> dict[float, float]:
    children = {s: grown(parent, "noise", *where, delta=s) for s in (1e-5, 1e-6, 1e-7)}
    return {s: max(d for d, _ in assertions.step_differences(parent, child).values()) for s, child in children.items()}


def _on(parent: TrainedNetwork, child: TrainedNetwork) -> bool:
    """Whether each ReLU that is new lets something through in the last of the three steps, which all gates let through."""
    own, old = child.copy(), dict(parent.network.named_modules())
    relus = {m: n for n, m in own.network.named_modules() if n not in old and getattr(m, "activation", None) is torch.relu}
    now: set[str] = set()
    own.network.register_forward_pre_hook(lambda *_: now.clear())
    for relu in relus:
        relu.register_forward_hook(lambda m, i, o: now.add(relus[m]) if o.any() else None)
    own.train(3)
    return now == {*relus.values()}


def _tight(parent: TrainedNetwork, make: Make) -> None:
    change = make(parent.network)
    ((node, bound),) = change.claim.bounds.items()
    assertions.assert_tight(parent.after(change), node, bound)


def _scale(parameter: nn.Parameter, factor: float) -> None:
    parameter.data.mul_(factor)


def _with(change: Change, act: Callable[[Any], Any]) -> Change:
    act(change.child)
    return change


def _override(change: Change, name: str, value: torch.Tensor, prefix: str = "body.") -> Change:
    (full,) = (n for n, _ in change.child.named_parameters() if n.startswith(prefix) and n.endswith(name))
    return attrs.evolve(change, overrides={full: Set(value.double())})


def _shifted(old: Any, old_named: Any, new: Any, new_named: Any, full: Any) -> None:
    """Each tensor gets the moments of the next one of its shape."""
    optimisers.carry(old, old_named, new, new_named, full)
    for shape in {p.shape for p in new.state}:
        alike = [p for p in new.state if p.shape == shape]
        states = [new.state[p] for p in alike]
        for parameter, state in zip(alike, [*states[1:], states[0]], strict=True):
            new.state[parameter] = state
