"""Plans: what a run goes through, as data in the strategy."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import offspring
import pytest
import tomli_w
import torch
import twins
from convolutional import image_strategy, small
from nasframe_convolutional import SeparableConvolution, Zero
from nasframe_convolutional.morphism import ConvolutionMorphism
from nasframe_growing import MaxUpdates, NodeGrowth
from nasframe_pruning import Strongest
from test_resume import check_resumes_everywhere
from toy import PLUGINS, toy_strategy

from nasframe import Decision, GrowthCriterion, Optimiser, Search, Strategy
from nasframe.errors import NasframeError, StrategyError
from nasframe.plugins import Plugins
from nasframe.records import Changed, EpochEnded, StageEnded
from nasframe.search.compare import searched
from nasframe.search.plan import (
    END,
    RETRAIN,
    STAGE,
    Change,
    Fold,
    Judge,
    Move,
    Plan,
    Repeat,
    Restore,
    Step,
    Train,
    at,
    enter,
    following,
)
from nasframe.search.replay import replay
from nasframe.testing.fakes import Endless, Scripted

PAGE = Path(__file__).parent.parent / "docs" / "plans.md"
BOTH = ("weights", "alphas")
GROWTH = (NodeGrowth("gate"),)
FINISH: Plan = (Change(prune=True, derive=True, restart=True), Train(phase="tune", epochs=1, competes=True), Restore(), Fold())
PLANS: dict[str, Plan] = {
    "stage": STAGE,
    "end": END,
    "retrain": RETRAIN,
    # changes in mid-phase (Jie & Gao 2021, Algorithm 4), and an optimiser that belongs to the phase
    "during": (
        Train(
            phase="grow",
            parameters=BOTH,
            epochs=3,
            optimiser=Optimiser("sgd", 0.05, momentum=0.9),
            during=(Change(grow=True, growth=GROWTH), Change(reset=("moments",))),
        ),
        *FINISH,
    ),
    "cycles": (
        Repeat(
            steps=(
                Train(phase="cycle", parameters=BOTH, epochs=2, grace=1),
                Change(prune=True, pruner=Strongest(keep=2), reset=("alphas", "moments")),
            ),
            until="times",
            times=2,
        ),
        *FINISH,
    ),
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_survives_toml(plan: str) -> None:
    """A strategy with a plan is equal to the one that is read from its file."""
    strategy = toy_strategy(plan=PLANS[plan])

    assert Strategy.from_toml(strategy.to_toml(), PLUGINS) == strategy


def test_a_plan_has_a_name() -> None:
    """In a file, a registered name stands for the steps of its plan."""
    values = toy_strategy().to_dict()

    for name in ("stage", "end", "retrain"):
        assert Strategy.from_toml(tomli_w.dumps(values | {"plan": name}), PLUGINS).plan == PLANS[name]


@pytest.mark.parametrize("plan", ["during", "cycles"])
def test_a_plan_resumes_at_every_event(plan: str) -> None:
    """A search by a plan ends with the same bytes when it is resumed from any event, also while changes are due."""
    assert check_resumes_everywhere(toy_strategy(plan=PLANS[plan], growth=(), criterion=Scripted(epochs=9))) >= 10


def test_alphas_stay_as_they_are_in_the_grace_epochs() -> None:
    """They move for the first time in the epoch after these, while the weights move in all of them."""
    plan = (Train(phase="search", parameters=BOTH, epochs=3, grace=2, competes=True), Change(derive=True), Restore())
    search = Search(toy_strategy(plan=plan, growth=(), criterion=Scripted(epochs=9)))
    before, moved = dict[str, torch.Tensor](), list[set[bool]]()
    for record in itertools.chain([None], search):
        if record is None or (isinstance(record, EpochEnded) and record.phase == "search"):
            now = {name: parameter.detach().clone() for name, parameter in search.network.named_parameters()}
            moved.append({name.startswith("alphas.") for name in before if not torch.equal(now[name], before[name])})
            before = now

    assert moved == [set(), {False}, {False}, {False, True}]


def test_changes_in_mid_phase_come_after_each_validation_but_the_last() -> None:
    """The phase goes on with the changed network, in the same stage and with the next epoch."""
    search = Search(toy_strategy(plan=PLANS["during"], growth=(), criterion=Scripted(epochs=9)))
    search.run()
    edits = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "edit"]
    grown = [(r.stage, r.phase, r.epoch) for r in edits if r.added]
    trained = [(r.stage, r.epoch) for r in search.state.history if isinstance(r, EpochEnded) and r.phase == "grow"]

    assert grown == [(0, "grow", 1), (0, "grow", 2)]
    assert [bool(r.added) for r in edits] == [True, False] * 2  # in the order of the step
    assert trained == [(0, 0), (0, 1), (0, 2)]
    assert search.network.structure.decided


def test_a_phase_that_begins_again_is_one_of_the_next_stage() -> None:
    """A stage, a phase and an epoch name one epoch of the run."""
    search = Search(toy_strategy(plan=PLANS["cycles"], growth=(), criterion=Scripted(epochs=9)))
    search.run()
    rows = [(r.phase, r.stage, r.epoch) for r in search.state.history if isinstance(r, EpochEnded)]

    assert rows == [*(("cycle", stage, epoch) for stage in (0, 1) for epoch in (0, 1)), ("tune", 1, 0)]


def test_positions_are_whole_numbers() -> None:
    """The step after the last one of a turn is the first one of the next turn, or the step after the repeat."""
    inner = Repeat(steps=(Restore(), Fold()), until="times", times=2)
    plan: tuple[Step, ...] = (inner, Restore())
    places, place = [], enter(plan, (0,), lambda repeat, turns: turns == 2)
    while at(plan, place) is not None:
        places.append(place)
        place = following(plan, place, lambda repeat, turns: turns == 2)

    assert places == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1,)]
    assert enter(plan, (0,), lambda repeat, turns: True) == (1,)


REFUSED = [
    (
        {"name": "train", "phase": "search", "parameters": ["biases"]},
        "parameters has 'biases'; there are 'weights' and 'alphas'",
    ),
    ({"name": "repeat", "steps": ["fold"]}, "it can never end: nothing in it decides"),
    ({"name": "repeat", "steps": ["fold"], "until": "decided"}, "it can never end: no step in it removes candidates"),
    ({"name": "judge", "phase": "tune"}, "a step judges the phase 'tune', which no step trains; there are search"),
    (
        {"name": "train", "phase": "search", "parameters": ["weights", "alphas"], "epochs": 2, "grace": 2},
        "grace is 2 and epochs 2, so that the alphas would never move",
    ),
    ({"name": "change"}, "it changes nothing: write prune = true"),
    ({"name": "jugde", "phase": "search"}, "there is no step 'jugde'; did you mean 'judge'?"),
]


@pytest.mark.parametrize(("step", "message"), REFUSED)
def test_a_plan_that_cannot_be_carried_out_is_refused(step: dict[str, object], message: str) -> None:
    """The error says what is wrong with the step and what to write."""
    values = toy_strategy().to_dict()
    values["plan"] = [{"name": "train", "phase": "search", "competes": True}, step]

    with pytest.raises(NasframeError) as error:
        Strategy.from_dict(values, PLUGINS)
    assert message in str(error.value)


def test_a_plan_that_never_decides_is_refused() -> None:
    """A search needs a step that is sure to leave one candidate at each site; a pruner may leave several."""
    train = Train(phase="search", competes=True)
    prune = Change(prune=True, pruner=Strongest(keep=3))
    for plan in ((train, Judge(phase="search")), (train, prune), (train, Repeat(steps=(prune,), until="times", times=2))):
        with pytest.raises(StrategyError, match=r"layer0/n0 has several candidates, .* Give a change derive = true"):
            Search(toy_strategy(plan=plan))


def test_the_plan_of_the_page_is_carried_out() -> None:
    """The first example in docs/plans.md is read from TOML and ends with an architecture; the others can be carried out, too."""
    searches, plugins = [], Plugins((*PLUGINS.found, twins.PLUGIN, offspring.PLUGIN))
    for text in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL):
        values = toy_strategy(growth=(), nodes=2, criterion=Scripted(epochs=9)).to_dict() | tomllib.loads(text)
        searches.append(Search(Strategy.from_dict(values, plugins)))
    search = searches[0]
    search.run()
    phases = [r.phase for r in search.state.history if isinstance(r, EpochEnded)]

    assert phases == ["cycle"] * 9 + ["tune"] * len(phases[9:])
    assert search.network.structure.decided


def test_cells_move_to_another_backbone() -> None:
    """They are trained on in a deeper network, with fresh weights and alphas, and what was learned is not compared."""
    train = Train(phase="search", parameters=BOTH, epochs=1, competes=True)
    plan = (train, Change(prune=True, pruner=Strongest(keep=3)), Move(backbone=small(cells=4)), train, *FINISH)
    search = Search(image_strategy(plan=plan, backbone=small(cells=3), growth=(), nodes=1))
    search.run()
    moved = next(r for r in search.state.lineage if isinstance(r, Changed) and r.change == "move")

    assert moved.added == moved.removed == {}
    assert search.network.structure.backbone == small(cells=4)
    assert search.network.structure.decided


def test_a_change_for_each_site() -> None:
    """With per = "site" all proposals are made in one change; "network" makes the best one."""
    grown = {}
    for per in ("site", "network"):
        morphism = ConvolutionMorphism(kinds=("pad",))
        plan = (
            Train(phase="search", parameters=BOTH, epochs=1),
            Change(grow=True, growth=(morphism,), per=per, reset=("alphas", "moments")),
            *FINISH,
        )
        backbone = small(channels=1, operations=(SeparableConvolution(3), Zero()))
        search = Search(image_strategy(plan=plan, backbone=backbone, growth=(), nodes=1))
        search.run()
        (record,) = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "edit"]
        grown[per] = len(record.added)

    assert grown["network"] == 1
    assert grown["site"] == 4  # two edges in each of two cell types


def test_a_growth_that_is_needed_and_missing_ends_the_repeat() -> None:
    """A morphism that proposes nothing any more ends the turns."""
    turn = (
        Train(phase="search", parameters=BOTH, epochs=1),
        Change(grow=True, growth=(ConvolutionMorphism(kinds=("crop",)),), needed=True),
    )
    backbone = small(cells=1, channels=1, operations=(SeparableConvolution(3), Zero()))
    search = Search(image_strategy(plan=(Repeat(steps=turn), *FINISH), backbone=backbone, growth=(), nodes=1))
    search.run()
    epochs = [r for r in search.state.history if isinstance(r, EpochEnded) and r.phase == "search"]

    # a kernel of 3 can be cropped to 1 on each of two edges
    assert len(epochs) >= 2
    assert search.network.structure.decided


def test_a_plan_may_judge_before_any_phase() -> None:
    """Where no criterion says stop, the network grows, also if no phase has ended yet."""
    plan = (Judge(phase="search"), Train(phase="search", parameters=BOTH, epochs=1), *FINISH)
    search = Search(toy_strategy(plan=plan, criterion=Endless(), growth=GROWTH))
    judged = next(record for record in search if isinstance(record, StageEnded))

    assert (judged.decision, judged.reason) == ("continue", "no criterion says stop")


@attrs.frozen
class Alternating(GrowthCriterion):
    """A criterion that lets the changes of a phase be made after every second of the epochs that it has seen."""

    name: ClassVar[str] = "alternating"
    ends: ClassVar[frozenset[str]] = frozenset()

    def decide(self, state: Any, history: Sequence[Any], proposals: Sequence[Any]) -> tuple[Any, Decision]:
        seen = (state or 0) + 1
        return seen, Decision(change=seen % 2 == 0, reason=f"{seen} epochs")


def alternating(turns: int) -> Strategy:
    """Return turns of three epochs each, in which a node may grow after an epoch."""
    train = Train(phase="grow", parameters=BOTH, epochs=3, criterion=Alternating(), during=(Change(grow=True, growth=GROWTH),))
    plan = (Repeat(steps=(train,), until="times", times=turns), *FINISH)
    return toy_strategy(plan=plan, growth=(), criterion=Scripted(epochs=9), batch=25)


def test_a_criterion_refuses_changes_in_some_epochs() -> None:
    """The network grows exactly after the epochs in which the criterion of the step allows it."""
    search = Search(alternating(2))
    search.run()
    grown = [(r.stage, r.epoch) for r in search.state.lineage if isinstance(r, Changed) and r.change == "edit"]

    # the fourth epoch it sees is the first one of the second turn: its memory belongs to the step, and not to a turn. After the
    # sixth the phase is over
    assert grown == [(0, 2), (1, 1)]
    assert search.state.memory["step 0.0"] == 6
    assert search.state.memory["strategy"] == 1  # the tuning alone is decided by the criterion of the strategy


def test_the_memory_of_a_step_survives_a_resume() -> None:
    """A search goes on to the same bytes although the criterion's decisions depend on how many epochs it has seen."""
    assert check_resumes_everywhere(alternating(2)) >= 14


