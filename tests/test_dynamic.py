"""A search in which operations grow and are pruned while it trains, and what it leaves: several operations at a site."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from convolutional import PLUGINS, Blobs, image_strategy, small
from nasframe_bilevel import FirstOrder
from nasframe_convolutional import Identity, SeparableConvolution, Zero
from nasframe_growing import (
    Combination,
    Combine,
    Dynamic,
    GrowOperator,
    OperatorGrowth,
    Patience,
    PruneOperator,
    Resampling,
    Threshold,
    operators,
)
from nasframe_recurrent import Darts, IdentityEdge, Sigmoid, Tanh, TanhEdge, ZeroEdge
from test_resume import check_resumes_everywhere
from toy import toy_strategy

from nasframe import Address, Bound, Claim, Optimiser, Search, Seed, Strategy, load_model, save_model
from nasframe.change.edit import remove_candidates
from nasframe.network.cost import cost
from nasframe.network.model import Model
from nasframe.network.network import count_parameters
from nasframe.pictures import draw_cell
from nasframe.records import Changed, EpochEnded
from nasframe.search.plan import END
from nasframe.search.replay import replay
from nasframe.testing import assertions
from nasframe.testing.fakes import Endless, Scripted
from nasframe.testing.trained import TrainedNetwork

FAST = FirstOrder(Optimiser(learning_rate=0.3))
#: thresholds that are passed within a few epochs
EAGER = Dynamic(growth=(OperatorGrowth(threshold=1.2, relative=True, sigma=0.05),), pruner=Threshold(0.6, 2.0, relative=True))


def two_to_one(**changes: Any) -> Strategy:
    parts: dict[str, Any] = {"plan": EAGER.steps(), "criterion": Scripted(epochs=4, growths=1), "architect": FAST, "batch": 25}
    return toy_strategy(**(parts | changes))


def darts(**changes: Any) -> Strategy:
    return two_to_one(backbone=Darts(3, operations=(ZeroEdge(), IdentityEdge(), TanhEdge())), **changes)


def convolutional(**changes: Any) -> Strategy:
    operations = (SeparableConvolution(3), Identity(), Zero())
    return image_strategy(
        **{
            "plan": EAGER.steps(),
            "backbone": small(channels=1, cells=1, operations=operations),
            "task": Blobs(size=4, height=4, width=4),
            "criterion": Scripted(epochs=4, growths=1),
            "architect": FAST,
            "batch": 4,
        }
        | changes
    )


SEARCHES = {"two_to_one": two_to_one, "darts_recurrent": darts, "darts_convolutional": convolutional}


@functools.cache
def searched(backbone: str) -> Search:
    search = Search(SEARCHES[backbone]())
    search.run()
    return search


def changes(search: Search, kind: str) -> list[Changed]:
    return [r for r in search.state.lineage if isinstance(r, Changed) and r.change == kind]


@pytest.mark.parametrize("backbone", SEARCHES)
def test_operators_grow_within_a_phase_and_nodes_between_phases(backbone: str) -> None:
    """In every backbone operators are grown or pruned in mid-phase, a node is grown after it, and the final model has several at a site."""
    search = searched(backbone)
    within = [r for r in changes(search, "edit") if r.phase == "search"]
    combined = [s.candidates[0].operation for _, s in search.network.structure.sites() if s.decided]

    assert any(r.added for r in within)
    assert backbone == "two_to_one" or any(r.removed for r in within)
    assert len(changes(search, "grow")) == 1
    assert len({r.stage for r in within}) == 2
    assert search.network.structure.decided
    assert max(len(o.operations) for o in combined if isinstance(o, Combination)) >= 2


@pytest.mark.parametrize("backbone", SEARCHES)
def test_the_final_model_is_used_like_any_other(backbone: str, tmp_path: Path) -> None:
    """It is written and read, rebuilt, counted, drawn and exported, and its structures follow from the lineage without data."""
    search = searched(backbone)
    network, structure = search.network.eval(), search.network.structure
    inputs = search.data.test.batch(torch.arange(4))[0]
    save_model(Model(network), tmp_path)
    loaded = load_model(tmp_path, PLUGINS)

    assert loaded.network.structure == structure
    assert torch.equal(loaded(inputs), network(inputs))
    assert sum(network.count().values()) == sum(p.numel() for p in network.parameters()) == count_parameters(structure)
    assert cost(network, inputs.shape).flops > 0
    draw_cell(structure, None, tmp_path / "cell.svg")
    assert "combination" in (tmp_path / "cell.svg").read_text()
    exported = torch.export.export(network, (inputs,)).module()
    assert torch.allclose(exported(inputs), network(inputs))
    *_, last = replay(search.strategy, search.state.lineage, search.state.evidence, PLUGINS)
    assert last == structure
    assert Strategy.from_toml(search.strategy.to_toml(), PLUGINS) == search.strategy


@pytest.mark.parametrize("currency", ["stated", "parameters"])
def test_a_dynamic_search_resumes_at_every_event(currency: str) -> None:
    """From each event, growth and pruning of operators and measured gains in mid-phase included, a search goes on to the same bytes."""
    assert check_resumes_everywhere(darts(criterion=Scripted(epochs=3, growths=1), currency=currency)) >= 20


@pytest.mark.parametrize("form", ["copy", "fresh"])
def test_growing_and_pruning_do_not_alternate(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that is pruned is not grown again, while without that rule it is grown and pruned in turns until the phase ends."""
    growth = (OperatorGrowth(form, threshold=0.7, share=0.45, sigma=0.05),)
    plan = Dynamic(growth=growth, pruner=Threshold(0.4 if form == "copy" else 0.35, 9.0)).steps()

    def changed() -> list[tuple[bool, bool]]:
        search = Search(darts(plan=plan, criterion=Scripted(epochs=9, growths=0)))
        search.run()
        return [(bool(r.added), bool(r.removed)) for r in changes(search, "edit") if r.phase == "search"]

    pruned, grown = (False, True), (True, False)
    assert changed() == [pruned, grown, pruned]
    monkeypatch.setattr(operators, "to_plain", lambda operation: "forgotten")
    assert changed() == [pruned, grown] * 4


