"""The memory that a change of a module needs."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from module_zoo import build
from torch import nn
from torch.profiler import ProfilerActivity, profile

from nasframe import ModuleMorphism, Seed
from nasframe.modules.change import changed_copy
from nasframe.modules.coupling import couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.edits import named_tensors
from nasframe.modules.kernels import PadKernel
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.widen import Widen


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """Layers of which the large ones are the first and the last, so that no other tensor hides what they need."""
    layers = [nn.Conv2d(64, 96, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(96, 8, 3, bias=False)]
    torch.manual_seed(0)
    return nn.Sequential(*layers), torch.randn(2, 64, 6, 6)


@pytest.mark.parametrize(
    ("morphism", "at"),
    [
        (Widen(to=128), "0"),
        (Widen(to=300, skew=0.2), "0"),
        (Widen(to=300, form="zero"), "0"),
        (Narrow(to=60), "0"),
        (Deepen(), "0"),
        (PadKernel(9), "0"),
        (AddPath(32, "concatenate"), "0"),
    ],
    ids=str,
)
def test_a_change_needs_twice_its_largest_tensor(morphism: ModuleMorphism, at: str) -> None:
    """Beside parent and child, a change needs at most twice the memory of the largest tensor that changes."""
    model, example = convolutions()
    assert _excess(model, example, morphism, at) <= 2.01


def test_a_change_of_two_axes_needs_twice_its_largest_tensor() -> None:
    """The same is true where both axes of a matrix change, which are filled one after the other."""
    model, example = build("gpt")
    assert _excess(model, example, Widen(to=32), "wte") <= 2.1


def _excess(model: nn.Module, example: object, morphism: ModuleMorphism, at: str) -> float:
    """Return the most memory that copy and fill need beside the child, in multiples of the largest tensor that changes."""
    rewrite = morphism.rewrite(couple(model, example), at, Seed((0,)))  # type: ignore[arg-type]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        child = changed_copy(model, rewrite.edits, rewrite.map, Seed((0, "values")))
    # what PyTorch's allocator gave, and with a negative number what it got back
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    sizes = [e.nbytes() for e in events if e.name() == "[memory]"]
    before, after = named_tensors(model), named_tensors(child)
    assert sum(sizes) >= sum(t.nbytes for t in {id(t): t for t in after.values()}.values())
    changed = {
        n for n in before.keys() | after.keys() if n not in before or n not in after or before[n].shape != after[n].shape
    }
    largest = max(tensors[n].nbytes for tensors in (before, after) for n in changed & tensors.keys())
    return (max(accumulate(sizes)) - sum(sizes)) / largest
