"""The interface of recipes: strategies with a name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from nasframe.interfaces.part import Part


class Recipe(Part):
    """A strategy by name, for `Strategy.named` and `nasframe search --strategy NAME`."""

    kind: ClassVar[str] = "strategy"

    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """The strategy's plain values, as a strategy file holds them; every part by its name."""
