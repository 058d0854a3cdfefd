"""The recurrent backbone of DARTS (Liu et al. 2019; Jie & Gao 2021, 2.1): every node has an edge from every node before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from nasframe import Cell, Operation
from nasframe.options import choice, nested
from nasframe.structure.editing import operations_validator
from nasframe_recurrent.backbone import Recurrent
from nasframe_recurrent.edges import IdentityEdge, ReluEdge, SigmoidEdge, TanhEdge, ZeroEdge


@attrs.frozen
class Darts(Recurrent):
    """Nodes with an edge from every node before them: node j is the sum over i < j of mixed operations of node i (Eq. 1).

    Node 0 is a mixed operation of [x_t, h_{t-1}]. The operations are built with `inputs` (n_x + n_h at node 0, n_h at the others)
    and `hidden` (n_h).

    Args:
        output: how h_t is made of the nodes. "last": the last node, as in Jie & Gao (Eq. 17); "mean": the mean of all nodes, as in
            the paper of DARTS; "later": the mean of all nodes but node 0, as in the published code of DARTS.
        operations: the candidates of every edge.
    """

    name: ClassVar[str] = "darts_recurrent"
    inputs: ClassVar[tuple[str, ...]] = ("x", "xh")
    output: str = choice("last", "mean", "later", default="last")
    operations: tuple[Operation, ...] = nested(
        "operation",
        default=(SigmoidEdge(), TanhEdge(), ReluEdge(), IdentityEdge(), ZeroEdge()),
        validator=operations_validator(1),
    )

    def outputs(self, cell: Cell) -> tuple[str, ...]:
        """Return the nodes whose mean is h_t; a cell with a single node outputs that node."""
        nodes = tuple(node.id for node in cell.nodes)
        return {"last": nodes[-1:], "mean": nodes, "later": nodes[1:] or nodes}[self.output]

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """Return one site for each node of the cell, or one for [x, h] at the first node."""
        return {f"{source}-{node}": (source,) for source in ([n.id for n in cell.nodes] or ["xh"])}
