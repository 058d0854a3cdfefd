"""The interface of recipes, strategies that a plugin registers under a name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from nasframe.interfaces.part import Part


class Recipe(Part):
    """A strategy with a name, for `Strategy.named(NAME)` and `nasframe search --strategy NAME`.

    Required: `name` and `values`. The recipe named "default" is the strategy of a search without `--strategy`.
    """

    kind: ClassVar[str] = "strategy"

    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """Return the plain values of the strategy, as in a strategy file: a part is a table with its name and options."""
