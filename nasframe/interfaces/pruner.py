"""The interface of pruners, which select the candidates to remove."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Set
from typing import ClassVar

from torch import Tensor

from nasframe.interfaces.part import Part
from nasframe.search.context import Context
from nasframe.structure.address import Address
from nasframe.structure.structure import Candidate, Structure


class Pruner(Part):
    """Base class of pruners: they select the candidates to remove. The core removes them by a change of the network.

    A pruner first measures scores and then decides by them. What it measures is stored, so the decision can be repeated without data.

    Required: `name` and `remove`. Optional: `scores`, for a pruner that does not decide by the mixing weights.

    Example:
        A pruner that removes the weakest candidate of each undecided site::

            @attrs.frozen
            class Weakest(Pruner):
                name: ClassVar[str] = "weakest"

                def remove(self, structure, scores):
                    sites = [(a, s) for a, s in structure.sites() if not s.decided]
                    return {a: {s.candidates[int(scores[a].argmin())].id} for a, s in sites}
    """

    kind: ClassVar[str] = "pruner"

    def scores(self, context: Context) -> Mapping[str, Tensor]:
        """Return the scores of candidates, of shape (candidates,), by the address of their site; by default the ranking.

        The ranking of a relaxation is what its candidates are compared by (`Relaxation.ranking`), usually the mixing weights.

        Args:
            context: the search, which cannot be modified. What takes time is measured through `context.remember` or
                `context.loss`, so that it is not measured again after an interruption.
        """
        return context.ranking

    @abstractmethod
    def remove(self, structure: Structure, scores: Mapping[str, Tensor]) -> Mapping[Address, Set[int]]:
        """Return the ids of the candidates to remove, by the address of their site. They follow from the arguments alone.

        A node must keep at least one candidate. A site that loses all candidates is removed.

        Args:
            structure: the structure to prune.
            scores: the scores that `scores` returned, of shape (candidates,), by address. Random architectures of the space are
                derived from random scores of all undecided sites.
        """


def all_but_strongest(
    structure: Structure, mixing: Mapping[str, Tensor], keep: int = 1, distinct: bool = False
) -> Mapping[Address, Set[int]]:
    """Return the candidates to remove so that each node keeps its strongest operations (Liu et al. 2019, section 2.4).

    The strength of a candidate is its mixing weight; the candidate of a decided site has 1. A zero operation is kept only if its node
    has no other operation. Of equal candidates the earlier one is kept.

    Args:
        structure: the structure to prune.
        mixing: the mixing weights of each undecided site, by address.
        keep: the number k of operations that each node keeps (Jie & Gao 2021, section 3.2.3).
        distinct: whether they must be at different sites. If not, the best operation of each site comes before the second best of any
            site.

    Returns:
        The ids of the candidates to remove, by the address of their site.

    Example:
        >>> import torch
        >>> from nasframe.testing.fakes import Chain
        >>> structure = Chain().initial({"inputs": 3, "outputs": 1}, nodes=1)
        >>> all_but_strongest(structure, {"chain/n0": torch.tensor([0.3, 0.7])})
        {'chain/n0': {0}}
    """
    removed: dict[Address, Set[int]] = {}
    for node, _ in structure.nodes():
        sites = structure.sites_of(node)
        ranked: list[tuple[tuple[int, float], Candidate]] = []  # by (rank at the site, -weight): smaller is stronger
        zeros: list[tuple[float, Candidate]] = []
        for address, site in sites.items():
            weights = mixing[address].tolist() if address in mixing else [1.0]
            pairs = list(zip(weights, site.candidates, strict=True))
            zeros += [(weight, candidate) for weight, candidate in pairs if candidate.operation.zero]
            # Sorting is stable, so that of equal weights the earlier candidate comes first.
            others = sorted((p for p in pairs if not p[1].operation.zero), key=lambda pair: -pair[0])
            # The best operation of each site has rank 0 and comes first; all others compete by their weights alone.
            ranked += [((min(rank, 1), -weight), c) for rank, (weight, c) in enumerate(others[: 1 if distinct else None])]
        # by the pair alone, as candidates cannot be compared
        strongest = [c for _, c in sorted(ranked, key=lambda item: item[0])[:keep]]
        kept = {c.id for c in strongest or [max(zeros, key=lambda pair: pair[0])[1]]}
        removed |= {address: {c.id for c in site.candidates} - kept for address, site in sites.items()}
    return {address: ids for address, ids in removed.items() if ids}
