"""The recurrent backbone of DARTS (Liu et al. 2019; Jie & Gao 2021, 2.1): each node on every node before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from nasframe import Cell, Operation, choice, nested
from nasframe.structure.editing import operations_validator
from nasframe_recurrent.backbone import Recurrent
from nasframe_recurrent.edges import IdentityEdge, ReluEdge, SigmoidEdge, TanhEdge, ZeroEdge


@attrs.frozen
class Darts(Recurrent):
    """Node j is the sum over i < j of the mixtures of o(node i), node 0 the mixture of o([x_t, h_{t-1}]) (Eq. 1).

    Operations are built with `inputs` (n_x + n_h at node 0, n_h behind it) and `hidden` (n_h).

    Args:
        output: h_t is the "last" node, as the growth of Jie & Gao asks (Eq. 17), the "mean" of all nodes, as in DARTS, or the
            mean of the "later" ones, all but node 0, as in the code that was published with DARTS.
        operations: the candidates of every edge.
    """

    name: ClassVar[str] = "darts_recurrent"
    inputs: ClassVar[tuple[str, ...]] = ("xh",)
    output: str = choice("last", "mean", "later", default="last")
    operations: tuple[Operation, ...] = nested(
        "operation",
        default=(SigmoidEdge(), TanhEdge(), ReluEdge(), IdentityEdge(), ZeroEdge()),
        validator=operations_validator(1),
    )

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """The last node, all of them, or all but the first; of one node that node."""
        nodes = tuple(node.id for node in cell.nodes)
        return {"last": nodes[-1:], "mean": nodes, "later": nodes[1:] or nodes}[self.output]

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """An edge from each node; from [x, h] to the first one."""
        return {f"{source}-{node}": (source,) for source in ([n.id for n in cell.nodes] or ["xh"])}
