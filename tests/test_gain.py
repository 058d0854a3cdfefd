"""The gain of a growth: one currency for growths of all kinds, its prediction and what is realised of it."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from nasframe_bilevel import FirstOrder
from nasframe_growing import DepthGrowth, NodeGrowth, OperatorGrowth, Resampling, WidthGrowth, operators
from nasframe_recurrent import Darts, Prod, Sum, Tanh, TwoToOne
from nasframe_splitting import Split
from test_impossible import Rigid
from test_resume import check_resumes_everywhere
from toy import PLUGINS, toy_strategy

from nasframe import Morphism, Optimiser, Proposal, Search, Seed, Strategy
from nasframe.change.copied import copied
from nasframe.errors import ChangeError
from nasframe.interfaces.part import short_name
from nasframe.records import Changed, Measured
from nasframe.search import changes, gain as gains_module, loop
from nasframe.search.changes import Changer
from nasframe.search.choose import ranked, worth
from nasframe.search.replay import replay
from nasframe.search.state import trainer
from nasframe.search.trainer import keyed_batch
from nasframe.testing.fakes import Endless, Scripted
from nasframe.testing.trained import TrainedNetwork

SEED = Seed(("gain",))
GROWTHS: dict[str, Morphism] = {
    "node": NodeGrowth(delta=0.05),
    "gated node": NodeGrowth("gate"),
    "copy": OperatorGrowth(sigma=0.05),
    "fresh": OperatorGrowth("fresh"),
    "resample": Resampling(4),
    "split": Split(),
    "width": WidthGrowth(),
    "depth": DepthGrowth(),
}


def toy(**fields: Any) -> Strategy:
    backbone = TwoToOne(3, operations=(Sum(), Tanh(), Prod()))
    return toy_strategy(**{"backbone": backbone, "plan": "end", "criterion": Scripted(epochs=1, growths=1)} | fields)


@functools.cache
def trained() -> TrainedNetwork:
    return TrainedNetwork.of(toy(criterion=Endless()), 20)


@functools.cache
def proposal_of(morphism: Morphism) -> Proposal:
    return trained().proposals(morphism)[0]


def grown(morphism: Morphism, rate: float) -> Changed:
    """Return the record of a growth of the trained network, in a search with that learning rate."""
    of = trained().copy()
    strategy = attrs.evolve(of.strategy, optimiser=Optimiser(learning_rate=rate))
    changer = Changer(strategy, trainer(strategy, of.data))
    return changer.grow(of.state, morphism, proposal_of(morphism), why="a test", seed=SEED)


def assert_realised(name: str) -> None:
    """The realised gain differs from the predicted one by an error of the order eta^2, and both change with eta."""
    records = [grown(GROWTHS[name], rate) for rate in (0.02, 0.01, 0.005)]
    predicted, realised = ([getattr(r, each) for r in records] for each in ("predicted", "realised"))
    errors = [p - r for p, r in zip(predicted, realised, strict=True)]

    assert predicted[0] != predicted[1] != predicted[2]
    for one, half in ((errors[0], errors[1]), (errors[1], errors[2])):
        assert 3 < one / half < 5


@pytest.mark.parametrize("name", GROWTHS)
def test_the_gain_is_realised_to_first_order_in_the_learning_rate(name: str) -> None:
    """The realised gain of each kind of growth differs from the predicted one by an error that falls as the learning rate squared."""
    assert_realised(name)


def test_an_exact_copy_loses_half_of_what_a_step_gains_by_its_operation() -> None:
    """Its gain is -eta/2 |grad L|^2 by the parameters of the operation, because each half gets half of their gradient."""
    morphism, of = OperatorGrowth(sigma=0.0), trained()
    record = grown(morphism, 0.01)
    inputs, targets = keyed_batch(of.data.train, SEED("batch", "train"), 0, of.state.batch)
    network = copy.deepcopy(of.network).eval()
    name = f".candidates.{record.request['candidate']}."
    parameters = [p for n, p in network.named_parameters() if name in n]
    gradients = torch.autograd.grad(of.data.objective(network(inputs, network.mixing()), targets), parameters)

    assert record.predicted == pytest.approx(-0.005 * sum(float(g.square().sum()) for g in gradients), rel=1e-9)


def compared_with_a_pass(of: TrainedNetwork, morphism: Morphism) -> tuple[float, float, int]:
    """Return the gain of a growth as the search measures it, that of a pass of the child, and the passes that the search made."""
    network, made = of.network.structure, [(morphism, of.proposals(morphism)[0])]
    passes, honest = list[Any](), gains_module._gradients
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gains_module, "_gradients", lambda *given: passes.append(given) or honest(*given))
        ((found, _),), _ = of.measured(lambda context: gains_module.gains(context, network, made, "parameters", SEED))
        patched.setattr(gains_module, "_followed", lambda *given: {})
        ((reference, _),), _ = of.measured(lambda context: gains_module.gains(context, network, made, "parameters", SEED))
    return found, reference, len(passes) - 2


@pytest.mark.parametrize("name", ["exact copy", "gated node", "width", "depth"])
def test_the_gain_of_an_exact_growth_is_that_of_a_pass_of_its_child(name: str) -> None:
    """An exact copy has the gain that a pass of the child measures, without one; other growths need a pass for their new weights."""
    morphism = OperatorGrowth(sigma=0.0) if name == "exact copy" else GROWTHS[name]
    found, reference, passes = compared_with_a_pass(trained(), morphism)
    assert found == pytest.approx(reference, rel=1e-9)
    assert found != 0
    assert passes == (1 if name == "exact copy" else 2)


@functools.cache
def layered() -> TrainedNetwork:
    return TrainedNetwork.of(toy(backbone=Darts(3, layers=2), nodes=2, criterion=Endless()), 5)


@pytest.mark.parametrize("of", [trained, layered])
def test_no_child_is_built_for_exact_copies(of: Callable[[], TrainedNetwork], monkeypatch: pytest.MonkeyPatch) -> None:
    """At each site an exact copy has the gain that is measured with its child, without one."""
    morphism, network = OperatorGrowth(sigma=0.0), of().network.structure
    made = [(morphism, proposal) for proposal in of().proposals(morphism)]

    def measured() -> list[float]:
        found, _ = of().measured(lambda context: gains_module.gains(context, network, made, "parameters", SEED))
        return [gain for gain, _ in found]

    with monkeypatch.context() as patched:
        patched.setattr(gains_module, "copied", lambda *_: None)
        references = measured()
    monkeypatch.setattr(gains_module, "apply", None)
    assert measured() == pytest.approx(references, rel=1e-9)
    assert all(references)


def test_growths_that_need_a_child_have_one() -> None:
    """Only for exact copies the map is given without a child, and not if a weight of the copy is left out or they have other weights."""
    of = trained().network

    def map_of(morphism: Morphism, needs_child: bool = False, **changed: Any) -> Any:
        proposal = proposal_of(morphism)
        edit = morphism.edit(of.structure, proposal.request, proposal.evidence, SEED)

        def fill(parent: Any, child: Any) -> Any:
            filling = edit.fill(parent, child)
            return attrs.evolve(filling, **{name: change(getattr(filling, name)) for name, change in changed.items()})

        return copied(of, attrs.evolve(edit, fill=fill, needs_child=needs_child or edit.needs_child))

    exact = OperatorGrowth(sigma=0.0)
    assert map_of(exact) is not None
    assert [name for name, morphism in GROWTHS.items() if map_of(morphism) is not None] == []
    assert map_of(exact, overrides=lambda entries: dict([*entries.items()][:-1])) is None
    assert map_of(exact, mixing=lambda mixing: {}) is None
    assert map_of(exact, needs_child=True) is None
    with pytest.raises(ChangeError, match="states the mixing weights"):
        map_of(exact, mixing=lambda mixing: {address: 2 * weights for address, weights in mixing.items()})


def test_a_copy_that_the_relaxation_cannot_weigh_has_no_gain() -> None:
    """The gain of an impossible copy is not a number, also without a child."""
    of = TrainedNetwork.of(toy(architect=FirstOrder(relaxation=Rigid()), criterion=Endless()), 1)
    morphism, network = OperatorGrowth(sigma=0.0), of.network.structure
    made = [(morphism, of.proposals(morphism)[0])]
    ((found, _),), _ = of.measured(lambda context: gains_module.gains(context, network, made, "parameters", SEED))
    assert math.isnan(found)


def test_a_wrong_share_of_the_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above fails where the map of a copy says that it has the whole gradient."""
    honest = operators.copies

    def whole(*given: Any) -> Any:
        return {name: attrs.evolve(entry, gradient=1.0) for name, entry in honest(*given).items()}

    monkeypatch.setattr(operators, "copies", whole)
    found, reference, _ = compared_with_a_pass(trained(), OperatorGrowth(sigma=0.0))
    assert found != pytest.approx(reference, rel=1e-3)


