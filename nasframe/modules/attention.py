"""The head size of attention: which rows of which weights compute queries and keys, and how they follow when it grows.

`scaled_dot_product_attention` divides q k^T by the root of the head size E, and so by another number for another E. With E' entries, the
scores stay as they are if the queries are multiplied by sqrt(E' / E).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from nasframe.change.map import ZERO, Take
from nasframe.modules.axes import Axis
from nasframe.modules.calls import operation
from nasframe.modules.coupling import Coupling
from nasframe.modules.units import Plan, Units, expand, takes

#: operations that move entries, and do not compute with them
MOVES = frozenset(
    {
        "alias",
        "chunk",
        "clone",
        "contiguous",
        "detach",
        "expand",
        "flatten",
        "getitem",
        "movedim",
        "narrow",
        "permute",
        "reshape",
    }
    | {"select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view"}
)

#: by the name of a tensor, which entries along its first axis compute something
Rows = Mapping[str, Tensor]


@attrs.frozen(eq=False)
class Scores:
    """The rows of weights and biases that compute the queries and the keys of all attentions that divide by the root of E."""

    queries: Rows
    keys: Rows


def scores(coupling: Coupling) -> Scores:
    """Return the rows that compute queries and keys, where nothing but moves of entries comes between."""
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for program in coupling.graphs.values():
        for node in program.graph.nodes:
            if operation(node) != "scaled_dot_product_attention":
                continue
            traced = [_rows(coupling, program, side) for side in node.args[:2]]
            # Both or none: a root that multiplies the queries of an attention whose keys are unknown could not be accounted
            # for.
            if None in traced:
                continue
            for rows, of in zip(found, traced, strict=True):
                for name, mask in (of or {}).items():
                    # One weight may compute the queries of several attentions, and each of the two graphs is read.
                    rows[name] = rows[name] | mask if name in rows else mask
    return Scores(*found)


def _rows(coupling: Coupling, program: ExportedProgram, node: Node) -> dict[str, Tensor] | None:
    """Return the rows of the weight and the bias of a linear layer that compute an activation, or None if something else does."""
    path: list[Node] = []
    # From the attention back to the layer. `path` has the moves in the order in which they are made.
    while operation(node) in MOVES:
        path.insert(0, node)
        node = node.all_input_nodes[0]
    if operation(node) != "linear":
        return None
    # The weight and the bias. One that the code computes from something else has no name, and then nothing is known of its
    # rows.
    held = [program.graph_signature.inputs_to_parameters.get(p.name) for p in node.args[1:] if isinstance(p, Node)]
    output = node.meta["val"]
    # the same moves of the numbers of the features show which of them arrive
    moved: dict[Node, Any] = {node: torch.arange(output.shape[-1]).expand(output.shape)}
    for move in path:
        args, kwargs = map_arg((move.args, move.kwargs), moved.__getitem__)
        moved[move] = move.target(*args, **kwargs)  # type: ignore[operator]
    mask = torch.zeros(output.shape[-1], dtype=torch.bool)
    mask[[*moved.values()][-1].unique()] = True
    first = {alias: name for name, aliases in coupling.aliases.items() for alias in aliases}
    return None if None in held else {first[name]: mask for name in held if name is not None}


def growing(coupling: Coupling) -> Coupling:
    """Return the coupling for a growth: head sizes whose queries can be multiplied by a factor count as free."""
    rows = scores(coupling) if coupling.scaled else Scores({}, {})

    def computed(atom: Axis, by: Rows) -> bool:
        return any(atom in coupling.axes[name][0].atoms() for name in by)

    # A row that computes a query and a key alike would multiply both by the root, and their product by its square.
    both = any(bool((mask & rows.keys[name]).any()) for name, mask in rows.queries.items() if name in rows.keys)
    free = {a for a in coupling.scaled if computed(a, rows.queries) and computed(a, rows.keys)} if not both else set()
    contracted = {atom: where for atom, where in coupling.contracted.items() if atom not in free}
    return attrs.evolve(coupling, contracted=contracted)


def rescaled(coupling: Coupling, plan: Plan, entries: Mapping[str, Take]) -> dict[str, Take]:
    """Return the entries of the map, in which queries and keys follow the growth of a head size.

    The product q k^T is a sum over the units of the head size. If units are copied, the copies of a query get shares, as outgoing
    weights do. If units are new, those of the keys are zero.

    Args:
        coupling: the coupling of the model.
        plan: the units of each atom that changes.
        entries: the entries without this.
    """
    result = dict(entries)
    rows = scores(coupling)
    for atom in (atom for atom in plan if atom in coupling.scaled):
        units = plan[atom]
        root = math.sqrt(len(units.index) / atom.size)
        # the row of which each row is a copy, or would be if new units were copies of the first one
        copied = {**plan, atom: Units.copied(units.index.clamp(min=0))}
        unshared = takes(coupling, copied)
        # The shares of this atom alone: those of others belong to the columns of what consumes them, which `takes` has done.
        shares = {**{a: Units.copied(u.index) for a, u in plan.items()}, atom: units}
        for name in (n for n in {**rows.queries, **rows.keys} if atom in coupling.axes[n][0].atoms()):
            axis, tensor, entry = coupling.axes[name][0], coupling.tensors[name], result[name]
            source, share = expand(axis, copied).index, expand(axis, shares).value
            query, key = (
                (source >= 0) & of[name][source.clamp(min=0)] if name in of else torch.zeros_like(source, dtype=torch.bool)
                for of in (rows.queries, rows.keys)
            )
            index = entry.index[0]
            assert index is not None
            # Fresh entries of the keys become zeros: the new summands of q k^T are then zero, whatever the new queries are.
            index = torch.where(key.to(index.device) & (index < 0), ZERO, index)
            column = [-1, *[1] * (tensor.dim() - 1)]
            # A query gets the root and its share of the product. A key stays; its gradient has the share already (`takes`).
            value = entry.value * torch.where(query, root * share, 1.0).view(column).to(tensor)
            # a query is multiplied by the root, and its product with a key is divided by it
            gradients = [torch.as_tensor(e.gradient).to(tensor) for e in (unshared[name], entry)]
            gradient = torch.where(query.view(column).to(tensor.device), gradients[0] / root, gradients[1])
            entry = attrs.evolve(entry, index=(index, *entry.index[1:]), value=value, gradient=gradient)
            result |= {alias: attrs.evolve(entry, source=alias) for alias in coupling.aliases[name]}
    return result