@pytest.mark.parametrize("backbone", SEARCHES)
def test_combining_is_exact_and_keeps_the_moments(backbone: str) -> None:
    """All operations of a site become one with the mixing weights as its weights: outputs and gradients are those of the supernet."""
    parent = TrainedNetwork.of(SEARCHES[backbone](plan=END, criterion=Endless()), 4)
    for proposal in parent.proposals(Combine())[:2]:
        child = parent.after(Combine().edit(parent.network.structure, proposal.request, {}, Seed((0,))))

        assert child.claim == Claim.exact()
        assertions.assert_exact(parent, child)
        assertions.assert_gradients_follow(parent, child)


def test_a_node_on_top_of_a_combination_is_bounded() -> None:
    """A combination has the bound sum_i |w_i| |o_i|, so that growth by noise beside it stays approximate."""
    module = Combination((Tanh(), Sigmoid(), Tanh())).build(inputs=2, hidden=3)
    module.weights.data.copy_(torch.tensor([-0.5, 0.25, 2.0]))

    assert Combination((Tanh(), Sigmoid(), Tanh())).magnitude(module) == Bound({(): 2.75})
    with pytest.raises(ValueError, match="one or more operations of equally many inputs, none of them zero"):
        Combination((Tanh(), TanhEdge()))


STRUCTURE = Darts(3, operations=(ZeroEdge(), IdentityEdge(), TanhEdge())).initial({"inputs": 2, "outputs": 2}, 2)
EDGES = [address for address, _ in STRUCTURE.sites()]


def removed(pruner: Threshold, *weights: list[float]) -> dict[str, set[int]]:
    """Return what is removed of the edges xh-n0 and n0-n1, each with zero, identity and tanh."""
    return {a: {*ids} for a, ids in pruner.remove(STRUCTURE, dict(zip(EDGES, map(torch.tensor, weights), strict=True))).items()}


def test_weak_operations_are_removed_unless_one_dominates() -> None:
    """What is below the first threshold is removed, unless an operation of the node other than zero is above the second one."""
    assert removed(Threshold(0.1, 0.6), [0.05, 0.5, 0.45], [0.3, 0.3, 0.4]) == {EDGES[0]: {0}}
    assert removed(Threshold(0.1, 0.4), [0.05, 0.5, 0.45], [0.3, 0.3, 0.4]) == {}
    assert removed(Threshold(0.1, 0.4), [0.3, 0.3, 0.4], [0.93, 0.02, 0.05]) == {EDGES[1]: {4}}  # zero does not dominate
    assert removed(Threshold(0.25, 2.0, relative=True), [0.08, 0.5, 0.42], [0.084, 0.5, 0.416]) == {EDGES[0]: {0}}