def test_a_new_weight_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above fails where the gradient of a new gate is not computed, as if it followed from those of the parent."""
    honest = gains_module._gradients

    def without_gates(network: Any, loss: Any, known: Any = ()) -> Any:
        return honest(network, loss, {*known, *(f"{name}.g" for name, _ in network.gates())} if known else known)

    monkeypatch.setattr(gains_module, "_gradients", without_gates)
    found, reference, _ = compared_with_a_pass(trained(), GROWTHS["gated node"])
    assert found != pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize("fault", ["rate", "change"])
def test_a_wrong_sign_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above fails where the gain has the squared gradients, or the change of the loss, with the wrong sign."""
    honest = gains_module.gain_of

    def wrong(parent: Any, child: Any, rate: float, exact: bool) -> float:
        if fault == "rate":
            return honest(parent, child, -rate, exact)
        return honest((child[0], parent[1]), (parent[0], child[1]), rate, exact)

    monkeypatch.setattr(changes, "gain_of", wrong)
    with pytest.raises(AssertionError):
        assert_realised("fresh")


@functools.cache
def searched(currency: str) -> Search:
    """Return a search in which a node, a copy, a split and more units compete."""
    growth = tuple(GROWTHS[name] for name in ("node", "fresh", "split", "width"))
    search = Search(toy(growth=growth, currency=currency, criterion=Scripted(epochs=1, growths=2)))
    search.run()
    return search


