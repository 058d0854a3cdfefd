"""Which optimiser, as a value: torch's own, with the options that a strategy may set."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch.optim import Optimizer

from nasframe.change.optimisers import Named
from nasframe.part import choice, number


def _betas(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _two(instance: Any, attribute: Any, value: Any) -> None:
    if len(value) != 2 or not all(isinstance(b, int | float) and 0 <= b < 1 for b in value):
        raise ValueError(f"{attribute.name} is {value!r}; it must be two numbers of at least 0 and below 1")


@attrs.frozen
class Optimiser:
    """SGD with momentum, Adam or AdamW of torch. `momentum` is SGD's, `betas` are Adam's and AdamW's."""

    method: str = choice("adam", "adamw", "sgd", default="adam")
    learning_rate: float = number(1e-3, low=0.0)
    weight_decay: float = number(0.0, low=0.0)
    momentum: float = number(0.0, low=0.0, high=1.0)
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), converter=_betas, validator=_two)

    def build(self, named: Named) -> Optimizer:
        """The optimiser of these parameters."""
        parameters: Any = [{"params": [p for _, p in named]}]  # a group may be empty: an architecture has no logits
        common: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        if self.method == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, **common)
        adam = torch.optim.Adam if self.method == "adam" else torch.optim.AdamW
        return adam(parameters, betas=self.betas, **common)
