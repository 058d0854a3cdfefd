"""What every exact change of a module must fulfil, for the tests of the morphisms of modules."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nasframe import Seed, Set
from nasframe.modules.change import ModuleChange
from nasframe.modules.edits import edit_from_dict, edit_to_dict, named_tensors, replay
from nasframe.modules.example import Example
from nasframe.modules.verify import Means, gradient_distance, outputs


def step(model: nn.Module, example: Any, rate: float = 0.05) -> dict[str, Tensor]:
    """Make a step of gradient descent on a random linear function of the outputs and their squares; return the gradients."""
    with Seed(("step",)).as_global():
        model.zero_grad()
        out = Example.of(example).call(model)
        loss = (out * torch.randn_like(out)).mean() + out.square().mean()
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= rate * p.grad
    model.zero_grad()
    return gradients


def trained(model: nn.Module, example: Any, steps: int = 2) -> nn.Module:
    """Return the model after a few steps, so that nothing is at its initialisation."""
    for _ in range(steps):
        step(model.train(), example)
    return model


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that a change of it must leave as it is."""
    tensors = {name: (id(t), t.clone(), None if t.grad is None else t.grad.clone()) for name, t in named_tensors(model).items()}
    modules = {name: (id(m), m.training, len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    return {"tensors": tensors, "modules": modules}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two states are equal bit for bit."""
    if a["modules"] != b["modules"] or a["tensors"].keys() != b["tensors"].keys():
        return False
    pairs = ((a["tensors"][name], b["tensors"][name]) for name in a["tensors"])
    return all(x[0] == y[0] and torch.equal(x[1], y[1]) and (x[2] is None) == (y[2] is None) for x, y in pairs)


def require_exact(change: ModuleChange, example: Any, within: float = 1e-12) -> None:
    """A change is exact in both modes, its gradients follow the map, and its edits alone rebuild the shapes of the child."""
    given = Example.of(example)
    parent, child = change.parent, change.model
    assert change.claim.kind == "exact"
    assert change.distances.eval <= within
    assert change.distances.train <= within
    for training in (False, True):
        assert gradient_distance(parent, child, change.map, given, training) <= 1e-7
    storages = {t.untyped_storage().data_ptr() for t in named_tensors(parent).values() if t.numel()}
    assert not storages & {t.untyped_storage().data_ptr() for t in named_tensors(child).values() if t.numel()}
    edits = [edit_from_dict(json.loads(json.dumps(edit_to_dict(edit), allow_nan=False))) for edit in change.edits]
    rebuilt = replay(copy.deepcopy(parent), edits, Seed((7,)))
    rebuilt.load_state_dict(child.state_dict())
    for training in (False, True):
        pairs = zip(outputs(child, given, training), outputs(rebuilt, given, training), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def new_parameters(change: ModuleChange) -> list[str]:
    """The parameters of the child that no parameter of the parent fills."""
    before = named_tensors(change.parent)
    entries = change.map
    return [
        n
        for n, _ in change.model.named_parameters()
        if isinstance(entries.get(n), Set) or (n not in entries and n not in before)
    ]


def without_gradient(change: ModuleChange, example: Any, within: int = 2) -> list[str]:
    """The new parameters that get no gradient but zeros within a few steps."""
    child = copy.deepcopy(change.model).train()
    waiting = dict.fromkeys(new_parameters(change))
    with Means():  # stochastic depth may drop a new block
        for _ in range(within):
            for name, gradient in step(child, example).items():
                if name in waiting and bool(gradient.abs().max() > 0):
                    del waiting[name]
    return [*waiting]


def require_learning(change: ModuleChange, example: Any, within: int = 2) -> None:
    """Every new parameter gets a gradient that is not zero within a few steps."""
    assert new_parameters(change)
    assert without_gradient(change, example, within) == []


def untouched(model: nn.Module, make: Callable[[], ModuleChange]) -> ModuleChange:
    """Return the change, after a check that making it leaves the model and the global generator as they are."""
    before, generator = state(model), torch.get_rng_state()
    change = make()
    assert torch.equal(generator, torch.get_rng_state())
    assert same(before, state(model))
    return change
