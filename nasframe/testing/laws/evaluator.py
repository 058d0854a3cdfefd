"""The laws of evaluators: tried on short chains with little data, with learning rates at which training converges and diverges."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from nasframe import Data, NasframeError, Network, Optimiser, Seed, Space, Split, Strategy, Structure
from nasframe.errors import CheckpointError
from nasframe.interfaces.evaluator import Outcome, Trained, Workbench
from nasframe.network.network import build
from nasframe.records import finite
from nasframe.search.evaluate import Bench, updates_per_epoch
from nasframe.search.state import copied, fill
from nasframe.testing.cases import Case as AnyCase
from nasframe.testing.compare import differences, require
from nasframe.testing.fakes import AdamDescent, Chain, Endless, Keep, Noise
from nasframe.testing.law import Inapplicable, law
from nasframe.testing.subject import Subject

#: the numbers of nodes of the chains
NODES = (1, 2, 3)
SIZES = {"inputs": 2, "outputs": 1}


@attrs.frozen(eq=False, kw_only=True)
class Case(AnyCase):
    """An evaluator in a search on chains.

    Args:
        nodes: the number of nodes, if the evaluator accepts chains of that length; otherwise it is another number.
        budget: the budget of the trials.
        rate: the learning rate.
        seed: the seed of the trials and of their architectures.
    """

    nodes: int
    budget: int
    rate: float
    seed: int

    def __str__(self) -> str:
        try:
            chains = f"chains of {len(self.space.decisions)} nodes"
        except Inapplicable:  # some laws need no space
            chains = "no chains"
        return f"{super().__str__()} on {chains}, budget {self.budget}, learning rate {self.rate:g}, seed {self.seed}"

    @property
    def space(self) -> Space:
        """Return the space of the search."""
        for nodes in (self.nodes, *NODES):
            space = Space(Chain().initial(SIZES, nodes))
            try:
                self.part.check(space)
            except NasframeError as error:
                refused = error
            else:
                return space
        raise Inapplicable(f"it refuses chains of {', '.join(map(str, NODES))} nodes: {refused}")

    @property
    def strategy(self) -> Strategy:
        """Return how networks are trained."""
        return Strategy(
            task=Noise((*SIZES.items(),), (-1, SIZES["inputs"]), (-1, SIZES["outputs"])),
            backbone=Chain(),
            architect=AdamDescent(),
            criterion=Endless(),
            pruner=Keep(),
            evaluator=self.part,
            batch=3,
            # Without momentum, so that a large rate makes the loss infinite within an epoch.
            optimiser=Optimiser("sgd", learning_rate=self.rate),
            dtype="float64",
        )

    def bench(self, data: Data | None = None) -> Watched:
        """Return a new workbench, by default with the data of the task."""
        given = self.load() if data is None else data
        return Watched(Bench(self.strategy, self.space, lambda: given))

    def load(self) -> Data:
        """Return the data of the task."""
        strategy = self.strategy
        return strategy.task.load(torch.device("cpu"), strategy.torch_dtype)

    def architecture(self, number: int) -> Structure:
        """Return one of the drawn architectures."""
        return self.space.architecture(self.space.random(Seed((self.seed, "architecture", number))))

    def parent(self) -> Trained:
        """Return a trained architecture to inherit from."""
        bench, structure, seed = self.bench(), self.architecture(1), Seed((self.seed, "parent"))
        network = bench.build(structure, seed)
        bench.train(network, self.budget, seed)
        return Trained(structure, copied(network))

    def outcome(self, number: int, parent: Trained | None = None, bench: Watched | None = None) -> Outcome:
        """Return the outcome of an architecture."""
        try:
            found: Outcome = self.part.evaluate(
                self.architecture(number), self.budget, Seed((self.seed, "trial", number)), parent, bench or self.bench()
            )
        except NasframeError as error:  # such as a table without this architecture
            raise Inapplicable(f"it refuses an architecture: {error}") from error
        require(isinstance(found, Outcome), f"it returns {found!r} in the place of an Outcome")
        return found


@attrs.define(eq=False)
class Watched(Workbench):
    """A workbench that notes what is done with it.

    Attributes:
        first: the initial parameters and buffers of the first network that was built; None before.
        updates: the number of updates in all trainings.
    """

    bench: Bench
    first: dict[str, Tensor] | None = None
    updates: int = 0

    @property
    def space(self) -> Space:
        """Return the space of the search."""
        return self.bench.space

    @property
    def data(self) -> Data:
        """Return the data of the task."""
        return self.bench.data

    def build(self, structure: Structure, seed: Seed, parent: Trained | None = None) -> Network:
        """Build a network, and note its initial tensors if it is the first one."""
        network = self.bench.build(structure, seed, parent)
        self.first = self.first or copied(network)
        return network

    def train(self, network: Network, updates: int, seed: Seed) -> Outcome:
        """Train a network and count the updates."""
        found = self.bench.train(network, updates, seed)
        self.updates += found.updates
        return found


def cases(subject: Subject) -> SearchStrategy[Case]:
    """Return the evaluator in small searches; one in four cases has a learning rate at which training diverges."""
    assert subject.parts is not None
    drawn = {
        "nodes": st.sampled_from(NODES),
        "budget": st.integers(1, 7),
        "rate": st.sampled_from([0.01, 0.1, 0.3, 1e200]),
        "seed": st.integers(0, 999),
    }
    return st.builds(Case, subject=st.just(subject), part=subject.parts, data=st.data(), **drawn)


def exercise(case: Case) -> dict[str, Any]:
    """Return the outcomes of two architectures with fresh weights, and of one that inherits."""
    found = {"an architecture": case.outcome(0), "another one": case.outcome(1), "an heir": case.outcome(0, case.parent())}
    return {f"the {name} of {who}": v for who, outcome in found.items() for name, v in plain(outcome).items()}


def plain(outcome: Outcome) -> dict[str, Any]:
    """Return values that can be compared."""
    numbers = {"loss": outcome.valid, "number of updates": outcome.updates, "scores": dict(outcome.scores)}
    return numbers | {f"tensor {name}": tensor for name, tensor in outcome.tensors.items()}


@law("evaluator.outcome", "a training that diverged returns NaN or Infinity: write None. Or `tensors` are those of the parent")
def outcome(case: Case) -> None:
    """A loss or a score is a finite number, or None if the training diverged; tensors are those of the architecture's network."""
    for number, parent in ((0, None), (0, case.parent())):
        found = case.outcome(number, parent)
        numbers = {"the loss": found.valid, **{f"the score {name}": score for name, score in found.scores.items()}}
        wild = {name: value for name, value in numbers.items() if value is not None and finite(value) is None}
        require(not wild, f"{', '.join(f'{name} is {value}' for name, value in wild.items())}")
        if not found.tensors:
            continue
        network = build(case.architecture(number), Seed((0, "overwritten"))).to(torch.float64)
        try:
            fill(network, found.tensors)
        except CheckpointError as error:
            require(False, f"the outcome has other tensors than the architecture's network: {error}")


