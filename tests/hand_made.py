"""Changes of small models that are worked out by hand, so that the machinery of changes is tested without tracing a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from nasframe.change.claim import Claim
from nasframe.change.map import ZERO, Take
from nasframe.modules.change import ModuleChange, make
from nasframe.modules.edits import Resize, SetNumber
from nasframe.modules.morphism import ModuleMorphism, Place, Rewrite
from nasframe.options import number
from nasframe.seeds import Seed


@attrs.frozen
class ByHand(ModuleMorphism):
    """A morphism whose rewrite is given in a test."""

    name: ClassVar[str] = "by_hand"
    to: int = number(1, low=1, whole=True)

    def places(self, coupling: Any) -> Iterable[Place]:
        return []

    def rewrite(self, coupling: Any, at: str, seed: Seed) -> Rewrite:
        raise AssertionError("the rewrite is given")


def mlp(
    inputs: int = 3, hidden: int = 5, outputs: int = 2, *, norm: bool = False, dropout: float = 0.0, seed: int = 0
) -> nn.Sequential:
    """Return an MLP with the layers inner, norm (a BatchNorm, if wanted), tanh, dropout and outer, at float64."""
    with Seed((seed,)).as_global():
        layers: dict[str, nn.Module] = {"inner": nn.Linear(inputs, hidden)}
        if norm:
            layers["norm"] = nn.BatchNorm1d(hidden)
        layers |= {"tanh": nn.Tanh(), "dropout": nn.Dropout(dropout), "outer": nn.Linear(hidden, outputs)}
        return nn.Sequential(OrderedDict(layers)).double()


def batch(inputs: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(size, inputs, generator=Seed((seed, "batch")).generator(), dtype=torch.float64)


def regather(model: nn.Sequential, index: Sequence[int]) -> Rewrite:
    """Return the rewrite of an `mlp` that makes its hidden units those of `index`, where FRESH is a new unit.

    Copies of a unit share its outgoing weights equally, and the outgoing weights of a new unit are zero.
    """
    units, size = torch.tensor([*index]), len(index)
    share = torch.tensor([1 / max(1, [*index].count(unit)) if unit >= 0 else 1.0 for unit in index], dtype=torch.float64)
    entries: dict[str, Take] = {}
    edits: list[Any] = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name == "outer.weight":
            entries[name] = Take(name, (None, torch.where(units < 0, ZERO, units)), value=share)
            edits.append(Resize(name, (len(tensor), size)))
        elif name.startswith(("inner", "norm")) and tensor.dim():
            rest = [1] * (tensor.dim() - 1)
            entries[name] = Take(name, (units, *[None for _ in rest]), gradient=share.view(-1, *rest))
            edits.append(Resize(name, (size, *tensor.shape[1:])))
    for module, attribute in (("inner", "out_features"), ("norm", "num_features"), ("outer", "in_features")):
        if module in dict(model.named_children()):
            edits.append(SetNumber(module, attribute, size))
    return Rewrite(tuple(edits), entries, Claim.exact())


def changed(model: nn.Sequential, index: Sequence[int], **options: Any) -> ModuleChange:
    """Return the change of an `mlp` that makes its hidden units those of `index`."""
    return make(model, ByHand(len(index)), "inner", regather(model, index), batch(model.inner.in_features), **options)
