"""Measure what a change of a module costs: the seconds and the memory of copy and fill, of tracing and of verification.

    PYTHONPATH=tests python docs/measurements/module_costs.py

Models of torchvision of growing size are widened by a third at the place where the most numbers change. In each round, the map is worked
out for every model, and the model copied and filled; for the model of `STEP` there is also a training step (8 images of 224 x 224
pixels, SGD), a trace (two exports and their reading) and a verification (in two modes), all on the images of the step. The medians over
the rounds are printed, and the most bytes that copy and fill need beyond the child, in multiples of the largest tensor that changes, as
PyTorch's allocator counts them. They are also counted for every morphism, at all places of the model of `STEP`. The seconds are those of
the processor, with one thread.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import statistics
import time
import warnings
from collections.abc import Iterator
from itertools import accumulate

import attrs
import module_zoo
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nasframe import ModuleMorphism, Seed
from nasframe.errors import ChangeError
from nasframe.modules.change import changed_copy
from nasframe.modules.coupling import Coupling, couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.edits import named_tensors
from nasframe.modules.example import Example
from nasframe.modules.kernels import PadKernel
from nasframe.modules.morphism import Rewrite
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.units import places_of
from nasframe.modules.verify import distances
from nasframe.modules.widen import Widen

STEP = "resnet18"
MODELS = ("squeezenet1_1", "mobilenet_v2", "resnet18", "resnet50", "resnet101", "resnet152", "vgg16")


def peak(model: nn.Module, rewrite: Rewrite) -> float:
    """Return the most bytes that copy and fill need beyond the child, in multiples of the largest tensor that changes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        child = changed_copy(model, rewrite.edits, rewrite.map, Seed((0, "values")))
    events = profiler.profiler.kineto_results.events()
    # the bytes of each allocation by PyTorch, negative where memory is freed
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"]
    before, after = named_tensors(model), named_tensors(child)
    changed = {
        n for n in before.keys() | after.keys() if n not in before or n not in after or before[n].shape != after[n].shape
    }
    largest = max(tensors[n].nbytes for tensors in (before, after) for n in changed & tensors.keys())
    return (max(accumulate(sizes)) - sum(sizes)) / largest


@attrs.define(eq=False)
class Case:
    """A model, how it is widened, and the seconds that were measured."""

    name: str
    model: nn.Module
    coupling: Coupling
    at: str
    widen: Widen
    rewrite: Rewrite
    seconds: dict[str, list[float]] = attrs.field(factory=lambda: collections.defaultdict(list))

    @classmethod
    def make(cls, name: str) -> Case:
        """Return the case of a model of torchvision."""
        model, example = module_zoo.vision(name, dtype=torch.float32, size=64)
        coupling = couple(model, example)
        cases = []
        for place, factor in places_of(coupling):
            if place.refusal is None:
                widen = Widen(to=place.size + place.size // 3, factor=factor or 0)
                with contextlib.suppress(ChangeError):
                    cases.append(cls(name, model, coupling, place.name, widen, widen.rewrite(coupling, place.name, Seed((0,)))))
        return max(cases, key=lambda case: case.changed())

    def changed(self) -> int:
        """Return how many numbers the tensors of the model have that change."""
        return sum(self.coupling.tensors[name].numel() for name in self.rewrite.map if name in self.coupling.tensors)

    def round(self) -> None:
        """Measure each phase once."""
        with self.measured("work out the map"):
            self.widen.rewrite(self.coupling, self.at, Seed((0,)))
        with self.measured("copy and fill"):
            child = changed_copy(self.model, self.rewrite.edits, self.rewrite.map, Seed((0,)))
        if self.name != STEP:
            return
        images, labels = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)), torch.arange(8)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        with self.measured("training step"):
            nn.functional.cross_entropy(self.model.train()(images), labels).backward()
            optimizer.step()
        optimizer.zero_grad()
        with self.measured("trace"):
            couple(self.model, images)
        # the child of the model after its step
        child = changed_copy(self.model, self.rewrite.edits, self.rewrite.map, Seed((0,)))
        with self.measured("verify"):
            distances(self.model, child, Example.of(images), self.rewrite.claim)

    @contextlib.contextmanager
    def measured(self, phase: str) -> Iterator[None]:
        """Add the seconds of a phase."""
        start = time.process_time()
        yield
        self.seconds[phase].append(time.process_time() - start)

    def row(self) -> str:
        """Return the row of the table."""
        parameters = sum(p.numel() for p in self.model.parameters())
        plan, filled = (statistics.median(self.seconds[phase]) for phase in ("work out the map", "copy and fill"))
        cells = [
            self.name,
            self.at,
            f"{parameters / 1e6:.1f}",
            f"{self.changed() / 1e6:.1f}",
            f"{plan:.3f}",
            f"{filled:.3f}",
            f"{1e9 * filled / parameters:.1f}",
            f"{peak(self.model, self.rewrite):.2f}",
        ]
        return f"| {' | '.join(cells)} |"


def memory(coupling: Coupling) -> None:
    """Print the bytes of copy and fill for each morphism, at the place where they exceed those of the child the most."""
    print("\n| morphism | places | memory | at |\n| --- | --- | --- | --- |")
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
    """Print a row for each model, one for each phase, and one for each morphism."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = [Case.make(name) for name in options.models]
    for _ in range(options.rounds):
        for case in cases:
            case.round()
    heads = ["model", "widened at", "million parameters", "of them in tensors that change", "work out the map", "copy and fill"]
    print(f"| {' | '.join([*heads, 'ns per parameter', 'memory'])} |\n{'| --- ' * 8}|")
    for case in cases:
        print(case.row(), flush=True)
    full = next(case for case in cases if case.name == STEP)
    step = statistics.median(full.seconds["training step"])
    print("\n| phase | median | least | most | of a step |\n| --- | --- | --- | --- | --- |")
    for phase, values in full.seconds.items():
        median = statistics.median(values)
        print(f"| {phase} | {median:.3f} | {min(values):.3f} | {max(values):.3f} | {median / step:.3f} |", flush=True)
    memory(full.coupling)


if __name__ == "__main__":
    main()
