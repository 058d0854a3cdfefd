"""A morphism of a third party that measures: it grows where the gradients on training batches are largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from hypothesis import strategies as st
from nasframe_growing import NodeGrowth
from torch import Tensor

from nasframe import Address, Context, Edit, Morphism, Proposal, Seed, Structure
from nasframe.options import nested, number
from nasframe.plugins import Plugin
from nasframe.testing.examples import Examples


@attrs.frozen
class SteepestGrowth(Morphism):
    """Add a node to the cell type whose weights have the largest mean squared gradient on some training batches.

    Args:
        batches: the number of training batches.
        growth: adds the node.
    """

    name: ClassVar[str] = "steepest"
    batches: int = number(2, low=1, whole=True)
    growth: NodeGrowth = nested("morphism", default=NodeGrowth("gate"))

    def admits(self, structure: Structure) -> bool:
        """Return whether a node can be added."""
        return self.growth.admits(structure)

    def propose(self, context: Context, structure: Structure) -> Sequence[Proposal]:
        """Return the growth of each cell type, with the mean squared gradient of its weights as the gain."""
        types = [type for type, _ in context.structure.cells]
        gains = context.remember("squared gradients", lambda: self._squares(context, types)).tolist()
        found = dict(zip(types, gains, strict=True))
        return [attrs.evolve(p, gain=found[p.request["cell"]]) for p in self.growth.propose(context, structure)]

    def _squares(self, context: Context, types: Sequence[str]) -> Tensor:
        problems = [context.problem(number) for number in range(self.batches)]
        loss = torch.stack([p.train(p.weights, p.alphas) for p in problems]).mean()
        gradients = dict(
            zip(w := problems[0].weights, torch.autograd.grad(loss, [*w.values()], materialize_grads=True), strict=True)
        )
        means = []
        for type in types:
            addresses = [a for a, _ in context.structure.sites() if Address(a).cell == type]
            prefixes = tuple(f"{name}." for a in addresses for name, _ in context.network.mixed_operations(a))
            squares = [g.square().flatten() for name, g in gradients.items() if name.startswith(prefixes)]
            means.append(torch.cat(squares).mean() if squares else loss.new_zeros(()))
        return torch.stack(means)

    def edit(self, structure: Structure, request: Mapping[str, Any], evidence: Mapping[str, Tensor], seed: Seed) -> Edit:
        """Return the edit that adds the node."""
        return self.growth.edit(structure, request, evidence, seed)


EXAMPLES = Examples(parts={SteepestGrowth: st.builds(SteepestGrowth, st.integers(1, 2))})
PLUGIN = Plugin("steepest", "tests", "0", (SteepestGrowth,))