def grown_in(search: Search) -> list[tuple[int, Changed]]:
    return [(n, r) for n, r in enumerate(search.state.lineage) if isinstance(r, Changed) and r.change == "grow"]


def assert_compared(search: Search) -> None:
    """The evidence of each growth has the gains of all proposals, of which that of the growth is what the record predicts."""
    records = grown_in(search)

    assert len(records) == 2
    for number, record in records:
        gains = {n: float(search.state.evidence[f"{number}/{n}"]) for n in record.evidence if n.startswith("gain of ")}
        chosen = f"gain of {record.by} {json.dumps(dict(record.request))}"
        assert {name.split()[2] for name in gains} >= {"node", "operator", "split", "width"}
        assert record.predicted == pytest.approx(gains[chosen], rel=1e-9)


def test_the_gains_that_were_compared_are_evidence() -> None:
    """The evidence of each growth has the gains of all proposals, of which that of the growth is what the record predicts."""
    assert_compared(searched("flops"))


def test_another_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above fails where the gain of the record is measured on another batch than those that were compared."""
    honest = changes.keyed_batch
    monkeypatch.setattr(changes, "keyed_batch", lambda split, seed, number, size: honest(split, seed, number + 1, size))
    searched.cache_clear()
    with pytest.raises(AssertionError):
        assert_compared(searched("flops"))
    searched.cache_clear()


@pytest.mark.parametrize("currency", ["parameters", "flops"])
def test_the_largest_gain_per_cost_is_made(currency: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The growth of a search is the one whose gain per new parameter, or per new FLOP, is the largest of all that were compared."""
    tables = list[dict[str, tuple[float, float, int]]]()
    honest = loop.ranked

    def noted(proposals: Any, used: Any, costs: Any) -> Any:
        rows = zip(proposals, costs, strict=True)
        tables.append({f"{short_name(m)} {json.dumps(dict(p.request))}": (p.gain, cost, p.cost) for (m, p), cost in rows})
        return honest(proposals, used, costs)

    monkeypatch.setattr(loop, "ranked", noted)
    searched.cache_clear()
    records = [record for _, record in grown_in(searched(currency))]
    for record, table in zip(records, tables, strict=False):
        best = max(table, key=lambda name: worth(*table[name][:2]))
        assert f"{record.by} {json.dumps(dict(record.request))}" == best
        # FLOPs are counted for one example: two for each multiply-add of each of its time steps
        assert all((cost == parameters) == (currency == "parameters") for _, cost, parameters in table.values())


