"""Where a model can grow, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from torch import nn

from nasframe.modules.coupling import couple
from nasframe.modules.morphism import ModuleMorphism, Place
from nasframe.modules.widen import Widen


@attrs.frozen
class Places:
    """The places of a model at which morphisms apply, also those at which they are refused. Printed, it is a table.

    Attributes:
        places: for each morphism, by its name, its places.
    """

    places: dict[str, tuple[Place, ...]]

    def __iter__(self) -> Iterator[Place]:
        """Return the places of all morphisms, one after the other."""
        return (place for places in self.places.values() for place in places)

    def __str__(self) -> str:
        rows = []
        for morphism, places in self.places.items():
            width = max((len(place.name or "(the model)") for place in places), default=0)
            rows.append(morphism)
            for place in places:
                lead = f"  {place.name or '(the model)':{width}}  {place.size:>6}  "
                text = f"refused: {place.refusal}" if place.refusal is not None else place.note
                rows += textwrap.wrap(text, 120, initial_indent=lead, subsequent_indent=" " * len(lead)) or [lead.rstrip()]
        return "\n".join(rows)


def places(model: nn.Module, example: Any, morphisms: Sequence[ModuleMorphism] | None = None) -> Places:
    """Return where a model can grow, and why not elsewhere. Nothing is changed.

    A place that is listed as possible follows from the graph of the model alone. Whether a change is exact is measured when it is made.

    Args:
        model: any module that `torch.export` can trace.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        morphisms: the morphisms whose places are listed; by default those of `nasframe.widen`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> print(places(model, torch.ones(5, 3)))
        widen
          0       4  replicate or zero
          2       2  refused: it is an axis of the model's output
    """
    coupling = couple(model, example)
    # the size of a morphism that only lists its places does not matter
    listed = (Widen(to=1),) if morphisms is None else morphisms
    return Places({morphism.name: tuple(morphism.places(coupling)) for morphism in listed})
