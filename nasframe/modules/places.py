"""Where a model can grow, as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import nn

from nasframe.errors import ChangeError
from nasframe.modules.change import refuse_unsupported
from nasframe.modules.coupling import couple
from nasframe.modules.deepen import Deepen
from nasframe.modules.kernels import CropKernel, Dilate, PadKernel
from nasframe.modules.morphism import ModuleMorphism, Place
from nasframe.modules.narrow import Narrow
from nasframe.modules.paths import AddPath
from nasframe.modules.widen import Widen

#: the morphisms that come with nasframe; where one applies does not depend on the sizes that it is given
# `Unwrap` is left out: it removes layers, trained ones as well as those that a change has added, and is there to undo a change.
SHIPPED: tuple[ModuleMorphism, ...] = (
    Widen(to=1),
    Narrow(to=1),
    Deepen(),
    PadKernel(kernel=1),
    CropKernel(kernel=1),
    Dilate(),
    AddPath(),
)
#: the width of the table
COLUMNS = 120


@attrs.frozen
class Places:
    """The places of a model at which morphisms apply, also those at which they are refused.

    Printed, it is a table: the places of the first morphism with their sizes and notes or reasons, and for each other morphism the
    number and the first names of those places at which it is not refused. `places["deepen"]` prints those of one morphism in full.

    Attributes:
        places: for each morphism, by its name, its places.
    """

    places: Mapping[str, tuple[Place, ...]]

    def __iter__(self) -> Iterator[Place]:
        """Return the places of all morphisms, one after the other."""
        return (place for places in self.places.values() for place in places)

    def __getitem__(self, morphism: str) -> Places:
        """Return the places of one morphism.

        Raises:
            ChangeError: if it is not listed.
        """
        if morphism not in self.places:
            raise ChangeError(f"{morphism!r} is not listed; write one of {', '.join(map(repr, self.places))}")
        return Places({morphism: self.places[morphism]})

    def __str__(self) -> str:
        first, *others = self.places
        width = max((len(_name(place)) for place in self.places[first]), default=0)
        rows = [first]
        for place in self.places[first]:
            text = f"refused: {place.refusal}" if place.refusal is not None else place.note
            rows += _wrapped(f"  {_name(place):{width}}  {place.size:>6}  ", text)
        for morphism in others:
            names = dict.fromkeys(_name(place) for place in self.places[morphism] if place.refusal is None)
            refused = len({_name(place) for place in self.places[morphism]} - {*names})
            counts = f"{len(names)} place{'s' * (len(names) > 1)}" if names else "none"
            counts += f" ({refused} refused)" if refused else ""
            text = f"{counts}: {', '.join(names)}" if names else counts
            rows += _wrapped(f"{morphism:{max(map(len, others))}}  ", text, rows=2)
        return "\n".join(rows)


def _name(place: Place) -> str:
    return place.name or "(the model)"


def _wrapped(lead: str, text: str, rows: int | None = None) -> list[str]:
    indent = " " * len(lead)
    wrapped = textwrap.wrap(
        text, COLUMNS, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False, max_lines=rows, placeholder=" ..."
    )
    return wrapped or [lead.rstrip()]


def places(model: nn.Module, example: Any, morphisms: Sequence[ModuleMorphism] = SHIPPED) -> Places:
    """Return where a model can be changed, and why not elsewhere. Nothing is changed.

    A place that is listed as possible follows from the graph of the model alone. Whether a change is exact is measured when it is made.

    Args:
        model: any module that `torch.export` can trace.
        example: arguments with which the model can be called: a tensor, a tuple of them, or a dictionary of keyword arguments.
        morphisms: the morphisms whose places are listed; by default those that come with nasframe, without `Unwrap`.

    Raises:
        ChangeError: if the model cannot be traced, or would be refused at every place.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = places(model, torch.ones(5, 3))
        >>> print(found)
        widen
          0       4  replicate or zero
          2       2  refused: it is an axis of the model's output
        narrow       1 place (1 refused): 0
        deepen       3 places: 0, 1, 2
        pad_kernel   none
        crop_kernel  none
        dilate       none
        add_path     4 places: (the model), 0, 1, 2
        >>> print(found["deepen"])
        deepen
          0       4  followed by ReLU and Linear
          1       4  followed by Linear and ReLU
          2       2  followed by PReLU and Linear
    """
    refuse_unsupported(model)
    coupling = couple(model, example)
    return Places({morphism.name: tuple(morphism.places(coupling)) for morphism in morphisms})
