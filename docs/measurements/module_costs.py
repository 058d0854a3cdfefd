"""Measure what a change of a module costs: the seconds and the memory of copy and fill, of tracing and of verification.

    PYTHONPATH=tests python docs/measurements/module_costs.py

Models of torchvision of growing size are widened by a third at the place with the most numbers that change. In each round, every model
makes a training step (8 images of 224 x 224 pixels, SGD), copy and fill, a trace (two exports and their reading), and a verification (in
two modes, on the images of the step). The medians over the rounds are printed, with the number of bytes that copy and fill need at most
beyond the child, in multiples of the largest tensor that changes, as PyTorch's allocator counts them. They are also counted for every
morphism on the first model. The seconds are those of the processor, with one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import attrs
import module_zoo
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from nasframe import ModuleMorphism, Seed
from nasframe.errors import ChangeError
from nasframe.modules.change import changed_copy
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.edits import named_tensors
from nasframe.modules.kernels import PadKernel
from nasframe.modules.morphism import Rewrite
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.units import places_of
from nasframe.modules.verify import distances
from nasframe.modules.widen import Widen

MODELS = ("squeezenet1_1", "mobilenet_v2", "resnet18", "resnet50", "resnet101", "resnet152", "vgg16")


def peak(model: nn.Module, rewrite: Rewrite) -> float:
    """Return the most bytes that copy and fill need beyond the child, in multiples of the largest tensor that changes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        child = changed_copy(model, rewrite.edits, rewrite.map, Seed((0, "values")))
    events = profiler.profiler.kineto_results.events()
    # what PyTorch's allocator has given, and with a negative number what it got back
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    before, after = named_tensors(model), named_tensors(child)
    changed = {
        n for n in before.keys() | after.keys() if n not in before or n not in after or before[n].shape != after[n].shape
    }
    largest = max(tensors[n].nbytes for tensors in (before, after) for n in changed & tensors.keys())
    return (max(accumulate(sizes)) - sum(sizes)) / largest


@attrs.define(eq=False)
class Case:
    """A model, what is done to it, and the seconds that were measured."""

    name: str
    model: nn.Module
    example: tuple[Tensor]
    coupling: Coupling
    rewrite: Rewrite
    seconds: dict[str, list[float]] = attrs.field(factory=dict)

    @classmethod
    def make(cls, name: str) -> Case:
        """Return the case of a model of torchvision."""
        model, _ = module_zoo.vision(name, dtype=torch.float32)
        example = (torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)
        # a smaller example gives the same axes
        coupling = couple(model, (example[0][:2, :, :64, :64],))
        found = []
        for place, factor in places_of(coupling):
            if place.refusal is None:
                try:
                    widen = Widen(to=place.size + place.size // 3, factor=factor or 0)
                    found.append(widen.rewrite(coupling, place.name, Seed((0,))))
                except ChangeError:
                    continue
        rewrite = max(found, key=lambda r: sum(coupling.tensors[n].numel() for n in r.map if n in coupling.tensors))
        return cls(name, model, example, coupling, rewrite)

    def changed(self) -> int:
        """Return how many numbers of the parent change their place."""
        return sum(self.coupling.tensors[n].numel() for n in self.rewrite.map if n in self.coupling.tensors)

    def round(self) -> None:
        """Measure each phase once."""
        labels, optimiser = torch.zeros(8, dtype=torch.long), torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)

        def step() -> None:
            optimiser.zero_grad()
            nn.functional.cross_entropy(self.model.train()(*self.example), labels).backward()
            optimiser.step()

        child: list[nn.Module] = []
        self.measure("step", step)
        optimiser.zero_grad()
        self.measure(
            "copy and fill", lambda: child.append(changed_copy(self.model, self.rewrite.edits, self.rewrite.map, Seed((0,))))
        )
        self.measure("trace", lambda: couple(self.model, self.example))
        self.measure(
            "verify", lambda: distances(self.model, child[0], self.coupling.example.of(self.example), self.rewrite.claim)
        )

    def measure(self, phase: str, call: Callable[[], Any]) -> None:
        """Add the seconds of a phase."""
        start = time.process_time()
        call()
        self.seconds.setdefault(phase, []).append(time.process_time() - start)

    def row(self) -> str:
        """Return the row of the table."""
        parameters = sum(p.numel() for p in self.model.parameters())
        medians = {phase: statistics.median(values) for phase, values in self.seconds.items()}
        ratio = medians["copy and fill"] / medians["step"]
        cells = [
            self.name,
            f"{parameters / 1e6:.1f}",
            f"{self.changed() / 1e6:.1f}",
            *(f"{medians[phase]:.3f}" for phase in ("step", "copy and fill", "trace", "verify")),
            f"{ratio:.3f}",
            f"{1e9 * medians['copy and fill'] / parameters:.1f}",
            f"{peak(self.model, self.rewrite):.2f}",
        ]
        return f"| {' | '.join(cells)} |"


def memory(coupling: Coupling) -> None:
    """Print the bytes of copy and fill for each morphism, at the place where they exceed those of the child the most."""
    print("\n| morphism | places | largest excess | at |\n| --- | --- | --- | --- |")
    units = [(place, factor or 0) for place, factor in places_of(coupling) if place.refusal is None]
    attempts: dict[str, list[tuple[str, ModuleMorphism]]] = {
        "widen, replicate": [(p.name, Widen(to=p.size + p.size // 3, factor=f)) for p, f in units],
        "widen, skew": [(p.name, Widen(to=p.size + p.size // 3, skew=0.2, factor=f)) for p, f in units],
        "widen, zero": [(p.name, Widen(to=p.size + p.size // 3, form="zero", factor=f)) for p, f in units],
        "narrow": [(p.name, Narrow(to=p.size - p.size // 3, factor=f)) for p, f in units],
    }
    for label, morphism in {
        "deepen": Deepen(),
        "pad_kernel to 9": PadKernel(9),
        "add_path, a sum": AddPath(8),
        "add_path, concatenated": AddPath(8, "concatenate"),
    }.items():
        attempts[label] = [(p.name, morphism) for p in morphism.places(coupling) if p.refusal is None]
    for label, listed in attempts.items():
        found = []
        for at, morphism in listed:
            try:
                found.append((peak(coupling.model, morphism.rewrite(coupling, at, Seed((0,)))), at))
            except ChangeError:
                continue
        print(f"| {label} | {len(found)} | {max(found)[0]:.2f} | {max(found)[1]} |", flush=True)


def main() -> None:
    """Print a row for each model, and one for each morphism."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = [Case.make(name) for name in options.models]
    for _ in range(options.rounds):
        for case in cases:
            case.round()
    heads = ["model", "million parameters", "of them changed", "step", "copy and fill", "trace", "verify"]
    print(f"| {' | '.join([*heads, 'fill / step', 'ns per parameter', 'excess'])} |\n{'| --- ' * 10}|")
    for case in cases:
        print(case.row(), flush=True)
    memory(cases[0].coupling)


if __name__ == "__main__":
    main()
