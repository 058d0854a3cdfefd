"""A search that is taken up again goes on as if it had never stopped."""

from __future__ import annotations

import contextlib
import hashlib

import attrs
import pytest
import torch
from full import FULL, full_only
from nasframe_growing import NoBetter, NodeGrowth
from toy import PLUGINS, toy_strategy

from nasframe import Optimiser, Search, Seed, Strategy
from nasframe.errors import ChangeError, ClaimError, NonFiniteError
from nasframe.records import from_json, to_json
from nasframe.search import state as states
from nasframe.search.replay import replay
from nasframe.search.state import State
from nasframe.testing.saved import revived, saved


def digest(state: State) -> str:
    text, tensors = saved(state)
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        content.update(name.encode() + tensors[name].numpy().tobytes())
    return content.hexdigest()


def check_resumes_everywhere(strategy: Strategy) -> int:
    """Resume at every event, with the global generator in another place each time, and return the number of events.

    Each resumed search must have the next bytes of the whole one after its first event. So the bytes at any event determine
    all that follow. One of the searches goes on to the end, as something that a process remembers may have a late effect; in a
    full run, all do. A quick run resumes at every third event.
    """
    search, dumps, digests = Search(strategy), [], []
    for _ in search:
        dumps.append(saved(search.state))
        digests.append(digest(search.state))
    middle = len(dumps) // 2
    for number in range(len(dumps) - 1) if FULL else range(middle % 3, len(dumps) - 1, 3):
        text, tensors = dumps[number]
        torch.manual_seed(number)
        again = Search(strategy, state=revived(text, tensors, strategy, PLUGINS))
        events = iter(again)
        next(events, None)
        # events of one change of the state follow each other, and a resumed search does not repeat them
        expected = next((other for other in digests[number:] if other != digests[number]), digests[-1])

        assert digest(again.state) == expected, f"resumed at event {number}: {text[:80]}"
        if FULL or number == middle:
            for _ in events:
                pass
            assert digest(again.state) == digests[-1], f"resumed at event {number}, at the end: {text[:80]}"
    return len(dumps)


MOMENTUM = Optimiser("sgd", learning_rate=0.05, momentum=0.9)


@pytest.mark.parametrize(
    ("plan", "optimiser"),
    [
        ("stage", Optimiser(learning_rate=0.01)),
        ("end", MOMENTUM),
        pytest.param("stage", MOMENTUM, marks=full_only),
        pytest.param("end", Optimiser(learning_rate=0.01), marks=full_only),
    ],
    ids=["stage-adam", "end-momentum", "stage-momentum", "end-adam"],
)
def test_same_bytes_from_every_event(plan: str, optimiser: Optimiser) -> None:
    """With two growths, pruning and dropout, a search resumed at any event ends in the same bytes."""
    assert check_resumes_everywhere(toy_strategy(plan=plan, optimiser=optimiser)) >= 24


def test_fails_without_optimiser_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above notices a state that leaves the optimisers' tensors out."""
    monkeypatch.setattr(states, "GROUPS", {})

    with pytest.raises(AssertionError, match="resumed at event"):
        check_resumes_everywhere(toy_strategy())


def test_fails_with_a_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above notices randomness that comes from the global generator."""
    monkeypatch.setattr(Seed, "as_global", lambda seed, device="cpu": contextlib.nullcontext())

    with pytest.raises(AssertionError, match="resumed at event"):
        check_resumes_everywhere(toy_strategy())


def test_a_search_leaves_the_global_generator_alone() -> None:
    """Whoever draws beside a search draws the same numbers as without it."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Search(toy_strategy()).run()

    assert torch.equal(expected, torch.rand(3))


@pytest.mark.parametrize("plan", ["stage", "end"])
@pytest.mark.parametrize("form", ["noise", "gate"])
def test_the_lineage_is_replayed_without_data(plan: str, form: str) -> None:
    """From the records alone every structure of the run is made again, up to the architecture."""
    strategy = toy_strategy(plan=plan, growth=(NodeGrowth(form, 0.05),))
    search = Search(strategy)
    search.run()
    lineage = [from_json(to_json(record)) for record in search.state.lineage]

    assert search.network.structure == list(replay(strategy, lineage, search.state.evidence, PLUGINS))[-1]
    lineage[1] = attrs.evolve(lineage[1], child="another")
    with pytest.raises(ChangeError, match=r"record 1 \(.*\) made another; now it makes"):
        list(replay(strategy, lineage, search.state.evidence, PLUGINS))


def test_a_search_without_any_finite_loss_is_an_error() -> None:
    """The error says where it happened and what to do."""
    search = Search(toy_strategy(optimiser=Optimiser("sgd", learning_rate=1e200)))

    with pytest.raises(NonFiniteError, match=r"the training diverged in phase 'search' of stage 0, .* lower the learning rate"):
        search.run()


class Refused(NodeGrowth):
    """A growth whose claim is found to be false when it is worked out."""

    def edit(self, *_):
        raise ClaimError("refused")


def test_a_growth_that_is_refused_leaves_the_state_as_it_was() -> None:
    """Stage, history, lineage and network are those of the last event, so that the search can go on from there."""
    search = Search(toy_strategy(growth=(Refused(),)))
    events = iter(search)
    while search.state.phase != "judge":
        next(events)
    before = digest(search.state)
    with pytest.raises(ClaimError, match="refused"):
        next(events)

    assert digest(search.state) == before


def test_a_search_has_the_threads_of_its_strategy() -> None:
    """A search computes with its threads; between two of its records the caller has the number that it had before."""
    before = torch.get_num_threads()
    seen = set()

    class Counting(NoBetter):
        def decide(self, *given):
            seen.add(torch.get_num_threads())
            return super().decide(*given)

    search = Search(toy_strategy(threads=before + 1, criterion=toy_strategy().criterion | Counting()))

    assert {torch.get_num_threads() for _ in search} == {before}
    assert seen == {before + 1}


def test_the_test_split_is_not_read() -> None:
    """A search decides without the test split."""
    strategy = toy_strategy()
    data = strategy.task.load(torch.device("cpu"), torch.float64)

    def read(index: torch.Tensor) -> None:
        raise AssertionError("the test split was read")

    object.__setattr__(data.test, "batch", read)
    Search(strategy, data=data).run()