@law(
    "evaluator.budget",
    "it trains twice, takes the budget for a number of epochs, or reports the updates of the last training alone",
)
def budget(case: Case) -> None:
    """It makes no more updates than the budget, except that the last epoch is completed, and reports as many as it made."""
    bench = case.bench()
    found = case.outcome(0, bench=bench)
    epoch = updates_per_epoch(case.strategy, bench.data)
    most = epoch * -(-case.budget // epoch)
    require(type(found.updates) is int and found.updates >= 0, f"it reports {found.updates!r} updates; write a whole number")
    require(found.updates >= bench.updates, f"it reports {found.updates} updates and makes {bench.updates}")
    require(
        found.updates <= most, f"it makes {found.updates} updates with a budget of {case.budget}; at most {most} are allowed"
    )


@law("evaluator.parent", "it trains the tensors of the parent: build a network with bench.build(structure, seed, parent)")
def parent(case: Case) -> None:
    """The tensors of the parent stay as they are: other trials start from them, too."""
    given = case.parent()
    before = {name: tensor.clone() for name, tensor in given.tensors.items()}
    case.outcome(0, given)
    moved = differences(before, given.tensors)
    require(not moved, f"it changes {', '.join(moved)} of the parent")


@law("evaluator.start", "it trains heirs for fewer updates, at another learning rate or in another order of the examples")
def start(case: Case) -> None:
    """A parent changes nothing but the weights that training starts from: with those of a fresh network the outcome is the same."""
    bench = case.bench()
    fresh = case.outcome(0, bench=bench)
    if bench.first is None:
        raise Inapplicable("it builds no network with bench.build")
    heir = case.outcome(0, Trained(case.architecture(0), bench.first))
    different = differences(plain(fresh), plain(heir))
    require(not different, f"with the weights of a fresh network as those of a parent, {', '.join(different)} differ")


@law("evaluator.test", "it measures on `bench.data.test`: write bench.data.validation")
def test(case: Case) -> None:
    """An outcome does not depend on the test split, which is never read."""
    data = case.load()
    unread = attrs.evolve(data, test=Split(data.test.size, _read))
    for heir in (None, case.parent()):
        case.outcome(0, heir, case.bench(unread))


def _read(positions: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the test split was read; an outcome depends on the training and validation split only")