@pytest.mark.parametrize(("currency", "times"), [("stated", 1), ("parameters", 2)])
def test_a_gain_is_measured_once(currency: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A morphism states its gain or the search measures it; the gradients of the parent are measured once for all of them."""
    of, networks = attrs.evolve(trained(), strategy=toy(currency=currency)), list[Any]()
    honest = gains_module._gradients
    monkeypatch.setattr(gains_module, "_gradients", lambda *given: networks.append(given) or honest(*given))
    found = [(morphism, p) for morphism in (WidthGrowth(), NodeGrowth("gate")) for p in of.proposals(morphism)]
    if currency != "stated":
        of.measured(lambda context: gains_module.gains(context, of.network.structure, found, currency, SEED))
    assert [p.gain != 0 for _, p in found] == [currency == "stated", False]
    assert len(networks) == 1 + times


@pytest.mark.parametrize("gain", [-1.0, 0.0, 1.0])
def test_what_costs_more_is_worth_less(gain: float) -> None:
    """Of equal gains above zero the cheaper one comes first, and a cost does not make a harmful growth look better."""
    few, many = Proposal({"cost": 1}, gain=gain, cost=2), Proposal({"cost": 20}, gain=gain, cost=20)
    order = ranked([(GROWTHS["node"], many), (GROWTHS["node"], few)], {}, [20, 2])
    assert [p for _, p in order] == ([few, many] if gain > 0 else [many, few])


def test_a_growth_that_is_impossible_comes_last() -> None:
    """A gain that cannot be measured is not a number, and the search makes another growth."""
    growth = (NodeGrowth(delta=0.05), NodeGrowth("gate"))
    strategy = toy(growth=growth, currency="parameters", architect=FirstOrder(relaxation=Rigid()))
    search = Search(strategy)
    measured = [r for r in search if isinstance(r, Measured) and r.key.startswith("gain of ")]
    assert [(r.key.split(" {")[0], r.value is None) for r in measured[:2]] == [
        ("gain of node delta=0.05", True),
        ("gain of node form=gate", False),
    ]
    assert [r.by for _, r in grown_in(search)] == ["node form=gate"]


@pytest.mark.parametrize("currency", ["parameters", "flops"])
def test_a_search_that_compares_gains_resumes_and_replays(currency: str) -> None:
    """From each event, measured gains included, it goes on to the same bytes, and its structures follow without data."""
    growth = tuple(GROWTHS[name] for name in ("gated node", "fresh", "width"))
    search = toy(growth=growth, currency=currency)
    assert check_resumes_everywhere(search) >= 8
    state = searched(currency).state
    *_, last = replay(searched(currency).strategy, state.lineage, state.evidence, PLUGINS)
    assert last == searched(currency).network.structure
