"""What the tests of widening and narrowing measure, written apart from the code that verifies changes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nasframe import Set, Take
from nasframe.change.claim import tolerance
from nasframe.modules.change import ModuleChange


def mlp(
    inputs: int, hidden: int, norm: nn.Module | None = None, activation: nn.Module | None = None, outputs: int = 2
) -> nn.Sequential:
    """Return a network with one hidden layer."""
    layers = [nn.Linear(inputs, hidden), norm, activation or nn.Tanh(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*(layer for layer in layers if layer is not None))


class Recurrent(nn.Module):
    """A recurrent network with a linear head."""

    def __init__(self, kind: Any, inputs: int, hidden: int, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(inputs, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden * (2 if self.rnn.bidirectional else 1), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def floats(outputs: Any) -> list[Tensor]:
    """Return the tensors of real numbers among the outputs of a model."""
    return [t for t in tree_leaves(outputs) if torch.is_tensor(t) and t.is_floating_point()]


def trained(model: nn.Module, example: tuple[Any, ...], steps: int = 3) -> nn.Module:
    """Return the model in float64 after a few steps, so that no tensor has the values of its initialisation."""
    model = model.double().train()
    for module in model.modules():  # dropout would differ between two networks
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # an initialisation at 0 or 1 would hide errors
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        sum((t - 1).square().mean() for t in floats(model(*example))).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model


def outputs(model: nn.Module, example: tuple[Any, ...], training: bool) -> list[Tensor]:
    """Return the outputs of a copy of the model in one mode."""
    with torch.no_grad():
        return floats(copy.deepcopy(model).train(training)(*example))


def check_equal(parent: nn.Module, child: nn.Module, example: tuple[Any, ...]) -> None:
    """Assert that two models compute the same in both modes, up to rounding."""
    for training in (False, True):
        for before, after in zip(outputs(parent, example, training), outputs(child, example, training), strict=True):
            assert float((before - after).abs().max()) <= tolerance(before), f"training={training}"


def gradients(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Tensor]:
    """Return the gradients of a random combination of the outputs, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(1)
    out = floats(model(*example))
    sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum() for t in out).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradient_error(parent: nn.Module, change: ModuleChange, example: tuple[Any, ...]) -> float:
    """Return how far the child's gradients are from those that the map states, relative to the largest of the tensor.

    A gradient that is nearly zero, such as that of a bias before a normalisation, is compared with the largest of the model.
    """
    before, worst = gradients(parent, example), 0.0
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in before.values())
    for name, found in gradients(change.model, example).items():
        entry = change.map.get(name, Take(name))
        assert not isinstance(entry, Set)
        stated = entry.gather(before[entry.source]) * entry.gradient
        new, zero = entry.new_entries(found)
        difference = torch.where(new | zero, 0.0, stated - found).abs().max()
        worst = max(worst, float(difference / found.abs().max().clamp(min=floor)))
    return worst


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=True).items()}


def storages(model: nn.Module) -> set[int]:
    """Return the storages of all tensors of a model."""
    return {t.untyped_storage().data_ptr() for t in model.state_dict().values() if t.numel()}
