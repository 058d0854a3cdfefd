"""Evaluators with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch

from mutants.system import mutant, overriding
from nasframe import Seed, Structure
from nasframe.interfaces.evaluator import Outcome, Trained, Workbench
from nasframe.testing.subject import Subject

TRAIN = ("evaluator", "train")
Evaluate = Callable[[Structure, int, Seed, Trained | None, Workbench], Outcome]


def evaluating(of: Subject, change: Callable[[Evaluate, Structure, int, Seed, Trained | None, Workbench], Outcome]) -> Subject:
    """Return the evaluator whose outcome is change(evaluate, structure, budget, seed, parent, bench)."""
    honest: Any = of.cls

    def evaluate(self: Any, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench) -> Outcome:
        return change(lambda *given: honest.evaluate(self, *given), structure, budget, seed, parent, bench)

    return overriding(of, evaluate=evaluate)


@mutant("evaluator.outcome", *TRAIN)
def infinite(of: Subject) -> Subject:
    """The loss of a training that diverged is infinite."""

    def change(evaluate: Evaluate, *given: Any) -> Outcome:
        found = evaluate(*given)
        return attrs.evolve(found, valid=float("inf")) if found.valid is None else found

    return evaluating(of, change)


@mutant("evaluator.outcome", *TRAIN)
def some_tensors(of: Subject) -> Subject:
    """Only the first tensor of the network is returned."""

    def change(evaluate: Evaluate, *given: Any) -> Outcome:
        found = evaluate(*given)
        return attrs.evolve(found, tensors=dict([*found.tensors.items()][:1]))

    return evaluating(of, change)


@mutant("evaluator.budget", *TRAIN)
def warmed_up(of: Subject) -> Subject:
    """It trains twice, and reports the updates of the second training."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        network = bench.build(structure, seed("build"), parent)
        bench.train(network, budget, seed("warm"))
        return bench.train(network, budget, seed)

    return evaluating(of, change)


@mutant("evaluator.parent", *TRAIN)
def averaged(of: Subject) -> Subject:
    """The weights of the parent become the mean of its weights and those of its child."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        found = evaluate(structure, budget, seed, parent, bench)
        for name, tensor in found.tensors.items() if parent else ():
            if name in parent.tensors:
                parent.tensors[name].lerp_(tensor, 0.5)
        return found

    return evaluating(of, change)


@mutant("evaluator.start", *TRAIN)
def in_another_order(of: Subject) -> Subject:
    """A child of a parent is trained with another order of the examples."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        return bench.train(bench.build(structure, seed("build"), parent), budget, seed if parent is None else seed("child"))

    return evaluating(of, change)


@mutant("evaluator.test", *TRAIN)
def peeking(of: Subject) -> Subject:
    """The metrics of the test split are among the scores."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        found = evaluate(structure, budget, seed, parent, bench)
        network = bench.build(structure, seed).eval()
        return attrs.evolve(found, scores={**found.scores, "test": bench.data.mean_loss(network, bench.data.test)})

    return evaluating(of, change)


#: what the mutant below keeps: the weights of the last trial
LAST: list[Trained] = []


@mutant("part.repeatable", *TRAIN)
def continued(of: Subject) -> Subject:
    """A trial without a parent starts from the weights of the trial before."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        found = evaluate(structure, budget, seed, parent or next(iter(LAST), None), bench)
        LAST[:] = [Trained(structure, found.tensors)] if found.tensors else []
        return found

    return evaluating(of, change)


@mutant("part.globals", *TRAIN)
def global_generator(of: Subject) -> Subject:
    """It draws the initial weights from torch's global generator."""

    def change(
        evaluate: Evaluate, structure: Structure, budget: int, seed: Seed, parent: Trained | None, bench: Workbench
    ) -> Outcome:
        return evaluate(structure, budget, seed(int(torch.randint(9999, ()))), parent, bench)

    return evaluating(of, change)
