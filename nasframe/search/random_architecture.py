"""Random architectures: the baseline that a search has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nasframe.interfaces.backbone import Backbone
from nasframe.search.strategy import Strategy
from nasframe.seeds import Seed
from nasframe.structure.editing import remove_from
from nasframe.structure.structure import Structure


def random_architecture(strategy: Strategy, structure: Structure, seed: Seed) -> Structure:
    """Return a random architecture of a supernet.

    The mixing weights of each site are drawn uniformly from the simplex, and the strategy's pruner and the structure's backbone
    derive the architecture from them as they do at the end of a search.

    Args:
        strategy: gives the pruner.
        structure: the structure of the supernet.
        seed: the seed of the mixing weights.
    """
    # of independent exponentials any choice, over its sum, is uniform on its simplex: so the weights of what is left are, too
    draws = torch.empty(structure.next_id, dtype=torch.float64).exponential_(generator=seed.generator())
    # the same draws serve both steps: a candidate keeps its weight relative to the others of its site
    pruned = remove_from(structure, strategy.pruner.remove(structure, _weights(structure, draws)))
    if pruned.decided:
        return pruned
    assert isinstance(pruned.backbone, Backbone)
    return remove_from(pruned, pruned.backbone.derive(pruned, _weights(pruned, draws)))


def _weights(structure: Structure, draws: Tensor) -> Mapping[str, Tensor]:
    # One draw for each id, whatever sites there are.
    chosen = {a: draws[[c.id for c in s.candidates]] for a, s in structure.sites() if not s.decided}
    return {address: each / each.sum() for address, each in chosen.items()}
