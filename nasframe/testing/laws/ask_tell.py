"""The laws of ask/tell architects: tried in searches with made-up outcomes, some of which are those of diverged trainings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nasframe import AskTellArchitect, Memory, Request, Seed, Space
from nasframe.errors import StructureError
from nasframe.records import TrialEnded
from nasframe.testing.cases import Case as AnyCase
from nasframe.testing.compare import require, same
from nasframe.testing.fakes import Chain
from nasframe.testing.law import law
from nasframe.testing.subject import Subject

#: the number of requests after which laws stop, except the one about the end
FEW = 24
#: the number of requests after which a search counts as endless
MANY = 1000


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """An architect in a search on chains of a few nodes.

    Args:
        nodes: the number of nodes.
        in_flight: the number of trials in flight.
        seed: the seed of the search and of the outcomes.
    """

    nodes: int
    in_flight: int
    seed: int

    def __str__(self) -> str:
        return f"{super().__str__()} on chains of {self.nodes} nodes, {self.in_flight} trials in flight, seed {self.seed}"

    @property
    def space(self) -> Space:
        """Return the space of the search."""
        return Space(Chain().initial({"inputs": 2, "outputs": 1}, self.nodes))

    def valid(self, number: int) -> float | None:
        """Return the made-up validation loss of a trial; one in four diverged."""
        draw = torch.rand(2, generator=Seed((self.seed, "outcome", number)).generator()).tolist()
        return None if draw[0] < 0.25 else draw[1]


@attrs.frozen(eq=False)
class Call:
    """A call of an architect.

    Args:
        what: "start", "ask" or "tell", with the number of the trial.
        given: a copy of the memory that it was given, of before the call.
        after: a copy of the same memory, of after the call.
        memory: a copy of the memory that it returned.
        request: what it requested; None if it waits, or was not asked.
        needed: the trials that `needs` named for the memory that it was given.
        received: the records of the trials whose results it had received.
    """

    what: str
    given: Memory
    after: Memory
    memory: Memory
    request: Request | None
    needed: frozenset[int]
    received: tuple[TrialEnded, ...]

    def plain(self) -> list[Any]:
        """Return values that can be compared."""
        request = self.request and (self.request.structure.digest(), self.request.budget, self.request.parent)
        return [self.what, dict(self.memory.values), dict(self.memory.tensors), request, sorted(self.needed)]


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the architect in small searches."""
    assert subject.parts is not None
    numbers = {"nodes": st.integers(1, 4), "in_flight": st.integers(1, 4), "seed": st.integers(0, 999)}
    return st.builds(Case, subject=st.just(subject), part=subject.parts, data=st.data(), **numbers)


def calls(case: Case, most: int = FEW) -> Iterator[Call]:
    """Yield the calls of a search, from its beginning to its end or to the last of `most` requests."""
    architect: AskTellArchitect = case.part
    space, seed = case.space, Seed((case.seed,))
    memory = architect.start(space, seed("start"))
    yield Call("start", Memory(), Memory(), memory.copy(), None, frozenset(), ())
    received: list[TrialEnded] = []
    requests: list[Request] = []
    waits = False
    while True:
        while not waits and len(requests) < min(len(received) + case.in_flight, most):
            number, before, given, needed = len(requests), memory.copy(), memory, frozenset(architect.needs(memory))
            # The memory is copied before and after the call, so that a method that modifies what it is given is noticed.
            memory, request = architect.ask(space, given, number, seed("ask", number))
            yield Call(f"ask {number}", before, given.copy(), memory.copy(), request, needed, tuple(received))
            waits = request is None
            requests += [] if request is None else [request]
        # It waits although no trial is in flight: that is the end of a search.
        if len(received) == len(requests):
            return
        # The architect receives results in the order of the requests, as in a search, whatever the order in which they arrive.
        number, before, given, needed = len(received), memory.copy(), memory, frozenset(architect.needs(memory))
        record = _record(case, number, requests[number])
        memory, waits = architect.tell(space, given, record, seed("tell", number)), False
        received.append(record)
        yield Call(f"tell {number}", before, given.copy(), memory.copy(), None, needed, tuple(received))


def _record(case: Case, number: int, request: Request) -> TrialEnded:
    picks, valid = case.space.picks(request.structure), case.valid(number)
    place: dict[str, Any] = {"stage": 0, "phase": "trials", "epoch": number, "updates": number}
    return TrialEnded(**place, number=number, picks=picks, budget=request.budget, parent=request.parent, valid=valid)


def exercise(case: Case) -> dict[str, Any]:
    """Return what each call returns."""
    return {f"{place}: {call.what}": call.plain() for place, call in enumerate(calls(case))}


@law("ask_tell.requests", "`needs` forgets a parent, a budget is 0 or a float, or the architecture is made for another space")
def requests(case: Case) -> None:
    """A request is an architecture of the space with a whole budget of at least 1; `needs` named its parent ever since it ended."""
    kept = set[int]()
    for call in calls(case):
        # the weights of what is not named once are dropped
        kept &= call.needed
        if call.what.startswith("tell"):
            kept.add(call.received[-1].number)
        if call.request is None:
            continue
        structure, budget, parent = call.request.structure, call.request.budget, call.request.parent
        try:
            case.space.picks(structure)
        except StructureError as error:
            require(False, f"{call.what}: {error}")
        require(
            type(budget) is int and budget > 0, f"{call.what}: the budget is {budget!r}, and not a whole number of at least 1"
        )
        # A parent must have a result, as the weights of a trial in flight do not exist yet.
        known = [trial.number for trial in call.received]
        require(
            parent is None or parent in kept,
            f"{call.what}: the parent is trial {parent}; of the results {known}, `needs` named {sorted(kept)} all the time",
        )


@law("ask_tell.pure", "it appends to a list in its memory, or trains a controller whose tensors are those of the memory")
def pure(case: Case) -> None:
    """No method modifies the memory that it is given."""
    for call in calls(case):
        before, after = dict(call.given.values), dict(call.after.values)
        unchanged = same(before, after) and same(dict(call.given.tensors), dict(call.after.tensors))
        require(unchanged, f"{call.what} modifies the memory: its values were {before} and are {after}")


@law("ask_tell.memory", "it keeps something in itself or in its module, or compares tuples with what JSON returns as lists")
def memory(case: Case) -> None:
    """Everything is in the memory: a copy that was written to disk continues in the same way, whatever was called before."""
    architect: AskTellArchitect = case.part
    whole, space, seed = [*calls(case)], case.space, Seed((case.seed,))
    # backwards, so that whatever the architect keeps elsewhere is of a later call
    for call in reversed(whole[1:]):
        given, number = call.given.copy(), int(call.what.split()[1])
        if call.what.startswith("ask"):
            found, request = architect.ask(space, given, number, seed("ask", number))
        else:
            found, request = architect.tell(space, given, call.received[-1], seed("tell", number)), None
        again = attrs.evolve(call, given=given, memory=found.copy(), request=request, needed=frozenset(architect.needs(given)))
        require(same(again.plain(), call.plain()), f"{call.what} returned {call.plain()}, and with a copy {again.plain()}")


@law("ask_tell.ends", "it never returns None in the place of a request: give it a number of trials")
def ends(case: Case) -> None:
    """A search comes to an end: after some number of trials the architect waits without a trial in flight."""
    count = sum(call.request is not None for call in calls(case, MANY))
    require(count < MANY, f"it has requested {count} trials, and has not ended")