def test_the_last_operation_that_is_not_zero_is_protected() -> None:
    """However weak all of them are, the strongest operation of a node stays."""
    assert removed(Threshold(0.1, 1.0), [0.97, 0.01, 0.02], [0.3, 0.3, 0.4]) == {EDGES[0]: {1}}


def test_softmax_divides_the_weight_of_removed_candidates() -> None:
    """The remaining mixing weights keep their ratios and sum to one (3.2.3)."""
    parent = TrainedNetwork.of(two_to_one(plan=END, criterion=Endless()), 4)
    before = parent.mixing()["layer0/n0"]
    after = parent.after(remove_candidates(parent.network.structure, {Address("layer0/n0"): {0, 3}})).mixing()["layer0/n0"]

    assert torch.allclose(after, before[[1, 2, 4]] / before[[1, 2, 4]].sum())


def epoch(**readings: float) -> EpochEnded:
    common: dict[str, Any] = {"stage": 0, "phase": "search", "epoch": 0, "updates": 1, "train": 1.0, "valid": 1.0}
    return EpochEnded(**common, moves_alphas=True, readings=readings)


def test_criteria_want_a_change_when_a_threshold_is_passed_and_then_rest() -> None:
    """Growing and pruning of operators are decided after each epoch, compose, and leave the end of the phase to other criteria."""
    grow, prune = GrowOperator(0.5, rest=3), PruneOperator(0.1)
    state, found = None, []
    for value in (0.4, 0.6, 0.7, 0.8, 0.9, 0.9):
        state, decision = grow.decide(state, [epoch(**{"largest mixing weight": value})], [])
        found.append(decision.change)
    assert found == [False, True, False, False, True, False]

    record = epoch(**{"largest mixing weight": 0.4, "candidates to remove by threshold below=0.1": 2.0})
    either = (Patience(2) | grow | prune).decide(None, [record], [])[1]
    assert (either.next, either.change, either.reason) == ("continue", True, "2 mixing weights are below 0.1")
    assert (grow & prune).decide(None, [record], [])[1].change is False


def test_criteria_measure_what_the_parts_decide_by() -> None:
    """The readings are the largest mixing weight of an operation, and the number of candidates that the pruner would remove."""
    parent = TrainedNetwork.of(darts(plan=END, criterion=Endless()), 0)
    parent.network.alphas[EDGES[0]].data.copy_(torch.tensor([0.6, 0.35, 0.05], dtype=torch.float64).log())
    measured = {
        name: value
        for c in (GrowOperator(), GrowOperator(relative=True), PruneOperator(0.1))
        for name, value in parent.measured(c.measure)[0].items()
    }

    assert [*measured.values()] == pytest.approx([0.35, 1.05, 1.0])


def test_re_sampling_draws_in_proportion_to_the_mixing_weights() -> None:
    """The expectation of the shares is the mixing weights, and each candidate of the new site has the weight 1 / N."""
    site, part = dict(STRUCTURE.sites())[EDGES[0]], Resampling(draws=4)
    weights = {0: 0.5, 1: 0.1, 2: 0.4}
    drawn = Counter(id for n in range(300) for id in part._drawn(site, weights, Seed((n,))))
    assert all(abs(drawn[id] / 1200 - weight) < 0.05 for id, weight in weights.items())

    parent = TrainedNetwork.of(two_to_one(plan=END, criterion=Endless()), 4)
    request = {"site": "layer0/n0", "drawn": [1, 1, 1, 4]}
    child = parent.after(part.edit(parent.network.structure, request, {}, Seed((0,))))
    assert [c.operation.name for c in child.network.structure.cell("layer0").site("n0").candidates] == [
        "tanh",
        "prod",
        "tanh",
        "tanh",
    ]
    assert torch.allclose(child.mixing()["layer0/n0"], torch.full((4,), 0.25, dtype=torch.float64))
    one = parent.after(part.edit(parent.network.structure, {"site": "layer0/n0", "drawn": [2]}, {}, Seed((0,))))
    assert one.network.structure.decided


def test_a_plan_that_would_remove_what_it_grew_is_refused() -> None:
    """A fresh copy needs a mixing weight that the pruner does not count as weak."""
    fresh = (OperatorGrowth(form="fresh", share=0.02),)
    with pytest.raises(ValueError, match=r"a fresh copy has the mixing weight 0\.02 and would be removed"):
        Dynamic(growth=fresh, pruner=Threshold(0.05))
    Dynamic(growth=fresh, pruner=Threshold(0.01))
