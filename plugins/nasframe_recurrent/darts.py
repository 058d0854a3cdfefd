"""The recurrent backbone of DARTS (Liu et al. 2019; Jie & Gao 2021, 2.1): each node on every node before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from nasframe import Cell, Operation, Site, choice, nested
from nasframe_recurrent.backbone import Recurrent, at, identity, operations_of, zero
from nasframe_recurrent.edges import IdentityEdge, ReluEdge, SigmoidEdge, TanhEdge, ZeroEdge


@attrs.frozen
class Darts(Recurrent):
    """Node j is the sum over i < j of the mixtures of o(node i), node 0 the mixture of o([x_t, h_{t-1}]) (Eq. 1).

    Operations are built with `inputs` (n_x + n_h at node 0, n_h behind it) and `hidden` (n_h).

    Args:
        output: h_t is the "last" node, as the growth of Jie & Gao asks (Eq. 17), or the "mean" of all nodes, as in DARTS.
        operations: the candidates of every edge.
    """

    name: ClassVar[str] = "darts_recurrent"
    inputs: ClassVar[tuple[str, ...]] = ("xh",)
    output: str = choice("last", "mean", default="last")
    operations: tuple[Operation, ...] = nested(
        "operation",
        default=(SigmoidEdge(), TanhEdge(), ReluEdge(), IdentityEdge(), ZeroEdge()),
        validator=operations_of(1),
    )

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """The last node, or all of them."""
        nodes = tuple(node.id for node in cell.nodes)
        return nodes if self.output == "mean" else nodes[-1:]

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """An edge from each node; from [x, h] to the first one."""
        return {f"{source}-{node}": (source,) for source in ([n.id for n in cell.nodes] or ["xh"])}

    def birth(self, cell: Cell, sites: Sequence[Site]) -> Mapping[str, Mapping[int, float]]:
        """The identity on what the cell puts out, a share of it for each where it puts out a mean, and zero on all else
        (Eqs. 17 to 19).
        """
        share = 1 / len(self.outputs(cell))
        births: dict[str, Mapping[int, float]] = {}
        for site in sites:
            wanted = (
                {identity(site): share, zero(site): 1 - share} if site.inputs[0] in self.outputs(cell) else {zero(site): 1.0}
            )
            weights = {id: weight for id, weight in wanted.items() if weight}
            if None in weights:
                return {}
            births[site.id] = at(site, {id: weight for id, weight in weights.items() if id is not None})
        return births