@pytest.mark.parametrize("reset", ["alphas", "moments"])
@pytest.mark.parametrize("step", [{}, {"grow": True}], ids=["alone", "with a growth that is not possible"])
def test_a_change_may_reset_and_nothing_else(step: dict[str, Any], reset: str) -> None:
    """Alphas have their initial values and moments are gone, also where there is nothing to add; the weights stay."""
    train = Train(phase="search", parameters=BOTH, epochs=2)
    search = Search(toy_strategy(plan=(train, Change(reset=(reset,), **step), *FINISH), growth=()))
    before = None
    for record in search:
        if isinstance(record, Changed):
            break
        before = {name: tensor.clone() for name, tensor in search.network.state_dict().items()}
    assert before is not None
    assert isinstance(record, Changed)
    now = search.network.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
    moments = [len(optimiser.state) for optimiser in search.state.optimisers.values()]

    assert record.request == {"removed": {}, "added": [], "reset": [reset]}
    assert record.why == "reset after phase 'search' of stage 0" or step
    assert record.claim == {"kind": "lossy" if reset == "alphas" else "exact"}
    assert moved == ({name for name in before if name.startswith("alphas.")} if reset == "alphas" else set())
    assert (sum(moments) == 0) == (reset == "moments")
    *_, last = replay(search.strategy, search.state.lineage, search.state.evidence, PLUGINS)
    assert last == search.network.structure


