"""The Two-to-One backbone (Jie & Gao 2021, 3.1): a chain of nodes, each on the cell's input and the node before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from nasframe import Cell, Operation, nested
from nasframe.structure.editing import operations_validator
from nasframe_recurrent.backbone import Recurrent
from nasframe_recurrent.operations import Prod, Relu, Sigmoid, Sum, Tanh


@attrs.frozen
class TwoToOne(Recurrent):
    """Node j is the mixture of o(x_t, node j - 1), node 0 of o(x_t, h_{t-1}); h_t is the last node (Eq. 12).

    Operations are built with `inputs` (n_x, or n_h above the first layer) and `hidden` (n_h).

    Args:
        operations: the candidates of every node.
    """

    name: ClassVar[str] = "two_to_one"
    inputs: ClassVar[tuple[str, ...]] = ("x", "h")
    operations: tuple[Operation, ...] = nested(
        "operation", default=(Sigmoid(), Tanh(), Relu(), Sum(), Prod()), validator=operations_validator(2)
    )

    def wiring(self, cell: Cell, node: str) -> Mapping[str, tuple[str, ...]]:
        """One site, on x and the node before."""
        return {node: ("x", cell.nodes[-1].id if cell.nodes else "h")}
