"""The interface of pruners: which candidates go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Set
from typing import ClassVar

import torch
from torch import Tensor

from nasframe.part import Part
from nasframe.structure import Site, Structure


class Pruner(Part):
    """Names the candidates that go; the core removes them, as a change like any other."""

    kind: ClassVar[str] = "pruner"

    @abstractmethod
    def remove(self, structure: Structure, weights: Mapping[str, Tensor]) -> Mapping[str, Set[int]]:
        """By site address, the ids of the candidates to remove, never all of a site.

        Args:
            weights: for each undecided site its candidates' weights, of shape (candidates,).
        """


def all_but_strongest(site: Site, weights: Tensor, keep: int = 1) -> Set[int]:
    """The ids of a site's candidates but the `keep` of most weight; among equals the earlier ones stay."""
    order = torch.argsort(weights, descending=True, stable=True).tolist()
    return {site.candidates[i].id for i in order[keep:]}
