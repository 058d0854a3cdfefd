"""The plans "stage" and "end" are Algorithm 2 of Jie & Gao (2021), which is written out here without plans."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import Any

import pytest
import torch
from full import FULL
from nasframe_growing import NoBetter, NodeGrowth
from nasframe_pruning import Strongest
from toy import toy_strategy

from nasframe import Optimiser, Search, Seed, Strategy, build
from nasframe.records import Changed, EpochEnded
from nasframe.search.changes import Changer
from nasframe.search.loop import Loop
from nasframe.search.state import Snapshot, initial, snapshot
from nasframe.testing.fakes import Scripted
from nasframe.testing.trained import TrainedNetwork

EPOCHS, GROWTHS = 2, 2


class Algorithm2:
    """The algorithm on the strategy's parts, with a fixed number of epochs in each phase."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.data = strategy.task.load(torch.device("cpu"), strategy.torch_dtype)
        self.state = initial(strategy, self.data)
        self.changer: Changer = Loop(strategy, self.data).changer
        self.losses: list[float] = []
        self.best: Snapshot | None = None

    @property
    def seed(self) -> Seed:
        """Return the seed of the next change."""
        return Seed((self.strategy.seed, "change", len(self.state.lineage)))

    def train(self, phase: str, alphas: bool = False, competes: bool = False) -> float:
        """Return the least validation loss of a phase."""
        state, trainer, losses = self.state, self.changer.trainer, []
        for epoch in range(EPOCHS):
            state.epoch, state.samples, state.loss = epoch, 0, 0.0
            seed = Seed((self.strategy.seed, "epoch", state.stage, phase, epoch))
            deque(trainer.epoch(state, seed, search=alphas), maxlen=0)
            losses.append(trainer.validate(state).valid)
            if competes and (self.best is None or losses[-1] < self.best.valid):
                self.best = snapshot(state.network, losses[-1])
        self.losses += losses
        return min(losses)

    def prune(self) -> None:
        """Remove what the pruner selects."""
        gone = self.strategy.pruner.remove(self.state.network.structure, self.state.network.ranking())
        self.changer.remove(self.state, gone, by="pruner", why="", seed=self.seed)

    def derive(self) -> None:
        """Decide what is left."""
        self.prune()
        network = self.state.network
        if not network.structure.decided:
            rest = self.strategy.backbone.derive(network.structure, network.mixing())
            self.changer.remove(self.state, rest, by="derive", why="", seed=self.seed)
        self.restart()

    def restart(self) -> None:
        """Begin anew where fresh weights are better, with the same alphas."""
        fresh = build(self.state.network.structure, self.seed, like=self.state.network)
        with torch.no_grad():
            for name, alpha in fresh.alphas.items():
                alpha.copy_(self.state.network.alphas[name])
        if (loss := self.changer.loss(fresh)) < self.changer.loss(self.state.network):
            self.changer.restore(self.state, snapshot(fresh, loss), kind="restart", why="")

    def restore(self) -> None:
        """Return to the best network; where that is no architecture, others are not compared with it."""
        self.changer.restore(self.state, self.best, kind="restore", why="")
        self.best = self.best if self.best.structure.decided else None

    def run(self, each_stage: bool) -> None:
        """Carry out the algorithm.

        Args:
            each_stage: whether to prune and tune at each stage, and not at the end alone.
        """
        least = math.inf
        for stage in range(GROWTHS + 1):
            valid = self.train("search", alphas=True, competes=not each_stage)
            if each_stage:
                self.prune()
                self.restart()
                if self.state.network.structure.decided and self.best is not None and not self.best.structure.decided:
                    self.best = None
                valid = self.train("tune", competes=True)
            if valid >= least or stage == GROWTHS:
                break
            least, growth = valid, self.strategy.growth[0]
            (proposal,) = TrainedNetwork(self.strategy, self.data, self.state).proposals(growth)
            self.changer.grow(self.state, growth, proposal, why="", seed=self.seed)
        self.restore()
        while not self.state.network.structure.decided:
            self.derive()
            self.train("retune", competes=True)
            self.restore()
        if [*self.state.network.gates()]:
            self.changer.fold(self.state, why="", seed=self.seed)


CASES: dict[str, dict[str, Any]] = {
    "one operation": {},
    "two operations and gates": {
        "pruner": Strongest(keep=2),
        "optimiser": Optimiser("sgd", 0.05, momentum=0.9),
        "growth": (NodeGrowth("gate"),),
    },
    # the grown network is no better, so that the search stops in the second stage
    "a loss that rises": {"optimiser": Optimiser("sgd", 1.0), "seed": 2},
}


@pytest.mark.parametrize(
    ("plan", "case"),
    [*itertools.product(("stage", "end"), CASES)]
    if FULL
    else [("stage", "two operations and gates"), ("end", "one operation"), ("stage", "a loss that rises")],
)
def test_the_plan_is_the_algorithm(plan: str, case: str) -> None:
    """Structures, validation losses, the number of updates and the weights are the same to the last bit."""
    strategy = toy_strategy(plan=plan, criterion=NoBetter() | Scripted(EPOCHS, GROWTHS), **CASES[case])
    search, plain = Search(strategy), Algorithm2(strategy)
    search.run()
    plain.run(each_stage=plan == "stage")

    def structures(lineage: list[Any]) -> list[str]:
        return [f"{r.change} {r.child}" for r in lineage if isinstance(r, Changed)]

    assert [r.valid for r in search.state.history if isinstance(r, EpochEnded)] == plain.losses
    assert structures(search.state.lineage) == structures(plain.state.lineage)
    assert search.state.updates == plain.state.updates
    assert all(torch.equal(t, plain.state.network.state_dict()[n]) for n, t in search.network.state_dict().items())
    assert search.state.stage == (1 if case == "a loss that rises" else GROWTHS)
