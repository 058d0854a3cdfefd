"""The Two-to-One backbone (Jie & Gao 2021, 3.1): a chain of nodes, each a function of x_t and of the node before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from nasframe import Cell, Operation
from nasframe.options import nested
from nasframe.structure.editing import operations_validator
from nasframe_recurrent.backbone import Recurrent
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh


@attrs.frozen
class TwoToOne(Recurrent):
    """A chain of nodes with two inputs each: node j is a mixed operation of x_t and node j - 1, node 0 one of x_t and h_{t-1}.

    h_t is the last node (Eq. 12). The operations are built with `inputs` (n_x, or n_h above the first layer) and `hidden` (n_h).

    Args:
        operations: the candidates of every node.
    """

    name: ClassVar[str] = "two_to_one"
    inputs: ClassVar[tuple[str, ...]] = ("x", "h")
    operations: tuple[Operation, ...] = nested(
        "operation", default=(Sigmoid(), Tanh(), Relu(), Sum(), Prod()), validator=operations_validator(2)
    )

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """Return one site, whose inputs are x and the last node, or h at the first node."""
        return {node: ("x", cell.nodes[-1].id if cell.nodes else "h")}
