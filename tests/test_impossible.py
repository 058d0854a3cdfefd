"""Searches that cannot go on as planned: they end with a reason, and not with a foreign error or never."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
from nasframe_bilevel import FirstOrder, Softmax
from nasframe_growing import NodeGrowth, OperatorGrowth
from nasframe_pruning import Strongest
from test_resume import check_resumes_everywhere
from toy import PLUGINS, toy_strategy

from nasframe import Optimiser, Search
from nasframe.errors import ChangeError, StrategyError
from nasframe.plugins import Plugin, Plugins
from nasframe.records import Changed, EpochEnded, Refused, StageEnded
from nasframe.run.folder import Folder
from nasframe.search.plan import Change, Plan, Repeat, Restore, Train
from nasframe.testing.fakes import Keep, Scripted

BOTH = ("weights", "alphas")
TRAIN = Train(phase="search", parameters=BOTH, epochs=1, competes=True)
DERIVE = Change(derive=True)
KEEPS = Plugins((*PLUGINS.found, Plugin("keep", "tests", "0", (Keep,))))


@attrs.frozen
class Rigid(Softmax):
    """A softmax that refuses to be inverted."""

    name: ClassVar[str] = "rigid"

    def invert(self, sites: Any, wanted: Any, alphas: Any) -> Any:
        raise ChangeError("nothing can be inverted")


def test_a_turn_that_removes_nothing_ends_a_repeat_until_decided(tmp_path: Path) -> None:
    """The error says what to write, and the run folder has the work up to the turn that removed nothing."""
    again = Repeat(steps=(Change(prune=True), TRAIN), until="decided")
    strategy = toy_strategy(plan=(TRAIN, again, Restore()), pruner=Keep(), growth=(), criterion=Scripted(epochs=9))
    for _ in range(2):  # the run, and its continuation
        folder = Folder(tmp_path, KEEPS) if (tmp_path / "strategy.toml").exists() else Folder.create(tmp_path, strategy, KEEPS)
        search, keeper = folder.search()
        with pytest.raises(StrategyError, match=r"turn 0 of a repeat .* removed no candidate.* layer0/n0 .*derive = true"):
            deque(map(keeper, search), maxlen=0)
        epochs = [r.stage for r in search.state.history if isinstance(r, EpochEnded)]
        assert epochs == [0, 1]


def test_a_turn_that_brings_back_what_it_removed_ends_a_repeat_until_decided() -> None:
    """A return to the best network undoes the removal of the turn, so that no candidate is gone at its end."""
    turn = (Change(prune=True, pruner=Strongest(keep=2)), Restore())
    plan = (TRAIN, Repeat(steps=turn, until="decided"), TRAIN)
    search = Search(toy_strategy(plan=plan, growth=(), pruner=Keep()))
    with pytest.raises(StrategyError, match=r"turn 0 of a repeat .* removed no candidate"):
        search.run()


def test_growth_after_the_last_decision_is_an_error() -> None:
    """Where a plan ends with several candidates, it says which step is missing, also when the search is continued."""
    plan = (TRAIN, DERIVE, Change(grow=True, growth=(NodeGrowth("gate"),)), TRAIN)
    search = Search(toy_strategy(plan=plan, growth=(), criterion=Scripted(epochs=9)))
    for _ in range(2):
        with pytest.raises(StrategyError, match=r"layer0/n1 has several candidates, .* Give a change derive = true"):
            search.run()
    with pytest.raises(StrategyError, match="layer0/n1 has several candidates"):
        Search(search.strategy, data=search.data, state=search.state)


@pytest.mark.parametrize("end", [(), (Restore(),)], ids=["as it is", "restored"])
def test_without_a_competitor_the_present_network_is_the_result(end: Plan) -> None:
    """A network that was decided after the last phase that competes is the result, with its validation loss."""
    search = Search(toy_strategy(plan=(TRAIN, DERIVE, *end), growth=(), criterion=Scripted(epochs=9), seeds=1))
    search.run()

    assert search.state.best is not None
    assert search.state.best.valid == search.loop.changer.loss(search.network)
    assert [record.kind for record in search.compare()][-1] == "change"


def test_a_plan_that_ends_with_a_phase_hands_over_its_best_network() -> None:
    """The network is the one of the epoch with the least validation loss, and no later one."""
    tune = Train(phase="tune", epochs=5, competes=True, optimiser=Optimiser(learning_rate=0.5))
    search = Search(toy_strategy(plan=(TRAIN, DERIVE, tune), growth=(), criterion=Scripted(epochs=9), seeds=1))
    losses = [record.valid for record in search if isinstance(record, EpochEnded) and record.phase == "tune"]

    assert losses[-1] > min(losses)
    assert search.state.best is not None
    assert search.state.best.valid == search.loop.changer.loss(search.network) == min(losses)


@pytest.mark.parametrize("gate", [False, True])
def test_a_growth_that_the_relaxation_refuses_ends_the_search(gate: bool) -> None:
    """Other proposals are tried; without any that can be made, the decision of the stage has the reasons, and the search goes on."""
    growth = (NodeGrowth("noise"), *([NodeGrowth("gate")] if gate else []))
    strategy = toy_strategy(architect=FirstOrder(relaxation=Rigid()), growth=growth, plan="end")
    search = Search(strategy)
    search.run()
    stages = [r for r in search.state.history if isinstance(r, StageEnded)]
    grown = [r.by for r in search.state.lineage if isinstance(r, Changed) and r.change == "grow"]

    assert search.network.structure.decided
    if gate:
        assert set(grown) == {"node form=gate"}
        assert stages[0].decision == "continue"
    else:
        assert not grown
        assert stages[0].decision == "stop"
        assert (
            "relaxation 'rigid' has no alphas for the mixing weights of the change (nothing can be inverted)"
            in stages[0].reason
        )
        assert "form = 'gate'" in stages[0].reason


def refusals(search: Search) -> list[Refused]:
    return [r for r in search.state.history if isinstance(r, Refused)]


@pytest.mark.parametrize("per", ["network", "site"])
def test_a_change_leaves_out_growths_that_the_relaxation_refuses(per: str) -> None:
    """A change of the plan makes the first proposal that can be made; without any, a needed one ends the repeat, with the reason."""
    grow = Change(grow=True, growth=(NodeGrowth("noise"),), per=per, needed=True)
    plan = (Repeat(steps=(TRAIN, grow)), DERIVE, Train(phase="tune", epochs=1, competes=True), Restore())
    architect = FirstOrder(relaxation=Rigid())
    search = Search(toy_strategy(architect=architect, plan=plan, growth=()))
    search.run()

    assert not [r for r in search.state.lineage if isinstance(r, Changed) and r.change in ("grow", "edit")]
    assert search.network.structure.decided
    (record,) = refusals(search)
    assert (record.by, record.phase) == ("node", "change")
    assert "node: the relaxation 'rigid' has no alphas" in record.why


def test_an_impossible_growth_within_a_phase_leaves_a_record() -> None:
    """The phase goes on, and each change whose growth is impossible says why; what the pruner removes is removed all the same."""
    change = Change(prune=True, pruner=Strongest(keep=2), grow=True, growth=(NodeGrowth("noise"),))
    train = attrs.evolve(TRAIN, epochs=3, during=(change,))
    strategy = toy_strategy(
        architect=FirstOrder(relaxation=Rigid()), plan=(train, DERIVE, Restore()), growth=(), criterion=Scripted(epochs=9)
    )
    check_resumes_everywhere(strategy)
    search = Search(strategy)
    search.run()
    made = [(r.change, r.by) for r in search.state.lineage if isinstance(r, Changed) and r.phase == "search"]

    assert [(r.phase, r.epoch, r.by) for r in refusals(search)] == [("search", 1, "node"), ("search", 2, "node")]
    assert made == [("edit", "strongest")]


def test_a_needed_growth_that_nothing_proposes_leaves_a_record() -> None:
    """Where no morphism proposes a change, that is the reason."""
    grow = Change(grow=True, growth=(OperatorGrowth(threshold=1.0),), needed=True)
    plan = (Repeat(steps=(TRAIN, grow)), DERIVE, TRAIN, Restore())
    search = Search(toy_strategy(plan=plan, growth=(), criterion=Scripted(epochs=9)))
    search.run()

    assert [r.why for r in refusals(search)] == ["no morphism proposes a change"]


@pytest.mark.parametrize("keep", [2, 9])
def test_a_change_names_who_decided(keep: int) -> None:
    """The pruner if it removes anything, and the morphism that adds."""
    pruner, morphism = Strongest(keep=keep), OperatorGrowth(sigma=0.0)
    change = Change(prune=True, pruner=pruner, grow=True, growth=(morphism,))
    search = Search(toy_strategy(plan=(TRAIN, change, DERIVE, TRAIN, Restore()), growth=(), criterion=Scripted(epochs=9)))
    search.run()

    (record,) = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "edit"]
    assert bool(record.removed) == (keep == 2)
    assert record.by == ("strongest, operator sigma=0.0" if keep == 2 else "operator sigma=0.0")
