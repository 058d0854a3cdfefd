"""What a removal reports: the losses before and after it, and the close decisions."""

from __future__ import annotations

import attrs
import pytest
import torch
from nasframe_growing import NodeGrowth
from nasframe_pruning import Strongest
from nasframe_robustness import Perturbation
from toy import toy_strategy

from nasframe import Search, Seed
from nasframe.change.apply import apply
from nasframe.change.edit import remove_candidates
from nasframe.errors import ChangeError
from nasframe.records import Changed
from nasframe.run.summary import remarks_of, took
from nasframe.search import changes
from nasframe.search.changes import MARGIN, harmful
from nasframe.search.loop import Loop
from nasframe.search.plan import Change, Repeat, Train
from nasframe.search.trainer import mixing_weights
from nasframe.testing.fakes import Scripted


def removed(monkeypatch: pytest.MonkeyPatch, harm: float) -> tuple[Search, Search, Changed]:
    """Return a search before and after its pruning, whose mixing weights are nearly even, and the record."""
    monkeypatch.setattr(changes, "HARM", harm)
    before, after = Search(toy_strategy(nodes=2)), Search(toy_strategy(nodes=2))
    loop = Loop(after.strategy, after.data)
    mixing = mixing_weights(after.network)
    gone = after.strategy.pruner.remove(after.network.structure, mixing)
    record = loop.changer.remove(after.state, gone, by="pruner", why="pruned at the end", seed=Seed((1,)))
    return before, after, record


def test_decisions_by_other_scores_are_not_close() -> None:
    """Where a pruner compares losses, the difference of two mixing weights says nothing about its decision."""
    reported = {}
    for pruner in (Strongest(), Perturbation()):
        search = Search(toy_strategy(nodes=2, pruner=pruner, growth=(), criterion=Scripted(epochs=1)))
        search.run()
        first = next(r for r in search.state.lineage if isinstance(r, Changed) and r.change == "remove")
        reported[pruner.name] = any("differences of mixing weights" in remark for remark in remarks_of(first))

    assert reported == {"strongest": True, "perturbation": False}


def test_alternatives_to_a_harmful_removal_are_measured_whatever_it_was_decided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the candidates with the second largest score, also where mixing weights differ much, or losses are compared."""
    monkeypatch.setattr(changes, "HARM", 0.0)
    search = Search(toy_strategy(nodes=2))
    for alpha in search.network.alphas.values():
        alpha.data[0] = 5.0
    scores = {a: torch.arange(len(s.candidates), 0, -1).double() for a, s in search.network.structure.sites()}
    gone = {a: {c.id for c in s.candidates[1:]} for a, s in search.network.structure.sites()}
    record = Loop(search.strategy, search.data).changer.remove(
        search.state, gone, by="p", why="w", seed=Seed((1,)), scores=scores
    )

    assert [a.site for a in record.alternatives] == [*gone]
    for one in record.alternatives:
        second = next(c for a, s in search.space.supernet.sites() if a == one.site for c in s.candidates[1:2])
        assert one.removed.split()[0] == str(second.id)
        assert one.margin > MARGIN
        assert one.valid is not None
    remarks = [*remarks_of(record)]
    assert sum("the loss before tuning is" in remark for remark in remarks) == len(gone)
    assert not any("differences of mixing weights" in remark for remark in remarks)


def loss(search: Search) -> float | None:
    return Loop(search.strategy, search.data).trainer.measure(search.network)[0]


def test_a_removal_has_the_losses_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of the networks before and after it, before any tuning."""
    before, after, record = removed(monkeypatch, 1e9)

    assert (record.valid_before, record.valid_after) == (loss(before), loss(after))


def test_close_decisions_are_reported_and_measured_where_the_removal_did_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names both candidates and the margin; its loss is that of the network that kept the other candidate."""
    before, _, record = removed(monkeypatch, 0.0)
    sites = dict(before.network.structure.sites())

    assert [a.site for a in record.alternatives] == list(sites)
    for one in record.alternatives:
        assert one.margin == 0.0 < MARGIN
        kept, other = (int(name.split()[0]) for name in (one.kept, one.removed))
        gone = {a: {int(i) for i in c} for a, c in record.removed.items()}
        gone[one.site] = gone[one.site] - {other} | {kept}
        edit = remove_candidates(before.network.structure, gone)
        change = apply(before.network, edit, Seed((2,)))
        assert one.valid == Loop(before.strategy, before.data).trainer.measure(change.child)[0]
    assert any("was kept over" in remark and "loss before tuning" in remark for remark in remarks_of(record))


def test_close_decisions_are_not_measured_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted in one sentence."""
    _, _, record = removed(monkeypatch, 1e9)

    assert all(a.valid is None for a in record.alternatives)
    assert [*remarks_of(record)] == [f"pruned at the end: 2 sites were decided by differences of mixing weights below {MARGIN}"]


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(None, None, False), (1.0, 1.9, False), (1.0, 2.1, True), (1.0, None, True)]
)
def test_what_does_harm(before: float | None, after: float | None, expected: bool) -> None:
    """More than twice the loss, or a loss that is not finite any more."""
    assert harmful(before, after) == expected


def test_clear_decisions_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that is far ahead has no close rival."""
    strategy = toy_strategy()
    search = Search(strategy)
    for alpha in search.network.alphas.values():
        alpha.data[0] = 5.0
    mixing = mixing_weights(search.network)
    gone = strategy.pruner.remove(search.network.structure, mixing)
    record = Loop(strategy, search.data).changer.remove(search.state, gone, by="p", why="w", seed=Seed((1,)))

    assert attrs.asdict(record)["alternatives"] == ()


def test_a_change_that_the_optimisers_cannot_follow_leaves_the_state_as_it_was() -> None:
    """An optimiser may keep something whose relation to the gradient is unknown; nothing of the change is recorded then."""
    search = Search(toy_strategy(nodes=2))
    state, loop = search.state, Loop(search.strategy, search.data)
    network, optimisers, lineage = state.network, state.optimisers, [*state.lineage]
    for parameter in network.parameters():
        optimisers["weights"].state[parameter] = {"unknown": torch.ones_like(parameter)}
    address, site = next(iter(network.structure.sites()))

    with pytest.raises(ChangeError, match="'unknown'"):
        loop.changer.remove(state, {address: {site.candidates[0].id}}, by="test", why="a test", seed=Seed((1,)))

    assert (state.network, state.optimisers, state.lineage) == (network, optimisers, lineage)
    assert (state.stage, state.evidence) == (0, {})


@pytest.mark.parametrize(("growths", "expected"), [(0, "and did not grow."), (1, "and grew once."), (2, "and grew 2 times.")])
def test_the_summary_counts_growths_and_not_stages(growths: int, expected: str) -> None:
    """A phase that begins again is a stage, and no growth."""
    train, grow = Train(phase="search", parameters=("weights", "alphas"), epochs=1), Change(grow=True)
    turns = Repeat(steps=(train,), until="times", times=2)
    plan = (turns, *((grow,) * growths), Change(derive=True), attrs.evolve(train, phase="tune", competes=True))
    search = Search(toy_strategy(plan=plan, growth=(NodeGrowth("gate"),), criterion=Scripted(epochs=9)))
    search.run()

    assert search.state.stage == 1
    assert took(search.state).endswith(expected)
