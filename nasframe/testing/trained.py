"""A network in the midst of a search."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

from nasframe import (
    Architect,
    Bilevel,
    Context,
    Data,
    Edit,
    Morphism,
    Network,
    Proposal,
    Relaxation,
    Search,
    Seed,
    Split,
    Strategy,
)
from nasframe.change.apply import apply
from nasframe.change.claim import Claim
from nasframe.change.map import Map
from nasframe.change.optimisers import NamedParameters
from nasframe.network.outputs import AuxiliaryOutputs
from nasframe.records import Stepped
from nasframe.search.measuring import asked
from nasframe.search.state import State, succeed, trainer

T = TypeVar("T")
#: the seed of a change where a test does not choose one
EDIT = Seed(("edit",))


@attrs.frozen(eq=False)
class TrainedNetwork:
    """A network that has trained for some steps of a search, with all that the next step needs.

    Laws are tried on such networks because a fresh one hides faults: its optimisers have no moments, its buffers have
    their defaults, and its alphas are equal.

    Args:
        strategy: the strategy of the search.
        data: the data of its task.
        state: the state of the search. `train` changes it in place.
        map: the map by which the network was filled, if it is the child of a change.
        claim: the claim of that change.
    """

    strategy: Strategy
    data: Data = attrs.field(repr=False)
    state: State = attrs.field(repr=False)
    map: Map = attrs.field(factory=dict, repr=False)
    claim: Claim | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, strategy: Strategy, steps: int = 8) -> TrainedNetwork:
        """Return the network of a new search after so many steps."""
        search = Search(strategy)
        return cls(strategy, search.data, search.state).train(steps)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # hypothesis prints failing arguments with it: the whole network would bury the message of the law
        printer.text(repr(self))

    @property
    def network(self) -> Network:
        """Return the network in its present state of training."""
        return self.state.network

    def train(self, steps: int) -> TrainedNetwork:
        """Take so many steps, of alphas and weights, and return the same object."""
        events = iter(Search(self.strategy, data=self.data, state=self.state))
        for _ in itertools.islice((e for e in events if isinstance(e, Stepped)), steps):
            pass
        return self

    def next_problem(self) -> Bilevel:
        """Return the bilevel problem that the architect has in the next step, on the tensors of this network.

        The network must have alphas.
        """
        # the problem exists only within a step, so that an architect keeps it and interrupts the search
        architect = self.strategy.gradient_architect
        assert architect is not None, "an architect that proposes has no bilevel problem"
        recorder = _Recorder(architect, [])
        with contextlib.suppress(InterruptedError):
            for _ in Search(attrs.evolve(self.strategy, architect=recorder), data=self.data, state=self.state):
                pass
        (problem,) = recorder.problems
        return problem

    def measured(self, question: Callable[[Context], T]) -> tuple[T, Mapping[str, Tensor]]:
        """Return the answer of a part that measures in this search, and the remembered values that it used.

        Args:
            question: calls the part with a context, for example `pruner.scores`.
        """
        seed = Seed((self.strategy.seed, "measured"))
        # Measuring writes to the state what it remembers: into a shallow copy here, so that the network stays as it was.
        state = attrs.evolve(self.state, measured={})
        # a clock that does not depend on the machine: each update takes a second
        clock = lambda: float(state.updates)  # noqa: E731
        of, currency = trainer(self.strategy, self.data), self.strategy.currency
        asking = asked(question, "part", state, of, seed=seed, clock=clock, currency=currency)
        while True:
            try:
                next(asking)
            except StopIteration as end:
                answer: tuple[T, Mapping[str, Tensor]] = end.value
                return answer

    def proposals(self, morphism: Morphism) -> list[Proposal]:
        """Return what a morphism proposes in this search, with the values that it remembered as evidence."""
        structure = self.network.structure
        found, measured = self.measured(lambda context: morphism.propose(context, structure))
        return [attrs.evolve(proposal, evidence={**measured, **proposal.evidence}) for proposal in found]

    def without_test_split(self) -> TrainedNetwork:
        """Return the same search on data whose test split raises an AssertionError when it is read."""

        def read(positions: Tensor) -> tuple[Tensor, Tensor]:
            raise AssertionError("the test split was read; decisions use the training and validation split only")

        return attrs.evolve(self, data=attrs.evolve(self.data, test=Split(self.data.test.size, read)))

    def copy(self) -> TrainedNetwork:
        """Return a copy that can train independently."""
        return attrs.evolve(self, state=copy.deepcopy(self.state))

    def after(self, edit: Edit, seed: Seed = EDIT) -> TrainedNetwork:
        """Return the child of an edit, in a search that continues with it; this network stays as it is.

        Args:
            edit: the edit of the structure of this network.
            seed: the seed of the change.
        """
        change = apply(self.network, edit, seed)
        # A shallow copy, whose network and optimisers `succeed` replaces. The journals are shared with this object, and no
        # record is added.
        state = attrs.evolve(self.state)
        succeed(state, trainer(self.strategy, self.data), change.child, change.map)
        return attrs.evolve(self, state=state, map=change.map, claim=change.claim)

    def mixing(self) -> Mapping[str, Tensor]:
        """Return the present mixing weights of all undecided sites."""
        with torch.no_grad():
            return self.network.mixing()

    def inputs(self) -> Tensor:
        """Return the inputs of the validation split."""
        return self.data.validation.batch(torch.arange(self.data.validation.size))[0]

    def outputs(self, training: bool, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the outputs on the validation split, followed by those of an auxiliary head if there is one.

        The network is not changed, and dropout draws the same masks at every call.

        Args:
            training: whether the network is in training mode.
            mixing: the mixing weights, by default the present ones.
        """
        # In training mode a call changes running statistics: those of a copy.
        network = copy.deepcopy(self.network).train(training)
        with torch.no_grad(), Seed(("outputs",)).as_global(self.strategy.device):
            found = network(self.inputs(), self.mixing() if mixing is None else mixing)
        return torch.cat([found.outputs, found.auxiliary]) if isinstance(found, AuxiliaryOutputs) else found

    def gradients(self, second: bool = False) -> dict[str, Tensor]:
        """Return the gradients of the training loss on the whole training split, by parameter, weights and alphas.

        Args:
            second: return second derivatives instead: the gradient of a fixed linear combination of the gradients.
        """
        network = copy.deepcopy(self.network).train()
        inputs, targets = self.data.train.batch(torch.arange(self.data.train.size))
        with Seed(("gradients",)).as_global(self.strategy.device):
            loss = self.data.objective(network(inputs, network.mixing()), targets)
        named = dict(network.named_parameters())
        slopes = torch.autograd.grad(loss, [*named.values()], create_graph=second, materialize_grads=True)
        if second:
            # different factors, so that errors of opposite sign do not cancel
            along = [torch.linspace(0.5, 1.5, s.numel(), dtype=s.dtype).view_as(s) for s in slopes]
            total = torch.stack([(s * a).sum() for s, a in zip(slopes, along, strict=True)]).sum()
            slopes = torch.autograd.grad(total, [*named.values()], materialize_grads=True)
        return dict(zip(named, slopes, strict=True))


@attrs.frozen(eq=False)
class _Recorder(Architect):
    """An architect that keeps the problem of a step, and interrupts the search."""

    name: ClassVar[str] = "recorder"
    architect: Architect
    problems: list[Bilevel]
    relaxation: Relaxation = attrs.field(default=attrs.Factory(lambda self: self.architect.relaxation, takes_self=True))

    def gradient(self, problem: Bilevel) -> Mapping[str, Tensor]:
        self.problems.append(problem)
        raise InterruptedError

    def build_optimiser(self, alphas: NamedParameters) -> Optimizer:
        return self.architect.build_optimiser(alphas)