def test_what_is_made_for_each_site_is_the_best_of_it() -> None:
    """Of several proposals for a site that with the largest gain is made, and the others are left out."""
    plan = (
        Train(phase="search", parameters=BOTH, epochs=1),
        Change(grow=True, growth=(ConvolutionMorphism(kinds=("pad", "crop", "dilate")),), per="site", reset=("alphas",)),
        *FINISH,
    )
    backbone = small(cells=1, channels=1, operations=(SeparableConvolution(3), Zero()))
    search = Search(image_strategy(plan=plan, backbone=backbone, growth=(), nodes=1))
    search.run()
    (record,) = [r for r in search.state.lineage if isinstance(r, Changed) and r.change == "edit"]

    assert [(added["request"]["site"], added["request"]["kind"]) for added in record.request["added"]] == [
        ("reduction/i0-n0", "pad"),
        ("reduction/i1-n0", "pad"),
    ]


class Unable(NodeGrowth):
    """A morphism that proposes nothing."""

    def propose(self, context: Any, structure: Any) -> list[Any]:
        return []


def test_a_needed_growth_that_is_missing_leaves_the_network_as_it_is() -> None:
    """Nothing is removed or reset in a change whose growth is needed and cannot be made."""
    replace = Change(prune=True, pruner=Strongest(), grow=True, growth=(Unable(),), reset=("alphas", "moments"), needed=True)
    plan = (Repeat(steps=(Train(phase="search", parameters=BOTH, epochs=1), replace)), *FINISH)
    search = Search(toy_strategy(plan=plan, growth=()))
    search.run()
    first = next(r for r in search.state.lineage if isinstance(r, Changed))

    assert first.why == "pruned to an architecture"
    assert [r.phase for r in search.state.history if isinstance(r, EpochEnded)] == ["search", "tune"]


@pytest.mark.parametrize("phase", ["search", "explore"])
def test_the_name_of_a_phase_has_no_meaning(phase: str) -> None:
    """A limit of updates keeps a share for tuning in a phase that trains alphas, and the run counts as a search."""
    train = Train(phase=phase, parameters=BOTH, competes=True)
    plan = (Repeat(steps=(train, Judge(phase=phase))), *END[1:])
    search = Search(toy_strategy(plan=plan, criterion=Endless() | MaxUpdates(20, tuning=0.5), growth=()))
    search.run()
    spent = {r.phase: r.updates for r in search.state.history}

    assert spent == {phase: 9, "judge": 9, "retune": 18}
    assert searched(search.state)
    assert (
        next(r.why for r in search.state.lineage if isinstance(r, Changed) and r.change == "remove")
        == "pruned to an architecture"
    )
